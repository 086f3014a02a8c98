import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from gen_jax.models.gaussian_mixture import gaussian_mixture_model
from gen_jax.ops import keys as rng
from gen_jax.protocols import Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

MODEL = gaussian_mixture_model((2, 1), 2)
TRUTH = {
    "logits": jnp.log(jnp.array([0.3, 0.7])),
    "mean": jnp.array([[-2.0, 1.0], [1.0, -1.0]]),
    "log_std": jnp.log(jnp.array([[0.5, 1.0], [0.3, 0.7]])),
}
WEIGHTS = Weights({"net": TRUTH})
KEYS = rng.per_example(jax.random.key(0), 0, 4000)


def test_the_density_is_scipy_s():
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    expected = sum(
        share * scipy.stats.norm.pdf(x, mean, np.exp(log_std)).prod(axis=1)
        for share, mean, log_std in zip((0.3, 0.7), TRUTH["mean"], TRUTH["log_std"], strict=True)
    )
    found = MODEL.density.log_prob(WEIGHTS, {"x": jnp.asarray(x).reshape(7, 2, 1)}, KEYS[:7])
    np.testing.assert_allclose(jnp.exp(found.nats), expected, rtol=1e-5)
    assert MODEL.density.kind == "exact"


def test_samples_have_its_moments():
    x = jax.jit(MODEL.sampler.draw)(WEIGHTS, KEYS, {}).reshape(-1, 2)
    shares = np.array([0.3, 0.7])[:, None]
    mean = (shares * TRUTH["mean"]).sum(axis=0)
    square = (shares * (np.exp(2 * TRUTH["log_std"]) + TRUTH["mean"] ** 2)).sum(axis=0)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose((x**2).mean(axis=0), square, rtol=0.1)


def test_it_finds_the_mixture_that_made_the_data():
    batch = {"x": jax.jit(MODEL.sampler.draw)(WEIGHTS, KEYS, {})}
    adam = {"net": optax.adam(3e-2)}
    state = init_state(MODEL, adam, jax.random.key(1), batch)
    step = jax.jit(make_train_step(MODEL, adam))
    for _ in range(300):
        state, metrics = step(state, {}, batch, jax.random.key(2))
    truth = -MODEL.density.log_prob(WEIGHTS, batch, KEYS).nats.mean()
    assert float(metrics["likelihood/loss"]) == pytest.approx(float(truth), abs=0.01)
    order = np.argsort(state.params["net"]["mean"][:, 0])
    np.testing.assert_allclose(state.params["net"]["mean"][order], TRUTH["mean"], atol=0.1)


def test_no_component_is_no_mixture():
    with pytest.raises(ValueError, match="num_components: got 0; at least 1 is required"):
        gaussian_mixture_model((2,), 0)
