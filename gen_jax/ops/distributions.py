"""Log-densities and divergences, in nats, and draws.

Functions are elementwise and broadcast, unless their docstring says otherwise. ``log_variance`` is
log sigma^2, ``log_sigma`` is log sigma and ``log_scale`` the logarithm of a logistic's scale.
"""

import math

import jax
import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Keys, ScalarLike

__all__ = [
    "bernoulli_log_prob",
    "discretized_logistic_log_prob",
    "discretized_normal_log_prob",
    "kl_bernoulli",
    "kl_normal",
    "logistic_mixture_log_prob",
    "logistic_mixture_mean",
    "logistic_mixture_outputs",
    "logit_laplace_log_prob",
    "normal_log_prob",
    "sample_logistic_mixture",
]

_LOG_TWO_PI = math.log(2 * math.pi)
# Below, a logistic is narrower than any gray level and its gradients are noise (Salimans 2017).
# Above, it is flat over all of them, and single precision would lose their differences.
MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 7.0


@checked
def normal_log_prob(
    x: Float[Array, "..."], mean: Float[Array, "..."] | float, log_sigma: ScalarLike
) -> Float[Array, "..."]:
    """Compute log N(x; mean, sigma^2)."""
    return -0.5 * (((x - mean) * jnp.exp(-log_sigma)) ** 2 + _LOG_TWO_PI) - log_sigma


@checked
def kl_normal(
    mean: Float[Array, "..."],
    log_variance: Float[Array, "..."],
    prior_mean: ScalarLike = 0.0,
    prior_log_variance: ScalarLike = 0.0,
) -> Float[Array, "..."]:
    """Compute KL(N(mean, variance) || N(prior_mean, prior_variance)), by default to N(0, 1).

    With the standard normal this is -1/2 (1 + log sigma^2 - mu^2 - sigma^2) (Kingma & Welling 2014,
    appendix B).
    """
    ratio = log_variance - prior_log_variance
    distance = (mean - prior_mean) ** 2 * jnp.exp(-prior_log_variance)
    # expm1, because a posterior near its prior would lose the difference to rounding.
    return 0.5 * (jnp.expm1(ratio) - ratio + distance)


