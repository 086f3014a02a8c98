"""The commands of models with codes, and a second stage on top of a first."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gen_jax.evals.reconstruction import mean_squared_error, psnr
from gen_jax.launch.build.experiment import build
from gen_jax.launch.cli.main import main
from gen_jax.launch.commands.latents import _decode, _encode
from gen_jax.launch.runs import restore
from gen_jax.launch.runs.restore import load_trained
from gen_jax.pictures import scatter

CONFIGS = Path(__file__).parent.parent.parent / "configs"
pytestmark = [pytest.mark.tiered, pytest.mark.usefixtures("one_device_by_day")]


def train(folder, config, *overrides):
    arguments = ["train", "--config", f"{CONFIGS / config}.py:tiny", "--workdir", str(folder)]
    assert main([*arguments, *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A VAE with two latent dimensions."""
    work = tmp_path_factory.mktemp("plane") / "work"
    overrides = ["--config.model.latent_dim=2", "--config.train.steps=40"]
    overrides.append("--config.train.sample_every=20")
    return train(work, "vae_mnist", *overrides, "--config.train.log_every=40")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    work = tmp_path_factory.mktemp("conditional") / "work"
    return train(work, "vae_mnist", "--config.model.num_classes=10")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A KL autoencoder, and a latent diffusion model that outlives it."""
    folder = tmp_path_factory.mktemp("stages")
    first = train(folder / "first", "klae_mnist")
    kept = folder / "kept"
    shutil.copytree(first, kept)
    second = train(folder / "second", "latent_mnist", f"--config.stage1={first}")
    shutil.rmtree(first)
    return kept, second


def fails(arguments, code, message, capsys):
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1


def size_of(path):
    with Image.open(path) as picture:
        assert "step" in picture.text["gen_jax"]
        return picture.size


def width(images, pixels=8):
    scale = 32 // pixels
    return images * (pixels * scale + 2) + 2


@pytest.mark.slow
class TestCommands:
    def test_training_shows_reconstructions_on_the_way(self, plane):
        for step in ("0000020", "0000040"):
            with Image.open(plane / "images" / f"{step}_reconstructions.png") as picture:
                assert picture.size == (width(16), width(2))  # 16 were held out

    def test_reconstruct(self, plane, tmp_path, capsys):
        out = tmp_path / "a.png"
        assert main(["reconstruct", f"--workdir={plane}", f"--out={out}", "--num=20"]) == 0
        # Rows of 16: originals, reconstructions, and both again for the other 4.
        assert size_of(out) == (width(16), width(4))
        printed = capsys.readouterr().out
        assert "20 images of digits/test" in printed
        assert "PSNR" in printed

    def test_reconstruct_what_was_held_out(self, plane, tmp_path, capsys):
        out = tmp_path / "a.png"
        command = ["reconstruct", f"--workdir={plane}", f"--out={out}", "--split=validation"]
        assert main([*command, "--num=16"]) == 0
        assert "digits/train-held" in capsys.readouterr().out
        fails([*command, "--num=17"], 3, "17 images are required, it has 16", capsys)

    @pytest.mark.parametrize("path", ["lerp", "slerp"])
    def test_interpolate(self, conditional, plane, tmp_path, path):
        out = tmp_path / "a.png"
        for work in (plane, conditional):
            command = ["interpolate", f"--workdir={work}", f"--out={out}", f"--path={path}"]
            assert main([*command, "--num=3", "--steps=5"]) == 0
            assert size_of(out) == (width(5), width(3))

    def test_options_that_choose_a_code_do_not_go_with_chosen_codes(self, plane, tmp_path, capsys):
        out = tmp_path / "a.npz"
        command = ["sample", f"--workdir={plane}", f"--out={out}", "--num=2"]
        assert main([*command, "--interpolate=3"]) == 0
        fails([*command, "--interpolate=3", "--spread=0.5"], 2, "--spread: does not go", capsys)
        fails([*command, "--with_noise", "--output=draw"], 2, "--output: does not go", capsys)

    def test_what_only_losses_need_is_loaded_for_them_alone(self, plane, monkeypatch):
        def with_a_judge(*given):
            return build(*given)._replace(training_frozen=lambda: {"judge": np.ones(3)})

        monkeypatch.setattr(restore, "build", with_a_judge)
        assert "judge" not in restore.load_weights(plane).weights.frozen
        assert "judge" in restore.load_weights(plane, whole=True).weights.frozen
        assert "judge" in restore.load_weights(plane, whole=True).experiment.frozen

    def test_resynthesis(self, plane, conditional, tmp_path, capsys):
        out = tmp_path / "a.png"
        command = ["resynthesis", f"--workdir={plane}", f"--out={out}"]
        assert main([*command, "--classes=3,8", "--num=4", "--steps=6"]) == 0
        assert size_of(out) == (width(6), width(4))
        capsys.readouterr()
        fails(command, 2, "--classes: missing", capsys)
        fails([*command, "--classes=3"], 2, "'3'; two classes, like 3,8, are required", capsys)
        fails([*command, "--classes=3,11"], 3, "no image of class 11", capsys)
        command[1] = f"--workdir={conditional}"
        fails([*command, "--classes=3,8"], 2, "an unconditional one is required", capsys)

    def test_manifold(self, plane, conditional, tmp_path, capsys):
        out = tmp_path / "a.png"
        assert main(["manifold", f"--workdir={plane}", f"--out={out}", "--side=7"]) == 0
        assert size_of(out) == (width(7), width(7))
        capsys.readouterr()
        command = ["manifold", f"--workdir={conditional}", f"--out={out}"]
        fails(command, 2, "codes of 2 numbers are required, this model's are (4,)", capsys)

    def test_scatter(self, plane, conditional, tmp_path, capsys):
        out = tmp_path / "a.png"
        for work, what in ((plane, "both coordinates"), (conditional, "2 principal axes of 4")):
            assert main(["scatter", f"--workdir={work}", f"--out={out}", "--num=100"]) == 0
            assert size_of(out) == (800, 800)
            assert what in capsys.readouterr().out

    def test_evaluate_gives_the_bound_with_any_number_of_samples(self, plane, capsys):
        for num in (1, 50):
            command = ["evaluate", f"--workdir={plane}", "--num=20", "--split=validation"]
            assert main([*command, f"--num_importance={num}", "--importance_chunk=7"]) == 0
            file = json.loads((plane / "eval" / "40_validation.json").read_text())
            assert file["log_prob"] == (f"bound {{'num_importance': {num}, 'importance_chunk': 7}}")
            if num == 1:
                loose = file["nats_validation"]
        assert 0 < file["nats_validation"] < loose
        assert "bits_per_dim_validation" not in file  # of binarized pixels
        assert "frechet_pixels_samples_to_validation" in file

    @pytest.mark.nightly
    def test_what_does_not_apply_is_said(self, stages, tmp_path, capsys):
        command = ["reconstruct", f"--workdir={stages[1]}", f"--out={tmp_path / 'a.png'}"]
        fails(command, 2, "reconstruct: not for 'diffusion', ", capsys)
        command[2] = "--out=a.jpg"
        fails(command, 2, "a name ending in .png is required", capsys)


@pytest.mark.nightly  # every day: a second stage goes all the way in tests/test_configs.py
class TestStages:
    def test_a_second_stage_is_complete_without_the_first(self, stages, tmp_path, capsys):
        _, second = stages
        base = [f"--workdir={second}", f"--out={tmp_path / 'a.npz'}"]
        assert main(["sample", *base, "--num=4", "--steps=3"]) == 0
        with np.load(tmp_path / "a.npz") as arrays:
            assert arrays["images"].shape == (4, 8, 8, 1)
        arguments = ["train", f"--config={CONFIGS}/latent_mnist.py:tiny", base[0]]
        assert main([*arguments, "--config.train.steps=3", "--config.stage1=/moved"]) == 0
        assert "resuming at step 2" in capsys.readouterr().out
        assert not list((second / "stage1").rglob("training"))

    def test_codes_are_those_of_the_first_stage(self, stages):
        first, second = map(load_trained, stages)
        image = np.random.default_rng(0).integers(0, 256, (128, 8, 8, 1), np.uint8)
        frozen = second.experiment.frozen["codec"]
        z = _encode(first, image, None)
        model = first.experiment.model
        again = jax.jit(model.latents.encode)(frozen, jnp.asarray(image), {})
        np.testing.assert_allclose(again, z, atol=1e-5)
        image = jax.jit(model.latents.decode)(frozen, again, {})
        # To a gray level: they are two programs.
        np.testing.assert_allclose(image.astype(int), _decode(first, z, None).astype(int), atol=1)

    def test_codes_have_the_scale_that_diffusion_needs(self, stages):
        """With a latent's moments in stats nobody types a scale; after 2 steps they are rough."""
        first = load_trained(stages[0])
        image = np.random.default_rng(0).integers(0, 256, (128, 8, 8, 1), np.uint8)
        z = _encode(first, image, None)
        moments = first.weights.stats["net"]["moments"]
        raw = float(jnp.sqrt(jnp.mean(moments["square"] + moments["variance"])))
        assert raw > 0
        assert z.shape == (128, 4, 4, 3)
        assert np.all(np.isfinite(z))

    @pytest.mark.nightly
    @pytest.mark.parametrize("engine", ["shard_map", "pmap"])
    def test_any_engine_takes_the_first_stage_s_weights(self, stages, tmp_path, engine):
        options = [f"--config.stage1={stages[0]}", f"--config.train.engine={engine}"]
        work = train(tmp_path / "work", "latent_mnist", *options)
        losses = [
            [json.loads(line)["diffusion/loss"] for line in text.splitlines()]
            for text in ((w / "metrics.jsonl").read_text() for w in (work, stages[1]))
        ]
        np.testing.assert_allclose(losses[0][:2], losses[1][:2], rtol=1e-4)

    def test_another_first_stage_is_noticed(self, stages, tmp_path, capsys):
        _, second = stages
        work = tmp_path / "work"
        shutil.copytree(second, work)
        shutil.rmtree(work / "stage1")
        other = train(tmp_path / "other", "klae_mnist", "--config.seed=1")
        capsys.readouterr()
        command = ["train", f"--config={CONFIGS}/latent_mnist.py:tiny", f"--workdir={work}"]
        command += ["--config.train.steps=9", f"--config.stage1={other}"]
        fails(command, 4, "is not the one that this run began with", capsys)

    def test_what_is_no_first_stage_is_refused(self, stages, plane, conditional, tmp_path, capsys):
        command = ["train", f"--config={CONFIGS}/latent_mnist.py:tiny"]
        work = tmp_path / "work"
        command.append(f"--workdir={work}")
        for stage1, code, message in (
            ("/nowhere", 4, "/nowhere/config.json: cannot be read"),
            (plane, 2, "got codes of (2,); square grids of codes are required"),
            (conditional, 4, "its codes need a label"),
            (
                stages[1],
                4,
                "'diffusion' has no codes to model; an autoencoder, or a tokenizer, has",
            ),
        ):
            fails([*command, f"--config.stage1={stage1}"], code, message, capsys)
            assert not list(work.glob("checkpoints/*"))
        # None of them sticks: the same line with the right one begins.
        assert main([*command, f"--config.stage1={stages[0]}"]) == 0

    @pytest.mark.nightly
    def test_several_processes_share_the_copy(self, stages, tmp_path):
        """Only the first copies, and nobody waits for it in vain."""
        work = tmp_path / "work"
        command = [sys.executable, "-m", "gen_jax", "launch", "local", "-n", "2", "--", "train"]
        command += [f"--config={CONFIGS}/latent_mnist.py:tiny", f"--workdir={work}"]
        command += [f"--config.stage1={stages[0]}", "--config.train.engine=jit"]
        environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            cwd=CONFIGS.parent,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        losses = [
            [json.loads(line)["diffusion/loss"] for line in text.splitlines()][:2]
            for text in ((w / "metrics.jsonl").read_text() for w in (work, stages[1]))
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)

    def test_a_first_stage_cannot_go(self, stages, capsys):
        command = ["train", f"--config={CONFIGS}/latent_mnist.py:tiny", f"--workdir={stages[1]}"]
        command += ["--config.stage1=", "--config.train.steps=9", "--config.diffusion.clip=True"]
        fails(command, 4, "stage1: checkpoint", capsys)


def test_reconstruction_errors():
    image = np.zeros((2, 4, 4, 1), np.uint8)
    again = image.copy()
    again[1] = 255
    assert mean_squared_error(image, again) == 0.5
    assert psnr(image, again) == 50.0  # 100 dB for the one that came back, 0 for the other
    again[1] = 51
    assert psnr(image[1:], again[1:]) == pytest.approx(-20 * np.log10(0.2))


def test_a_scatter_plot_puts_points_where_they_belong():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    picture = scatter(points, np.array([0, 1, 2]), side=200)
    colors = [tuple(bytes.fromhex(c)) for c in ("4e79a7", "f28e2b", "e15759")]
    for (x, y), color in zip(((40, 160), (160, 160), (40, 40)), colors, strict=True):
        assert tuple(picture[y, x]) == color
