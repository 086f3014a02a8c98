"""A work directory of several stages: taken over whole, told apart, moved, damaged, sampled."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from gen_jax.errors import CheckpointError
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.files import load_config
from gen_jax.launch.runs.restore import load_weights
from gen_jax.launch.runs.resume import _check_stages
from gen_jax.train.checkpoint import read_meta

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


def train(config, workdir, *flags):
    return main(
        ["train", "--config", f"configs/{config}.py:tiny", "--workdir", str(workdir), *flags]
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """Train CLIP, a prior over it, and a decoder over both; then take the originals away."""
    folder = tmp_path_factory.mktemp("system")
    clip, prior, whole = (folder / name for name in ("clip", "prior", "whole"))
    assert train("clip_scenes", clip) == 0
    assert train("unclip_prior_scenes", prior, f"--config.stages.clip={clip}") == 0
    named = [f"--config.stages.{name}={clip}" for name in ("clip", "text")]
    named.append(f"--config.stages.prior={prior}")
    assert train("unclip_scenes", whole, *named) == 0
    shutil.move(clip, folder / "another_clip")
    shutil.rmtree(prior)
    return whole, named


def sample(workdir, out, *flags):
    line = ["sample", "--workdir", str(workdir), "--num", "3", "--steps=2", "--out", str(out)]
    return main([*line, "--prior_steps=2", "--prompt", "a red circle", *flags])


def test_a_work_directory_holds_its_stages_and_goes_on_without_the_originals(
    system, tmp_path, capsys
):
    whole, named = system
    assert sample(whole, tmp_path / "a.npz") == 0
    moved = tmp_path / "moved"
    shutil.copytree(whole, moved)
    assert sample(moved, tmp_path / "b.npz") == 0
    first, second = (np.load(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(first["images"], second["images"])
    assert list(first["prompts"]) == ["a red circle"] * 3
    capsys.readouterr()
    assert train("unclip_scenes", moved, *named, "--config.train.steps=3") == 0
    assert "resuming at step 2" in capsys.readouterr().out
    config = json.loads((moved / "config.json").read_text())
    assert config["text"]["tokenizer"] == "words"  # as CLIP's
    assert load_weights(moved / "prior").config["family"] == "embedding_prior"
    # The optimizer has nothing of what is frozen.
    saved = load_weights(moved)
    assert set(saved.weights.params["net"]) == {"network"}
    assert set(saved.experiment.frozen) == {"text", "clip"}


def test_digests_tell_stages_apart_and_a_damaged_one_is_named(system, tmp_path, capsys):
    whole, _ = system
    digests = read_meta(whole / "checkpoints", 2)["stages"]
    assert digests["clip"] == digests["text"] == load_weights(whole / "clip").digest

    _check_stages({"stages": digests}, digests)
    with pytest.raises(CheckpointError, match="stages.clip: what is in the work directory is not"):
        _check_stages({"stages": digests}, {**digests, "clip": "another"})

    for name in ("prior", "text"):
        broken = tmp_path / f"broken_{name}"
        shutil.copytree(whole, broken)
        shutil.rmtree(broken / name / "checkpoints")
        assert sample(broken, tmp_path / "c.npz") == 4
        assert f"{broken / name}: no checkpoint" in capsys.readouterr().err


def test_what_cannot_be_a_stage_is_refused(system, tmp_path, capsys):
    whole, _ = system
    cases = (
        ("unclip_prior_scenes", ["clip=" + str(whole)], "family 'diffusion'; 'clip' is required"),
        ("unclip_prior_scenes", ["clip="], "stages.clip: got ''"),
        ("cascade_scenes", [f"base={whole}"], "is of images of (16, 16, 3)"),
        ("text_scenes", [f"prior={whole}"], "stages.clip is required with it"),
        ("text_scenes", [f"base={whole}"], "model.low_res_factor is required with it"),
    )
    for config, named, message in cases:
        flags = [f"--config.stages.{line}" for line in named]
        flags += ["--config.data.shape=(16,16,3)"] if config == "cascade_scenes" else []
        flags += ["--config.data.source=scenes:16x16x3"] if config == "cascade_scenes" else []
        assert train(config, tmp_path / "refused", *flags) in (2, 4), config
        assert message in capsys.readouterr().err, (config, named)
    assert load_config("latent_mnist", ["stages.codec=a"])["stage1"] == "a"


def test_images_may_stand_in_for_the_prior(system, tmp_path, capsys):
    whole, _ = system
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    like = ["--like", str(tmp_path / "x.npz")]
    assert sample(whole, tmp_path / "a.png", *like) == 0
    texts = ["--toward", "a blue circle", "--away", "a red circle"]
    assert sample(whole, tmp_path / "b.png", *like, *texts, "--mix=0.3") == 0
    capsys.readouterr()
    assert sample(whole, tmp_path / "c.png", *like, "--mix=0.3") == 2
    assert "--mix: --like_to, or --toward and --away" in capsys.readouterr().err


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    assert train("stills_scenes", folder / "stills") == 0
    stage = f"--config.stages.image={folder / 'stills'}"
    assert train("video_scenes", folder / "video", stage) == 0
    return folder / "video"


def test_films_are_trained_beside_frozen_stills_and_written_as_films(film, tmp_path, capsys):
    line = ["sample", "--workdir", str(film), "--num", "2", "--steps=2"]
    line += ["--prompt", "a red circle moves left"]
    assert main([*line, "--out", str(tmp_path / "a.gif")]) == 0
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames >= 2  # equal ones are joined
    assert main([*line, "--out", str(tmp_path / "a.npz")]) == 0
    films = np.load(tmp_path / "a.npz")["images"]
    assert films.shape == (2, 3, 16, 16, 3)
    # Frames that are known are kept, and the others made to go with them.
    np.savez(tmp_path / "mask.npz", mask=np.array([1, 0, 1]))
    kept = ["--image", str(tmp_path / "a.npz"), "--mask", str(tmp_path / "mask.npz")]
    assert main([*line, *kept, "--seed=1", "--out", str(tmp_path / "b.npz")]) == 0
    made = np.load(tmp_path / "b.npz")["images"]
    np.testing.assert_array_equal(made[:, ::2], films[:, ::2])
    assert (made[:, 1] != films[:, 1]).any()

    saved, image = load_weights(film), load_weights(film / "image")
    trained = jax.tree_util.tree_flatten_with_path(saved.weights.params)[0]
    assert all("temporal" in jax.tree_util.keystr(path) for path, _ in trained)
    for ours, theirs in zip(
        jax.tree.leaves(saved.experiment.frozen["image"]),
        jax.tree.leaves(image.weights.params["net"]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    capsys.readouterr()
    stills = ["sample", "--workdir", str(film / "image"), "--prompt", "a red circle"]
    assert main([*stills, "--out", str(tmp_path / "c.gif")]) == 2
    assert "samples are no films" in capsys.readouterr().err
    assert train("video_scenes", tmp_path / "x", "--config.stages.image=") == 2
    assert "stages.image: got ''" in capsys.readouterr().err
