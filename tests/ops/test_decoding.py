import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode, warp_logits

LOGITS = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))


def kept(**options):
    return np.flatnonzero(np.isfinite(warp_logits(LOGITS, **options)[0])).tolist()


def test_by_default_nothing_changes():
    np.testing.assert_array_equal(warp_logits(LOGITS), LOGITS)


def test_temperature_divides():
    np.testing.assert_allclose(warp_logits(LOGITS, temperature=0.5), LOGITS * 2, rtol=1e-6)


def test_the_likeliest_stay():
    assert [kept(top_k=k) for k in (1, 2, 3, 4, 9)] == [
        [1], [1, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]
    ]  # fmt: skip
    assert [kept(top_p=p) for p in (0.01, 0.39, 0.5, 0.75, 0.95, 1.0)] == [
        [1], [1], [1, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]
    ]  # fmt: skip
    # Of the two likeliest, renormalized to 4/7 and 3/7, the first is enough for a half.
    assert kept(top_k=2, top_p=0.5) == [1]


@given(
    # XLA flushes subnormal numbers to zero, which would be a difference of its own.
    logits=st.lists(st.floats(-5, 5, width=32, allow_subnormal=False), min_size=2, max_size=8),
    top_k=st.integers(0, 9),
    top_p=st.floats(0.01, 1.0),
)
@settings(max_examples=50)
def test_something_always_stays_and_nothing_is_invented(logits, top_k, top_p):
    logits = jnp.array([logits])
    warped = warp_logits(logits, 1.0, top_k, top_p)
    stays = jnp.isfinite(warped)
    assert int(stays.sum()) >= 1
    assert bool(stays[0, jnp.argmax(logits)])
    np.testing.assert_array_equal(jnp.where(stays, warped, 0), jnp.where(stays, logits, 0))
    if top_k:
        assert int(stays.sum()) <= top_k


def test_options_are_traced():
    traces = []

    @jax.jit
    def warp(temperature, top_k, top_p):
        traces.append(1)
        return warp_logits(LOGITS, temperature, top_k, top_p)

    for options in ((1.0, 0, 1.0), (0.5, 2, 0.9), (2.0, 1, 0.1)):
        warp(*options)
    assert len(traces) == 1


def test_sequences_follow_the_chain_they_are_drawn_from():
    """A Markov chain of three states: frequencies of pairs are the chain's."""
    start = jnp.array([0.2, 0.3, 0.5])
    move = jnp.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.3, 0.3, 0.4]])

    def step(state, token, index):
        probability = jnp.where(index == 0, start[None], move[token])
        return jnp.log(probability), state + 1

    keys = rng.per_example(jax.random.key(0), 0, 20_000)
    x = np.asarray(decode(step, jnp.int32(0), 4, keys))
    assert x.shape == (20_000, 4)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (x[:, 2], x[:, 3]), 1)
    np.testing.assert_allclose(pairs / pairs.sum(1, keepdims=True), move, atol=0.02)
    np.testing.assert_allclose(np.bincount(x[:, 0]) / 20_000, start, atol=0.015)
    again = np.asarray(decode(step, jnp.int32(0), 4, keys[5:9]))
    np.testing.assert_array_equal(again, x[5:9])


def test_cold_sampling_is_greedy():
    def step(state, token, index):
        return jnp.array([[0.0, 1.0, 0.5]]) * jnp.ones((5, 1)), state

    keys = rng.per_example(jax.random.key(0), 0, 5)
    assert decode(step, (), 3, keys, temperature=1e-4).tolist() == [[1, 1, 1]] * 5
    assert decode(step, (), 3, keys, top_k=1).tolist() == [[1, 1, 1]] * 5


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_tokens_and_pixels(levels):
    from gen_jax.codecs import tokens

    codec = tokens(levels)
    x = jnp.arange(levels)[None]
    np.testing.assert_array_equal(
        codec.encode({}, codec.decode({}, x), rng.per_example(jax.random.key(0), 0, 1)), x
    )
    assert codec.num_categories == levels
    assert (codec.log_scale is None) == (levels < 256)
    with pytest.raises(ValueError, match="levels: got 1; a whole number from 2 to 256 is required"):
        tokens(1)