@checked
def logit_laplace_log_prob(
    x: Float[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Compute log f(x) = -log(2 b x (1 - x)) - |logit(x) - mean| / b for x in (0, 1).

    The density of sigmoid(y) with y Laplace-distributed (Ramesh et al. 2021, appendix A.3).
    """
    logit = jnp.log(x) - jnp.log1p(-x)
    spread = math.log(2) + log_scale + jnp.log(x) + jnp.log1p(-x)
    return -spread - jnp.abs(logit - mean) * jnp.exp(-log_scale)


@checked
def bernoulli_log_prob(x: Float[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute x log p + (1 - x) log(1 - p) with p = sigmoid(logits).

    For x strictly between 0 and 1 this is a cross-entropy and no log-density.
    """
    return x * logits - jax.nn.softplus(logits)


@checked
def kl_bernoulli(p: Float[Array, "..."] | float, q: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute KL(Bernoulli(p) || Bernoulli(q)) for probabilities in (0, 1)."""
    return p * (jnp.log(p) - jnp.log(q)) + (1 - p) * (jnp.log1p(-p) - jnp.log1p(-q))


@checked
def discretized_logistic_log_prob(
    x: Float[Array, "..."],
    mean: Float[Array, "..."],
    log_scale: Float[Array, "..."],
    levels: int = 256,
) -> Float[Array, "..."]:
    """Compute the log-probability of gray levels under a logistic cut into equal bins.

    P(x) = sigmoid((x + h - mean) / s) - sigmoid((x - h - mean) / s) with half a bin
    h = 1 / (levels - 1); the first bin reaches to minus infinity and the last to infinity, so that
    the probabilities of all levels sum to 1 (Kingma et al. 2016; Salimans et al. 2017, Eq. 2).

    Args:
        x: one of the ``levels`` equidistant values from -1 to 1.
        mean: of the logistic.
        log_scale: log s, clipped to [-7, 7].
        levels: how many gray levels there are.
    """
    half = 1.0 / (levels - 1)
    log_scale = jnp.clip(log_scale, MIN_LOG_SCALE, MAX_LOG_SCALE)
    inverse = jnp.exp(-log_scale)
    upper = (x - mean + half) * inverse
    lower = (x - mean - half) * inverse
    log_below = jax.nn.log_sigmoid(upper)
    log_above = jax.nn.log_sigmoid(-lower)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which never cancels.
    width = jnp.log(-jnp.expm1(-2 * half * inverse))
    inside = log_below + log_above + width
    # A quarter of a bin from the edge, for x that has been through single precision.
    edge = 1.0 - half / 2
    return jnp.where(x < -edge, log_below, jnp.where(x > edge, log_above, inside))


@checked
def discretized_normal_log_prob(
    x: Float[Array, "..."],
    mean: Float[Array, "..."],
    log_sigma: Float[Array, "..."],
    bin_width: float = 2.0 / 255,
) -> Float[Array, "..."]:
    """Compute the log-probability of gray levels under a normal cut into equal bins.

    The integral of N(mean, sigma^2) from x - h to x + h with half a bin h; the first bin reaches to
    minus infinity and the last to infinity (Ho et al. 2020, Eq. 13).

    Args:
        x: equidistant values from -1 to 1.
        mean: of the normal.
        log_sigma: of the normal.
        bin_width: distance of neighboring values.
    """
    half = bin_width / 2
    inverse = jnp.exp(-log_sigma)
    upper, lower = (x - mean + half) * inverse, (x - mean - half) * inverse
    # In the tail where the difference of the two does not cancel: Phi(b) - Phi(a) = Phi(-a) -
    # Phi(-b).
    mirrored = lower > 0
    a = jnp.where(mirrored, -upper, lower)
    b = jnp.where(mirrored, -lower, upper)
    log_b = jax.scipy.stats.norm.logcdf(b)
    gap = jnp.minimum(jax.scipy.stats.norm.logcdf(a) - log_b, -1e-30)
    inside = log_b + jnp.log(-jnp.expm1(gap))
    edge = 1.0 - half / 2
    log_below = jax.scipy.stats.norm.logcdf(upper)
    log_above = jax.scipy.stats.norm.logcdf(-lower)
    return jnp.where(x < -edge, log_below, jnp.where(x > edge, log_above, inside))


def logistic_mixture_outputs(channels: int, components: int) -> int:
    """Count the network outputs that a mixture of logistics needs for each pixel.

    One logit, and for each channel a mean, a log-scale and a coefficient for every channel before.
    """
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


@checked
def logistic_mixture_log_prob(
    x: Float[Array, "*dims channels"], outputs: Float[Array, "*outer outputs"], levels: int = 256
) -> Float[Array, "..."]:
    """Compute log P(pixel) under discretized logistics (Salimans et al. 2017, Eq. 2-3).

    A component's mean of a channel is shifted by a linear function of the channels before, so that
    channels depend on each other within a component.

    Args:
        x: one of ``levels`` equidistant values from -1 to 1; channels last.
        outputs: :func:`logistic_mixture_outputs` for each pixel; leading dimensions broadcast
            against those of x.
        levels: how many gray levels there are.

    Returns:
        One log-probability a pixel: all channels together.
    """
    logits, means, log_scales, coefficients = _split_mixture(outputs, x.shape[-1])
    total = jax.nn.log_softmax(logits, axis=-1)
    for channel in range(x.shape[-1]):
        mean = means[..., channel, :]
        for before in range(channel):
            mean = mean + coefficients[..., _pair(channel, before), :] * x[..., before, None]
        total = total + discretized_logistic_log_prob(
            x[..., channel, None], mean, log_scales[..., channel, :], levels
        )
    return jax.nn.logsumexp(total, axis=-1)


@checked
def logistic_mixture_mean(
    outputs: Float[Array, "*dims outputs"], channels: int
) -> Float[Array, "*dims channels"]:
    """Return the mean of a mixture of logistics, each component's clipped to [-1, 1]."""
    logits, means, _, coefficients = _split_mixture(outputs, channels)
    weights = jax.nn.softmax(logits, axis=-1)
    values = _in_order(means, coefficients)
    return jnp.stack([jnp.sum(weights * value, axis=-1) for value in values], axis=-1)


@checked
def sample_logistic_mixture(
    keys: Keys, outputs: Float[Array, "batch *dims outputs"], channels: int
) -> Float[Array, "batch *dims channels"]:
    """Draw pixels from a mixture of logistics, clipped to [-1, 1], with one key an example."""

    def draw(key: Array, outputs: Array) -> Array:
        which_key, noise_key = jax.random.split(key)
        logits, means, log_scales, coefficients = _split_mixture(outputs, channels)
        which = jax.random.categorical(which_key, logits, axis=-1)[..., None, None]
        chosen = [jnp.take_along_axis(x, which, axis=-1) for x in (means, log_scales, coefficients)]
        noise = jax.random.logistic(noise_key, chosen[0].shape)
        values = _in_order(chosen[0] + noise * jnp.exp(chosen[1]), chosen[2])
        return jnp.concatenate(values, axis=-1)

    return jax.vmap(draw)(keys, outputs)


def _in_order(values: Array, coefficients: Array) -> list[Array]:
    """Let each channel, clipped, shift those after it: [..., channel, component] to a list."""
    done: list[Array] = []
    for channel in range(values.shape[-2]):
        value = values[..., channel, :]
        for before in range(channel):
            value = value + coefficients[..., _pair(channel, before), :] * done[before]
        done.append(jnp.clip(value, -1.0, 1.0))
    return done


def _pair(channel: int, before: int) -> int:
    return channel * (channel - 1) // 2 + before


def _split_mixture(outputs: Array, channels: int) -> tuple[Array, Array, Array, Array]:
    pairs = channels * (channels - 1) // 2
    rows = 1 + 2 * channels + pairs
    if outputs.shape[-1] % rows:
        raise ValueError(
            f"outputs: got {outputs.shape[-1]}; a multiple of {rows} is required for {channels} "
            "channels"
        )
    table = jnp.reshape(outputs, (*outputs.shape[:-1], rows, outputs.shape[-1] // rows))
    logits, means, log_scales, coefficients = jnp.split(
        table, (1, 1 + channels, 1 + 2 * channels), axis=-2
    )
    log_scales = jnp.clip(log_scales, MIN_LOG_SCALE, MAX_LOG_SCALE)
    return logits[..., 0, :], means, log_scales, jnp.tanh(coefficients)
