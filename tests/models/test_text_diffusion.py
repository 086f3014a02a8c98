"""Diffusion that is told a text: padding, batches, dropout, guidance, and one encoding a sample."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.diffusion import cosine, v
from gen_jax.models.diffusion import diffusion_model
from gen_jax.nn.dit import DiT
from gen_jax.nn.text import Encoded, TextTransformer, up_to_end
from gen_jax.nn.told import Told
from gen_jax.nn.unet import UNet
from gen_jax.ops import keys as rng
from gen_jax.protocols import Weights

SHAPE = (8, 8, 3)
LENGTH = 6
NULL = (1, 2, 0, 0, 0, 0)
PROMPTS = jnp.array([[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 6, 5, 8, 9, 2]])
KEYS = rng.per_example(jax.random.key(0), 0, 3)
SHARED = {"context_dim": 8, "pooled_dim": 8, "dropout": 0.0, "num_heads": 2}
NETWORKS = {
    "joint": lambda: DiT(8, 3, patch=2, width=16, depth=2, **SHARED),
    "cross": lambda: DiT(8, 3, patch=2, width=16, depth=2, joint=False, **SHARED),
    "unet": lambda: UNet(8, 3, channels=8, multipliers=(1,), num_res_blocks=1, groups=4,
                         attention_resolutions=(), **SHARED),
}  # fmt: skip


def text(length=LENGTH):
    return TextTransformer(10, length, 8, 1, 2)


def stirred(params):
    """Move parameters that begin at zero."""
    return jax.tree.map(lambda p: p + 0.2 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params)


BY_NETWORK = ["joint", "unet", pytest.param("cross", marks=pytest.mark.nightly)]


@pytest.fixture(scope="module", params=BY_NETWORK)
def made(request):
    model = diffusion_model(
        NETWORKS[request.param](), cosine(20), v, SHAPE, 20, class_dropout=0.1, text=text(),
        null_text=NULL,
    )  # fmt: skip
    batch = {"x": jnp.zeros((3, *SHAPE)), "prompt": PROMPTS}
    params, _ = jax.jit(lambda key: model.init(key, batch, {}))(jax.random.key(0))
    weights = Weights(stirred(params))

    @jax.jit
    def draw(prompts, keys, guidance, negative):
        cond = {"prompt": prompts, "no_prompt": negative}
        return model.sampler.draw(weights, keys, cond, steps=2, guidance=guidance)

    null = jnp.broadcast_to(jnp.array(NULL), PROMPTS.shape)
    return (
        model,
        weights,
        lambda prompts, keys=KEYS, guidance=2.0, negative=null: np.asarray(
            draw(prompts, keys, guidance, negative)
        ),
    )


def test_what_stands_behind_the_end_is_not_seen(made):
    _, _, draw = made
    behind = jnp.where(up_to_end(PROMPTS, 2), PROMPTS, 9)
    np.testing.assert_allclose(draw(behind), draw(PROMPTS), atol=1e-6)


def test_a_prompt_among_others_is_as_alone_and_words_count(made):
    _, _, draw = made
    images = draw(PROMPTS)
    turned = draw(PROMPTS[::-1], KEYS[::-1])[::-1]
    np.testing.assert_allclose(turned, images, atol=1e-5)
    swapped = PROMPTS.at[0, 1:3].set(PROMPTS[0, 2:0:-1])
    assert np.abs(draw(swapped)[0] - images[0]).max() > 1e-3
    np.testing.assert_allclose(draw(swapped)[1:], images[1:], atol=1e-6)


def test_guidance_one_is_the_prompt_s_and_zero_the_negative_s(made):
    model, weights, draw = made
    alone = jax.jit(lambda p: model.sampler.draw(weights, KEYS, {"prompt": p}, steps=2))
    np.testing.assert_allclose(draw(PROMPTS, guidance=1.0), alone(PROMPTS), atol=1e-5)
    other = PROMPTS[::-1]
    np.testing.assert_allclose(draw(PROMPTS, guidance=0.0, negative=other), alone(other), atol=1e-5)


class Counted(nn.Module):
    """Count how often a text is encoded in a program."""

    num_tokens: int = 10
    calls = [0]  # noqa: RUF012

    @nn.compact
    def __call__(self, tokens):
        self.calls[0] += 1
        h = nn.Embed(10, 8)(tokens)
        return Encoded(h, tokens > 0, h[:, 0])


def test_a_text_is_encoded_outside_of_the_loop_over_steps():
    model = diffusion_model(NETWORKS["joint"](), cosine(20), v, SHAPE, 20, text=Counted(),
                            null_text=NULL)  # fmt: skip
    batch = {"x": jnp.zeros((3, *SHAPE)), "prompt": PROMPTS}
    params, _ = jax.eval_shape(lambda key: model.init(key, batch, {}), jax.random.key(0))
    Counted.calls[0] = 0
    program = jax.make_jaxpr(
        lambda params, keys: model.sampler.draw(Weights(params), keys, {"prompt": PROMPTS})
    )(params, KEYS)
    assert Counted.calls[0] == 1
    scans = [e for e in program.jaxpr.eqns if "scan" in e.primitive.name]
    assert not any("Embed" in str(e.params.get("jaxpr", "")) for e in scans)


def test_dropout_leaves_a_tenth_out_by_the_keys_alone():
    told = Told(None, class_dropout=0.1, text=text(), null_text=NULL)
    keys = rng.per_example(jax.random.key(3), 0, 10_000)
    prompts = jnp.broadcast_to(PROMPTS[2], (10_000, LENGTH))
    seen = told.read({"prompt": prompts}, None, keys)["prompt"]
    dropped = np.asarray((seen == jnp.array([NULL])).all(axis=1))
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    again = told.read({"prompt": prompts[:100]}, None, keys[5000:5100])["prompt"]
    np.testing.assert_array_equal(again, seen[5000:5100])


def test_a_text_pools_at_its_first_end_even_with_larger_ids_and_reads_backward_if_not_causal():
    network = TextTransformer(60, 5, 8, 1, 2, end=2, causal=True, pool="end", masked=False)
    tokens = jnp.array([[1, 50, 2, 2, 2], [1, 50, 2, 59, 59]])
    params = network.init(jax.random.key(0), tokens)
    made = network.apply(params, tokens)
    np.testing.assert_allclose(made.pooled[0], made.pooled[1], atol=1e-6)  # causal: behind it all
    np.testing.assert_allclose(made.pooled, made.vectors[:, 2], atol=1e-6)
    both = TextTransformer(60, 5, 8, 1, 2)
    one, other = (both.apply(params, x) for x in (tokens, tokens.at[:, 1].set(7)))
    assert np.abs(one.vectors[:, 0] - other.vectors[:, 0]).max() > 1e-4
    changed = network.apply(params, tokens.at[:, 2].set(7))
    np.testing.assert_allclose(changed.vectors[:, :2], made.vectors[:, :2], atol=1e-6)


def test_what_differs_between_two_texts_is_where_an_image_is_changed(made):
    model, weights, _ = made
    image = jnp.tanh(jax.random.normal(jax.random.key(4), (3, *SHAPE)))

    @jax.jit
    def edit(prompt, source, above):
        cond = {"prompt": prompt, "source_prompt": source, "image": image}
        return model.sampler.draw(weights, KEYS, cond, steps=2, edit_above=above)

    # The same text, or nothing that differs enough: the image itself.
    np.testing.assert_allclose(edit(PROMPTS, PROMPTS, 0.1), image, atol=1e-6)
    changed = np.abs(np.asarray(edit(PROMPTS, PROMPTS[::-1], 0.33) - image)).max(axis=-1) > 1e-6
    other = np.asarray(PROMPTS[::-1] != PROMPTS).any(axis=1)
    assert changed[other].any(axis=(1, 2)).all()
    assert not changed[other].all()
    assert not changed[~other].any()
    less = np.abs(np.asarray(edit(PROMPTS, PROMPTS[::-1], 0.9) - image)).max(axis=-1) > 1e-6
    assert less.sum() < changed.sum()


def test_an_image_is_walked_to_its_noise_with_what_it_shows(made):
    model, weights, _ = made
    image = 0.5 * jnp.tanh(jax.random.normal(jax.random.key(4), (3, *SHAPE)))

    @jax.jit
    def again(prompt, source):
        cond = {"prompt": prompt, "source_prompt": source, "image": image}
        return model.sampler.draw(weights, KEYS, cond, steps=4, invert=True)

    plain = jax.jit(
        lambda p: model.sampler.draw(
            weights, KEYS, {"prompt": p, "image": image}, steps=4, invert=True
        )
    )
    np.testing.assert_allclose(again(PROMPTS, PROMPTS), plain(PROMPTS), atol=1e-5)
    assert np.abs(np.asarray(again(PROMPTS, PROMPTS[::-1]) - plain(PROMPTS))).max() > 1e-3
    faults = model.sampler.faults
    assert "source_prompt" in faults({}, ("prompt", "source_prompt", "image"))
    assert "edit_above" in faults({"edit_above": 0.5}, ("prompt", "image"))
    assert "edit_above" in faults(
        {"edit_above": 0.5, "invert": True}, ("prompt", "source_prompt", "image")
    )
    assert faults({"edit_above": 0.5}, ("prompt", "source_prompt", "image")) == {}


def test_image_and_text_guide_apart():
    network = DiT(8, 3, patch=4, width=16, depth=1, **SHARED)
    model = diffusion_model(
        network, cosine(20), v, SHAPE, 20, class_dropout=0.1, text=text(), null_text=NULL,
        source_scale=1.0, source_dropout=0.25,
    )  # fmt: skip
    source = jax.random.normal(jax.random.key(5), (3, *SHAPE))
    batch = {"x": jnp.zeros((3, *SHAPE)), "prompt": PROMPTS, "source": source}
    params, _ = jax.jit(lambda key: model.init(key, batch, {}))(jax.random.key(0))
    weights = Weights(stirred(params))

    @jax.jit
    def draw(prompt, source, scale, image_scale):
        cond = {"prompt": prompt, "source": source}
        options = {"guidance": scale, "image_guidance": image_scale}
        return model.sampler.draw(weights, KEYS, cond, steps=2, **options)

    @jax.jit
    def alone(prompt, source):
        return model.sampler.draw(weights, KEYS, {"prompt": prompt, "source": source}, steps=2)

    null, black = jnp.broadcast_to(jnp.array(NULL), PROMPTS.shape), jnp.zeros_like(source)
    for scales, wanted in (
        ((1.0, 1.0), (PROMPTS, source)),
        ((0.0, 1.0), (null, source)),
        ((0.0, 0.0), (null, black)),
    ):
        np.testing.assert_allclose(draw(PROMPTS, source, *scales), alone(*wanted), atol=1e-5)
    assert np.abs(np.asarray(draw(PROMPTS, source, 1.0, 2.0) - alone(PROMPTS, source))).max() > 1e-3

    told = Told(None, class_dropout=0.1, source_scale=1.0, source_dropout=0.25)
    keys = rng.per_example(jax.random.key(3), 0, 4096)
    seen = told.read({"source": jnp.ones((4096, 1, 1, 1))}, None, keys)["source"]
    assert abs(float(jnp.mean(seen)) - 0.75) < 0.03
    with pytest.raises(ValueError, match="a source_scale is required"):
        diffusion_model(network, cosine(20), v, SHAPE, 20, source_dropout=0.1)
