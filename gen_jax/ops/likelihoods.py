"""What a decoder's outputs say about x: log p(x | z), its mean, and draws from it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.ops import distributions as dist, keys as rng
from gen_jax.typing import Array, Float, Keys, ScalarLike

__all__ = [
    "Likelihood",
    "Sigma",
    "bernoulli",
    "discretized_logistic",
    "gaussian",
    "logistic_mixture",
    "logit_laplace",
]

Sigma = Literal["fixed", "learned", "optimal"]


class Likelihood(NamedTuple):
    """A family of distributions over x [*batch, H, W, C], given a decoder's outputs.

    ``num_outputs(channels)`` says how many outputs a pixel needs. ``log_prob(outputs, x,
    log_sigma)`` gives nats [*batch], summed over H, W and C; leading dimensions broadcast.
    ``mean(outputs)`` and ``sample(outputs, log_sigma, keys)`` give x. ``sigma`` says where
    ``log_sigma`` comes from; likelihoods other than :func:`gaussian` ignore it.
    """

    num_outputs: Callable[[int], int]
    log_prob: Callable[[Array, Array, ScalarLike], Array]
    mean: Callable[[Array], Array]
    sample: Callable[[Array, ScalarLike, Keys], Array]
    sigma: Sigma = "fixed"
    initial_log_sigma: float = 0.0


def _total(nats: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch"]:
    return jnp.sum(nats, axis=(-3, -2, -1))


def bernoulli() -> Likelihood:
    """Make the likelihood of binary x in {0, 1}; outputs are logits.

    For gray levels in [0, 1] it is a cross-entropy, usable as a loss, and no density.
    """

    def sample(outputs: Array, log_sigma: ScalarLike, keys: Keys) -> Array:
        del log_sigma
        draw = jax.vmap(lambda key, logits: jax.random.bernoulli(key, jax.nn.sigmoid(logits)))
        return draw(keys, outputs).astype(jnp.float32)

    return Likelihood(
        num_outputs=lambda channels: channels,
        log_prob=lambda outputs, x, log_sigma: _total(dist.bernoulli_log_prob(x, outputs)),
        mean=jax.nn.sigmoid,
        sample=sample,
    )


def gaussian(sigma: Sigma = "fixed", initial_log_sigma: float = 0.0) -> Likelihood:
    """Make the likelihood N(x; outputs, sigma^2) with one sigma for all pixels.

    Args:
        sigma: ``"fixed"`` stays at its initial value; ``"learned"`` is a parameter; ``"optimal"``
            is the maximum-likelihood value, sigma^2 = mean squared error (Rybkin et al. 2021, Eq.
            6), of the batch in training and of a running mean after it.
        initial_log_sigma: log sigma at the start.
    """

    def sample(outputs: Array, log_sigma: ScalarLike, keys: Keys) -> Array:
        return outputs + jnp.exp(log_sigma) * rng.normal(keys, outputs.shape[1:])

    return Likelihood(
        num_outputs=lambda channels: channels,
        log_prob=lambda outputs, x, log_sigma: _total(dist.normal_log_prob(x, outputs, log_sigma)),
        mean=lambda outputs: outputs,
        sample=sample,
        sigma=sigma,
        initial_log_sigma=initial_log_sigma,
    )


def discretized_logistic() -> Likelihood:
    """Make the likelihood of 256 gray levels in [-1, 1]: a mean and a scale for each channel.

    It is the mixture of a single logistic without its coefficients.
    """

    def split(outputs: Array) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        return mean, jnp.clip(log_scale, dist.MIN_LOG_SCALE, dist.MAX_LOG_SCALE)

    def sample(outputs: Array, log_sigma: ScalarLike, keys: Keys) -> Array:
        del log_sigma
        mean, log_scale = split(outputs)
        noise = jax.vmap(lambda key: jax.random.logistic(key, mean.shape[1:]))(keys)
        return jnp.clip(mean + jnp.exp(log_scale) * noise, -1.0, 1.0)

    return Likelihood(
        num_outputs=lambda channels: 2 * channels,
        log_prob=lambda outputs, x, log_sigma: _total(
            dist.discretized_logistic_log_prob(x, *split(outputs))
        ),
        mean=lambda outputs: jnp.clip(split(outputs)[0], -1.0, 1.0),
        sample=sample,
    )


def logistic_mixture(channels: int, components: int = 10) -> Likelihood:
    """Make the likelihood of 256 gray levels of PixelCNN++ (Salimans et al. 2017).

    Args:
        channels: of a pixel, which depend on each other.
        components: of the mixture.
    """

    def log_prob(outputs: Array, x: Array, log_sigma: ScalarLike) -> Array:
        del log_sigma
        return jnp.sum(dist.logistic_mixture_log_prob(x, outputs), axis=(-2, -1))

    return Likelihood(
        num_outputs=lambda channels: dist.logistic_mixture_outputs(channels, components),
        log_prob=log_prob,
        mean=lambda outputs: dist.logistic_mixture_mean(outputs, channels),
        sample=lambda outputs, log_sigma, keys: dist.sample_logistic_mixture(
            keys, outputs, channels
        ),
    )


def logit_laplace() -> Likelihood:
    """Make the likelihood of x in (0, 1) of DALL-E: a mean and a log-scale for each channel.

    ``mean`` gives sigmoid of the former, the distribution's median, as the paper does (Ramesh et
    al. 2021, appendix A.3). See :func:`gen_jax.codecs.unit` for the values that it is about.
    """

    def split(outputs: Array) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        return mean, jnp.clip(log_scale, dist.MIN_LOG_SCALE, dist.MAX_LOG_SCALE)

    def sample(outputs: Array, log_sigma: ScalarLike, keys: Keys) -> Array:
        del log_sigma
        mean, log_scale = split(outputs)
        noise = jax.vmap(lambda key: jax.random.laplace(key, mean.shape[1:]))(keys)
        return jax.nn.sigmoid(mean + jnp.exp(log_scale) * noise)

    return Likelihood(
        num_outputs=lambda channels: 2 * channels,
        log_prob=lambda outputs, x, log_sigma: _total(
            dist.logit_laplace_log_prob(x, *split(outputs))
        ),
        mean=lambda outputs: jax.nn.sigmoid(split(outputs)[0]),
        sample=sample,
    )
