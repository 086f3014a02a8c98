"""Every config is without faults, and its tiny variant trains, resumes and samples."""

import json
import re
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.build.experiment import abstract_state, build
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.files import load_config
from gen_jax.launch.config.schema import families, fields_of
from gen_jax.launch.runs.workdir import stage_places
from gen_jax.train.checkpoint import restore
from tests.devices import one_device

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
IDS = [path.stem for path in CONFIGS]
# Each kind of network and of first stage, and one of every other family; with all in the nightly
# tier, where the suite's eight devices take one example each.
EVERY_DAY = {
    "aae_mnist",
    "ae_mnist",
    "dvae_cifar10",
    "latent_mnist",
    "prior_mnist",
    "transformer_digits",
    "vae_mnist",
}


def every_day():
    """Add the first config of each family that has none yet."""
    chosen = sorted(EVERY_DAY)
    families_of = {path.stem: load_config(str(path), [])["family"] for path in CONFIGS}
    done = {families_of[name] for name in chosen}
    for name, family in families_of.items():
        # A first stage goes all the way before its second.
        if family not in done and family != "vqvae":
            chosen.append(name)
            done.add(family)
    return chosen


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """Train the tiny variant of a first stage once: a second one's config names it as runs/NAME."""
    made = {}

    def make(stage1):
        name = Path(stage1).name
        if name not in made:
            work = tmp_path_factory.mktemp("stage1") / name
            config = f"{ROOT / 'configs' / name}.py:tiny"
            line = ["train", "--config", config, "--workdir", str(work)]
            assert main([*line, *over(load_config(config, []), make)]) == 0
            made[name] = work
        return made[name]

    return make


def over(config, make):
    """Give the flags that put trained stages in the place of those that a config names."""
    return [
        f"--config.{'' if name == 'stage1' else 'stages.'}{name}={make(place)}"
        for name, place in stage_places(config).items()
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
@pytest.mark.parametrize("variant", ["", ":tiny"])
def test_configs_build_and_every_field_is_classified(path, variant):
    config = load_config(f"{path}{variant}", [])
    fields = fields_of(config["family"])
    assert set(flatten(config)) == set(fields)
    assert {field.change for field in fields.values()} == {"frozen", "free"}
    if stage_places(config):
        return  # built on top of its stages below
    state = abstract_state(build(config), config["data"]["shape"])
    assert sum(x.size for x in jax.tree.leaves(state.params)) > 1000


def test_unknown_variants_are_refused(capsys):
    for path in CONFIGS:
        assert main(["train", "--config", f"{path}:tyni", "--workdir", "/nowhere"]) == 2
        assert "got 'tyni'; 'tiny'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", every_day())
def test_tiny_variants_go_all_the_way(name, first_stage, tmp_path, capsys):
    with one_device():
        go_all_the_way(ROOT / "configs" / f"{name}.py", first_stage, tmp_path, capsys)


@pytest.mark.nightly
@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_tiny_variants_go_all_the_way_on_eight_devices(path, first_stage, tmp_path, capsys):
    go_all_the_way(path, first_stage, tmp_path, capsys)


def test_every_family_goes_all_the_way_every_day():
    configs = [load_config(f"{ROOT}/configs/{name}.py:tiny", []) for name in every_day()]
    firsts = [Path(x).name for config in configs for x in stage_places(config).values()]
    configs += [load_config(f"{ROOT}/configs/{name}.py:tiny", []) for name in firsts]
    assert {config["family"] for config in configs} == set(families())


def go_all_the_way(path, first_stage, tmp_path, capsys):
    """Train, resume, and sample."""
    work = tmp_path / "work"
    train = ["train", "--config", f"{path}:tiny", "--workdir", str(work)]
    train += over(load_config(f"{path}:tiny", []), first_stage)
    assert main(train) == 0, capsys.readouterr().err
    config = json.loads((work / "config.json").read_text())
    assert main([*train, "--config.train.steps=3"]) == 0
    assert "resuming at step 2" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]

    if config["family"] in ("classifier", "clip"):
        assert main(["sample", "--workdir", str(work), "--out", str(tmp_path / "a.npz")]) == 2
        assert f"family {config['family']!r} does not generate" in capsys.readouterr().err
        return
    npz = tmp_path / "a.npz"
    base = ["sample", "--workdir", str(work), "--num", "8", "--seed", "1"]
    if config.get("text", {}).get("tokenizer", "none") != "none":
        kind = config["data"]["source"].partition(":")[0]
        words = {
            "moving_scenes": "a small red circle moves up",
            "edit_scenes": "make the red circle",
        }
        base.append(f"--prompt={words.get(kind, 'a red circle above a blue square')}")
    if config["family"] == "translation" or config["model"].get("beside") == "source":  # of what?
        given = tmp_path / "given.npz"
        np.savez(given, images=np.zeros((2, *config["data"]["shape"]), np.uint8))
        assert main([*base, "--out", str(npz)]) == 2
        pairs = config["model"].get("kind", "pairs") == "pairs"
        told = "source" if pairs else "other"
        assert f"--{told}" in capsys.readouterr().err
        base.append(f"--{told}={given}")
    assert main([*base, "--out", str(npz)]) == 0
    with np.load(npz) as arrays:
        if config["family"] == "embedding_prior":
            assert arrays["embeddings"].shape == (8, 8)
            return
        images = arrays["images"]
    assert images.shape == (8, *config["data"]["shape"])
    assert images.dtype == np.uint8


@pytest.mark.slow
def test_a_picture_says_where_it_comes_from(tmp_path):
    work, png = tmp_path / "work", tmp_path / "a.png"
    config = f"{CONFIGS[IDS.index('ae_mnist')]}:tiny"
    with one_device():
        assert main(["train", "--config", config, "--workdir", str(work)]) == 0
        arguments = ["--workdir", str(work), "--num", "8", "--seed", "1", "--out", str(png)]
        assert main(["sample", *arguments]) == 0
    with Image.open(png) as picture:
        assert re.match(r"step 2, weights [0-9a-f]{16}, seed 1, ", picture.text["gen_jax"])


@pytest.mark.nightly  # every day: each family without the commands, in tests/reliability
def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    """Through checkpoints, data with augmentation, and the command line; across an epoch's end."""
    with one_device():
        resume_to_the_same_bits(tmp_path)


@pytest.mark.nightly
def test_a_resumed_run_ends_in_the_same_bits_on_eight_devices(tmp_path):
    resume_to_the_same_bits(tmp_path)


def resume_to_the_same_bits(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        x_train=np.random.default_rng(0).integers(0, 256, (21, 8, 8), np.uint8),
    )
    base = ["train", "--config", f"{CONFIGS[IDS.index('ddpm_digits')]}:tiny"]
    base += [f"--config.data.source=npz:{tmp_path / 'x.npz'}", "--config.data.flip=True"]
    base += ["--config.optimizer.decay=constant", "--config.model.dropout=0.1"]
    for name, ends in (("whole", (4,)), ("parts", (1, 3, 4))):
        for steps in ends:
            workdir = ["--workdir", str(tmp_path / name)]
            assert main([*base, *workdir, f"--config.train.steps={steps}"]) == 0
    restored = []
    for name in ("whole", "parts"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            abstract_state(build(config), (8, 8, 1)),
        )
        restored.append(restore(tmp_path / name / "checkpoints", 4, abstract)[0])
    chex.assert_trees_all_equal(*restored)
