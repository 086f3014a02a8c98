"""Stable Diffusion's pipeline and CLIP, imported: the numbers of diffusers and transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.data.text import read_tokenizer
from gen_jax.launch.build.families.diffusion import build
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.runs.restore import load_codec, load_trained, load_weights
from gen_jax.protocols import Codec
from tests.interop import text_models as theirs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    theirs.write_pipeline(folder / "sd")
    theirs.write_model("clip", folder / "clip")
    theirs.write_tokenizer(folder / "clip")
    for name in ("sd", "clip"):
        line = ["import", "--from", str(folder / name), "--workdir", str(folder / f"w_{name}")]
        assert main(line) == 0
    return folder


def test_tokens_are_those_of_transformers(tmp_path):
    theirs.write_tokenizer(tmp_path)
    rows, _ = read_tokenizer(tmp_path).batch(theirs.PROMPTS, theirs.LENGTH)
    np.testing.assert_array_equal(rows, theirs.stored()["ids"])


def test_five_guided_steps_give_diffusers_latents(imported):
    saved = load_weights(imported / "w_sd")
    stage1 = load_codec(imported / "w_sd" / "stage1")
    plain = Codec(lambda frozen, x, keys: x, lambda frozen, x: x, None, None)
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in flatten(saved.config).items()}
    model = build(values, stage1._replace(codec=plain)).model
    stored = theirs.stored()
    ids = jnp.asarray(stored["ids"])
    cond = {"prompt": jnp.repeat(ids[:1], 2, axis=0), "no_prompt": jnp.repeat(ids[1:], 2, axis=0)}
    # Their step i, from zero, is our time (i + 1) / T; they end at the first of the table.
    times = jnp.asarray([*((stored["times"] + 1) / 1000), 1 / 1000], jnp.float32)
    z = jnp.asarray(np.moveaxis(theirs.noise(), 1, -1))
    made = jax.jit(
        lambda: model.latents.decode(saved.weights, z, cond, times=times, num_steps=5, guidance=7.5)
    )()
    np.testing.assert_allclose(np.moveaxis(np.asarray(made), -1, 1), stored["latents"], atol=1e-4)


@pytest.mark.nightly
def test_no_text_is_what_is_led_away_from_and_a_prompt_draws(imported, tmp_path):
    trained = load_trained(imported / "w_sd")
    assert trained.config["model"]["guidance"] == 7.5
    null = trained.tokenizer.batch([""], theirs.LENGTH)[0][0]
    assert tuple(null) == (len(theirs.PIECES) - 2, *[len(theirs.PIECES) - 1] * 8)
    out = tmp_path / "a.npz"
    line = ["sample", "--workdir", str(imported / "w_sd"), "--num", "2", "--steps=2"]
    assert main([*line, "--prompt", "A RED circle", "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["images"].shape == (2, 32, 32, 3)
        assert list(arrays["prompts"]) == ["a red circle"] * 2


def test_both_towers_give_transformers_vectors(imported):
    trained, stored = load_trained(imported / "w_clip"), theirs.stored()
    matching = trained.experiment.model.matching
    image = jax.jit(matching.image)(trained.weights, theirs.pixels())
    text = jax.jit(matching.text)(trained.weights, jnp.asarray(stored["ids"], jnp.int32))
    np.testing.assert_allclose(np.sum(image * stored["image"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.sum(text * stored["text"], axis=1), 1, atol=1e-5)
    logits = matching.scale(trained.weights) * image @ text.T
    np.testing.assert_allclose(logits, stored["logits"], atol=1e-3)


def test_what_does_not_fit_is_named(imported, tmp_path, capsys):
    def refused(change, name="sd"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        if name == "sd":
            theirs.write_pipeline(folder)
        else:
            theirs.write_model("clip", folder)
            theirs.write_tokenizer(folder)
        change(folder)
        assert main(["import", "--from", str(folder), "--workdir", str(folder / "w")]) == 4
        assert not (folder / "w" / "config.json").exists()
        return capsys.readouterr().err

    def edit(path, **changes):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    gelu = refused(lambda f: edit(f / "text_encoder" / "config.json", hidden_act="gelu"))
    assert "text_config.hidden_act: 'gelu'; 'quick_gelu' is required" in gelu
    lines = refused(lambda f: (f / "tokenizer" / "merges.txt").unlink())
    assert "vocab.json and merges.txt are required" in lines
    two = refused(lambda f: (f / "text_encoder_2").mkdir())
    assert "a pipeline with one text is required" in two
    wide = refused(lambda f: edit(f / "config.json", projection_dim=9), "clip")
    assert "visual_projection.weight" in wide
