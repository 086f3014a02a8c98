"""The door for Python: arrays in and out, the same numbers as the command line, slips in words."""

import threading

import numpy as np
import pytest
from PIL import Image

import gen_jax
from gen_jax.errors import ConfigError
from gen_jax.launch.cli.main import main
from gen_jax.train import step as step_module

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
X = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    place = tmp_path_factory.mktemp("door") / "vae"
    return gen_jax.train("vae_mnist:tiny", data=X, workdir=place, steps=3)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """Train in a thread, as notebooks and servers do."""
    place, made = tmp_path_factory.mktemp("door") / "ddpm", []
    overrides = {"model.num_classes": 10, "model.class_dropout": 0.1}
    options = {"data": "digits", "workdir": place, "overrides": overrides}
    thread = threading.Thread(
        target=lambda: made.append(gen_jax.train("ddpm_digits:tiny", **options))
    )
    thread.start()
    thread.join()
    return made[0]


def test_a_run_is_trained_from_arrays_and_loaded(vae):
    assert gen_jax.train.step is step_module  # the package is still one
    assert (vae.family, vae.step, vae.shape) == ("vae", 3, (8, 8, 1))
    assert "vae, step 3, 8x8x1" in repr(vae)
    assert "<th>parameters</th>" in vae._repr_html_()
    again = gen_jax.load(str(vae.workdir))
    np.testing.assert_array_equal(again.sample(4, seed=1), vae.sample(4, seed=1))
    longer = gen_jax.train("vae_mnist:tiny", data=X, workdir=vae.workdir, steps=4)
    assert longer.step == 4
    codes = longer.encode(X[:5])
    np.testing.assert_array_equal(longer.decode(codes), longer.reconstruct(X[:5]))
    np.testing.assert_array_equal(longer.encode(X[:5, ..., 0]), codes)  # gray, without a channel
    np.testing.assert_allclose(longer.encode(X[0]), codes[:1], atol=1e-5)  # one image
    assert longer.log_prob(X[:3]).shape == (3,)
    ways = longer.interpolate(X[:2], X[2:4], steps=5)
    assert ways.shape == (2, 5, 8, 8, 1)
    np.testing.assert_array_equal(ways[:, 0], longer.reconstruct(X[:2]))
    assert longer.interpolate(steps=3).shape == (4, 3, 8, 8, 1)


def test_samples_are_those_of_the_command_line(diffusion, tmp_path):
    out = tmp_path / "a.npz"
    line = ["sample", "--workdir", str(diffusion.workdir), "--num", "6", "--seed", "2"]
    assert main([*line, "--steps=3", "--guidance=2.0", "--label=4", "--out", str(out)]) == 0
    options = {"steps": 3, "guidance": 2.0}
    made = diffusion.sample(6, seed=2, label=4, **options)
    np.testing.assert_array_equal(np.load(out)["images"], made)
    one = diffusion.sample(1, seed=2, label=[4], **options)
    np.testing.assert_array_equal(one, made[:1])
    mask = np.zeros((8, 8), np.float32)
    mask[:4] = 1
    filled = diffusion.sample(2, label=1, image=X[:2], mask=mask, steps=3)
    np.testing.assert_array_equal(filled[:, :4], X[:2, :4])
    assert "steps" in diffusion.options
    assert diffusion.inputs["label"].size == 10


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        (lambda run: run.sample(2, lable=3), "did you mean 'label'"),
        (lambda run: run.sample(2, label=99), "label: got 99; 0 to 9 is required"),
        (lambda run: run.sample(2, label=[1, 2, 3]), "label: got 3; 1 or 2 are required"),
        (lambda run: run.sample(2, steps=0), "steps: got 0; a whole number from 1"),
        (lambda run: run.sample(2, strength=0.5), "strength: has a meaning only with image"),
        (lambda run: run.encode(np.zeros((2, 8, 8, 1))), "float64 images; uint8.*multiply by 255"),
        (lambda run: run.encode(X.astype(np.uint16)), "divide by 257"),
        (lambda run: run.encode(np.zeros((2, 9, 9, 1), np.uint8)), r"\[N, 8, 8, 1\] is required"),
        (lambda run: run.interpolate(X[:1]), "both ends, or none"),
        (lambda run: run.translate(X[:1]), "makes no image of an image alone"),
        (lambda run: gen_jax.show(X.astype(bool)), "bool images; uint8"),
        (lambda run: gen_jax.train("vae_mnist", data={"x": X}), "data: no x_train; found x"),
        (lambda run: gen_jax.train("vea_mnist", data=X), "one of these is required: aae_mnist"),
        (lambda run: gen_jax.train({"family": "vae", "a": 1}), "a: unknown field"),
    ],
)
def test_slips_get_words(diffusion, slip, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        slip(diffusion)


def test_pictures_are_shown_and_written(tmp_path):
    made = gen_jax.show(X[:9], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(made))
    assert gen_jax.show(X[0, ..., 0]).size == gen_jax.show(X[:1]).size
    films = gen_jax.show(X[:8].reshape(2, 4, 8, 8, 1), tmp_path / "a.gif")
    assert films._repr_html_().startswith("<img")
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 4
