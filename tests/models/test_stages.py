"""Systems of several models: cascades, priors, decoders, films, and noise on what they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.codecs import rgb, with_codec
from gen_jax.diffusion import cosine, v
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.stages import best_of, embeddings, with_base, with_image_embedding, with_prior
from gen_jax.nn.dit import DiT
from gen_jax.nn.told import LEVEL_DIM, Told
from gen_jax.nn.unclip import EmbeddingTransformer, WithEmbedding
from gen_jax.ops import keys as rng
from gen_jax.protocols import (
    LOCAL,
    Context,
    Input,
    Matching,
    Sampler,
    Weights,
)

KEYS = rng.per_example(jax.random.key(0), 0, 4)
DIM = 4


def stirred(params):
    """Move parameters that begin at zero."""
    return jax.tree.map(lambda p: p + 0.2 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params)


def dit(side, channels=3, **told):
    return DiT(side, channels, patch=side // 2, width=16, depth=1, num_heads=2, **told)


@pytest.fixture(scope="module")
def cascade():
    """Make a base of 4x4, and what makes its images 8x8, with weights that say something."""
    base = with_codec(diffusion_model(dit(4), cosine(20), v, (4, 4, 3), 20), rgb())
    larger = with_codec(
        diffusion_model(
            dit(8, pooled_dim=LEVEL_DIM), cosine(20), v, (8, 8, 3), 20,
            low_res_factor=2, low_res_noise=True,
        ),
        rgb(),
    )  # fmt: skip
    weights = []
    for model, side in ((base, 4), (larger, 8)):
        batch = {"image": jnp.zeros((2, side, side, 3), jnp.uint8)}
        params, _ = jax.jit(
            lambda model=model, batch=batch: model.init(jax.random.key(1), batch, {})
        )()
        weights.append(Weights(stirred(params)))
    return base, larger, weights[0], weights[1]


def test_a_cascade_draws_with_its_base_and_then_makes_larger(cascade):
    base, larger, base_weights, own = cascade
    both = with_base(larger, base)
    weights = own._replace(frozen={"base": base_weights})
    options = {"steps": 2, "base_steps": 3}
    draw = jax.jit(lambda keys, cond: both.sampler.draw(weights, keys, cond, **options))
    made = draw(KEYS, {})
    assert made.shape == (4, 8, 8, 3)
    np.testing.assert_array_equal(made[1:3], draw(KEYS[1:3], {}))  # whatever is beside

    @jax.jit
    def by_hand():
        small = base.sampler.draw(base_weights, rng.fold_in(KEYS, 0xBA5E), {}, steps=3)
        return small, larger.sampler.draw(own, KEYS, {"low_res": small}, steps=2)

    small, wanted = by_hand()
    assert np.abs(np.asarray(made, int) - np.asarray(wanted, int)).max() <= 1
    # Given an image, that is made larger, and the base looks on.
    given = 255 - small
    np.testing.assert_array_equal(
        draw(KEYS, {"low_res": given}),
        jax.jit(lambda: larger.sampler.draw(own, KEYS, {"low_res": given}, steps=2))(),
    )
    assert both.inputs["low_res"].needed is False
    assert set(both.sampler.faults({"base_eta": 0.5, "base_solver": "heun"}, ())) == {"base_eta"}
    assert (
        "`base_solver`"
        in both.sampler.faults({"base_eta": 0.5, "base_solver": "heun"}, ())["base_eta"]
    )


def test_noise_on_what_is_made_larger_has_a_level_of_its_own_for_each_example():
    told = Told(None, low_res_factor=2, low_res_noise=True)
    image = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))
    seen = {"low_res": image}
    plain = told.with_noise(seen, KEYS, 0.0)
    np.testing.assert_array_equal(plain["low_res"], image)  # bit for bit
    drawn = told.with_noise(seen, KEYS)
    levels = drawn["low_res_level"]
    assert len(set(levels.tolist())) == 4
    alone = told.with_noise({"low_res": image[2:3]}, KEYS[2:3])
    np.testing.assert_array_equal(alone["low_res"][0], drawn["low_res"][2])
    many = rng.per_example(jax.random.key(3), 0, 4096)
    levels = told.with_noise({"low_res": jnp.zeros((4096, 1, 1, 1))}, many)
    # Uniform levels: E sin^2(pi s / 2) is a half.
    assert abs(float(jnp.mean(jnp.square(levels["low_res"]))) - 0.5) < 0.05
    assert abs(float(jnp.mean(levels["low_res_level"])) - 0.5) < 0.02
    whole = told.with_noise({"low_res": jnp.full((4096, 1, 1, 1), 7.0)}, many, 1.0)
    assert abs(float(jnp.mean(whole["low_res"]))) < 0.06
    untold = Told(None, low_res_factor=2)
    assert untold.with_noise(seen, KEYS) is seen


def test_the_network_is_told_the_level(cascade):
    _, larger, _, own = cascade
    cond = {"low_res": jnp.zeros((4, 4, 4, 3))}
    draw = jax.jit(lambda level: larger.sampler.draw(own, KEYS, cond, steps=2, low_res_level=level))
    assert (np.asarray(draw(0.0)) != np.asarray(draw(0.9))).any()
    with pytest.raises(ValueError, match="low_res_factor is required"):
        diffusion_model(dit(8), cosine(20), v, (8, 8, 3), 20, low_res_noise=True)


def test_the_best_of_several_is_kept():
    plain = Sampler(lambda weights, keys, cond: jax.vmap(jax.random.normal)(keys))
    made = best_of(plain, lambda weights, x, cond: cond["sign"] * x, usual=2)
    sign = jnp.array([1.0, -1.0, 1.0, -1.0])
    few, many = (made.draw(Weights({}), KEYS, {"sign": sign}, candidates=n) for n in (1, 8))
    np.testing.assert_array_equal(few, plain.draw(Weights({}), KEYS, {}))
    draws = [plain.draw(Weights({}), KEYS, {})]
    draws += [plain.draw(Weights({}), rng.fold_in(KEYS, n), {}) for n in range(1, 8)]
    wanted = jnp.max(sign[None] * jnp.stack(draws), axis=0)
    np.testing.assert_array_equal(sign * many, wanted)


def mean_color(weights, x):
    """Embed an image as its mean color, and one number more, as a unit vector."""
    x = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else (x + 1) / 2
    mean = jnp.mean(x, axis=(1, 2))
    z = jnp.concatenate([mean, jnp.full((len(x), 1), 0.5)], axis=-1) * weights.params["net"][None]
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def of_text(weights, tokens):
    z = jax.nn.one_hot(tokens[:, 1] % DIM, DIM)
    return z * weights.params["net"][None]


MATCHING = Matching(mean_color, of_text, lambda weights: jnp.ones(()))
CLIP = Weights({"net": jnp.ones(DIM)})


@pytest.fixture(scope="module")
def decoder():
    network = WithEmbedding(dit(8, context_dim=6, pooled_dim=DIM), 6)
    inner = diffusion_model(
        network, cosine(20), v, (8, 8, 3), 20, embedding_dim=DIM, embedding_dropout=0.5
    )
    text = Input("tokens", (3,), 10)
    model = with_image_embedding(with_codec(inner, rgb()), MATCHING, text, DIM)
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    image[:, ..., 0] = np.array([250, 10, 120, 60])[:, None, None]
    image = jnp.asarray(image)
    params, _ = jax.jit(model.init)(jax.random.key(1), {"image": image}, {"clip": CLIP})
    return inner, model, Weights(stirred(params), {}, {"clip": CLIP}), image


def test_a_decoder_is_told_the_embedding_of_its_image(decoder):
    _, model, weights, image = decoder
    context = Context(jnp.zeros((), jnp.int32), LOCAL, False)
    told = {"image": image}
    loss = jax.jit(lambda batch: model.losses["diffusion"].fn(weights, batch, KEYS, context)[0])
    z = mean_color(CLIP, image) * DIM**0.5
    np.testing.assert_allclose(loss(told), loss({**told, "embedding": z}), rtol=1e-6)
    assert abs(float(loss(told) - loss({**told, "embedding": z[::-1]}))) > 1e-6
    with pytest.raises(ValueError, match="codes alone cannot be embedded"):
        model.losses["diffusion"].fn(weights, {"codes": z}, KEYS, context)
    grads = jax.grad(
        lambda clip: model.losses["diffusion"].fn(
            weights._replace(frozen={"clip": clip}), told, KEYS, context
        )[0]
    )(CLIP)
    assert not np.asarray(grads.params["net"]).any()  # frozen


def test_images_turn_toward_images_and_texts(decoder):
    _, model, weights, image = decoder
    draw = jax.jit(
        lambda cond, mix: model.sampler.draw(weights, KEYS, cond, steps=2, mix=mix, guidance=2.0)
    )
    plain = jax.jit(lambda cond: model.sampler.draw(weights, KEYS, cond, steps=2, guidance=2.0))
    other = image[::-1]
    like = plain({"like": image})
    assert (np.asarray(like) != np.asarray(plain({"like": other}))).any()
    ends = [draw({"like": image, "like_to": other}, mix) for mix in (0.0, 1.0)]
    for made, wanted in zip(ends, (like, plain({"like": other})), strict=True):
        assert np.abs(np.asarray(made, int) - np.asarray(wanted, int)).max() <= 1
    texts = {"toward": jnp.full((4, 3), 1), "away": jnp.full((4, 3), 2)}
    z = jnp.zeros((4, DIM)).at[:, 1].set(2**-0.5).at[:, 2].set(-(2**-0.5)) * DIM**0.5
    wanted = plain({"embedding": z})
    made = draw({"like": image, **texts}, 1.0)
    assert np.abs(np.asarray(made, int) - np.asarray(wanted, int)).max() <= 1
    faults = model.sampler.faults
    assert "mix" in faults({"mix": 0.5}, ("like",))
    assert "like_to" in faults({}, ("like", "like_to"))
    assert "toward" in faults({"mix": 0.5}, ("like", "toward"))
    assert faults({"mix": 0.5}, ("like", "toward", "away")) == {}
    with pytest.raises(ValueError, match="is required with it"):
        model.sampler.draw(weights, KEYS, {"like": image, "like_to": other}, steps=2)


def test_embeddings_are_left_out_as_often_as_asked():
    told = Told(None, embedding_dim=DIM, embedding_dropout=0.25)
    keys = rng.per_example(jax.random.key(5), 0, 4096)
    seen = told.read({"embedding": jnp.ones((4096, DIM))}, None, keys)["embedding"]
    assert abs(float(jnp.mean(seen[:, 0] == 0)) - 0.25) < 0.03
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])  # whole or not
    both = told.with_and_without({"embedding": jnp.ones((2, DIM))})["embedding"]
    np.testing.assert_array_equal(
        both, jnp.array([[1.0], [1.0], [0.0], [0.0]]) * jnp.ones((1, DIM))
    )


def test_a_prior_stands_before_the_decoder(decoder):
    _, model, weights, image = decoder
    vectors = jnp.asarray(mean_color(CLIP, image[::-1]) * DIM**0.5)

    def of_prompt(own, keys, cond, *, steps=1):
        return own.params[cond["prompt"][:, 0]]

    prior = model._replace(
        sampler=Sampler(of_prompt, {"steps": model.sampler.options["steps"]}),
        inputs={"prompt": Input("tokens", (3,), 10)},
    )
    both = with_prior(model, prior)
    frozen = {**weights.frozen, "prior": Weights(vectors)}
    draw = jax.jit(
        lambda cond: both.sampler.draw(weights._replace(frozen=frozen), KEYS, cond, steps=2)
    )
    prompt = jnp.array([[3, 1, 2], [2, 1, 2], [1, 1, 2], [0, 1, 2]])
    plain = jax.jit(lambda cond: model.sampler.draw(weights, KEYS, cond, steps=2))
    np.testing.assert_array_equal(draw({"prompt": prompt}), plain({"like": image}))
    # With an image the prior looks on.
    np.testing.assert_array_equal(
        draw({"prompt": prompt, "like": image[::-1]}), plain({"like": image[::-1]})
    )
    assert both.inputs["prompt"].needed
    assert not both.inputs["like"].needed
    assert "prior_steps" in both.sampler.options


def test_embeddings_are_a_codec_of_unit_variance():
    codec = embeddings(MATCHING, DIM)
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8))
    z = codec.encode(CLIP, image, rng.per_example(jax.random.key(0), 0, 5))
    np.testing.assert_allclose(jnp.mean(jnp.square(z), axis=1), 1.0, rtol=1e-5)


def test_the_prior_looks_at_text_time_and_noise_and_not_at_padding():
    network = EmbeddingTransformer(DIM, width=16, depth=2, num_heads=2)
    x = jax.random.normal(jax.random.key(0), (2, DIM))
    context = jax.random.normal(jax.random.key(1), (2, 5, 6))
    told = {
        "pooled": jax.random.normal(jax.random.key(2), (2, 3)),
        "context_mask": jnp.array([[True] * 3 + [False] * 2, [True] * 5]),
    }
    t = jnp.array([0.2, 0.7])
    params = network.init(jax.random.key(3), x, t, None, None, context, **told)
    run = jax.jit(
        lambda x, t, context, pooled: network.apply(
            params, x, t, None, None, context, pooled=pooled, context_mask=told["context_mask"]
        )
    )
    made = run(x, t, context, told["pooled"])
    assert made.shape == (2, DIM)
    padded = context.at[0, 3:].set(9.0)
    np.testing.assert_allclose(run(x, t, padded, told["pooled"])[0], made[0], atol=1e-5)
    for changed in (
        run(x + 1, t, context, told["pooled"]),
        run(x, t + 0.2, context, told["pooled"]),
        run(x, t, context + 1, told["pooled"]),
        run(x, t, context, told["pooled"] + 1),
    ):
        assert np.abs(np.asarray(changed - made)).max() > 1e-4
