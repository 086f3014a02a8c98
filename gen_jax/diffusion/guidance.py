"""Guidance: Denoiser -> Denoiser, so that rules compose with each other and with any solver.

All strengths may be traced: changing them compiles nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Denoiser, Prediction, eps_from_x_0
from gen_jax.diffusion.schedules import MIN_ALPHA, Schedule, like
from gen_jax.typing import Array, Float, ScalarLike

__all__ = [
    "classifier_free",
    "classifier_guidance",
    "clip_x_0",
    "dynamic_threshold",
    "through_x_0",
    "two_conditions",
]

Times = Float[Array, "*t"] | float
Pair = Callable[[Float[Array, "batch *dims"], Times], tuple[Prediction, Prediction]]
"""``(x, t) -> (prediction with the condition, prediction without it)``"""


def clip_x_0(
    denoiser: Denoiser, schedule: Schedule, low: ScalarLike = -1.0, high: ScalarLike = 1.0
) -> Denoiser:
    """Clip the predicted x_0 to the range of the data and make eps agree with it.

    Static thresholding (Saharia et al. 2022, Section 2.3); for the DDPM solver it is what Ho et
    al. 2020 do.

    Args:
        denoiser: the denoiser to guide.
        schedule: its schedule.
        low: smallest value of the data.
        high: largest value of the data.
    """
    return _with_x_0(denoiser, schedule, lambda x_0: jnp.clip(x_0, low, high))


def dynamic_threshold(
    denoiser: Denoiser, schedule: Schedule, quantile: ScalarLike = 0.995, bound: float = 1.0
) -> Denoiser:
    """Clip each example's x_0 to a quantile of its absolute values, and scale it back.

    With s the larger of ``bound`` and the quantile, x_0 becomes clip(x_0, -s, s) bound / s: strong
    guidance then saturates fewer pixels (Saharia et al. 2022, Section 2.3).

    Args:
        denoiser: the denoiser to guide.
        schedule: its schedule.
        quantile: in [0, 1]; 1 clips nothing but scales.
        bound: largest absolute value of the data.
    """

    def threshold(x_0: Float[Array, "batch *dims"]) -> Array:
        values = jnp.abs(jnp.reshape(x_0, (len(x_0), -1)))
        s = like(jnp.maximum(jnp.quantile(values, quantile, axis=1), bound), x_0)
        return jnp.clip(x_0, -s, s) * bound / s

    return _with_x_0(denoiser, schedule, threshold)


def _with_x_0(denoiser: Denoiser, schedule: Schedule, change: Callable[[Array], Array]) -> Denoiser:
    def denoise(x: Float[Array, "batch *dims"], t: Times) -> Prediction:
        prediction = denoiser(x, t)
        x_0 = change(prediction.x_0)
        alpha, sigma = like(schedule.alpha(t), x), like(schedule.sigma(t), x)
        return prediction._replace(x_0=x_0, eps=eps_from_x_0(x_0, x, alpha, sigma))

    return denoise


def classifier_free(
    pair: Pair,
    scale: ScalarLike,
    interval: tuple[ScalarLike, ScalarLike] = (0.0, 1.0),
) -> Denoiser:
    """Move predictions away from the unconditional ones: u + scale (c - u).

    In eps and x_0 alike, as both are linear in each other. The scale 1 is the conditional model, 0
    the unconditional one; Ho & Salimans 2022 (Eq. 6) call scale - 1 their w.

    Args:
        pair: both predictions. Of two denoisers: ``lambda x, t: (with_(x, t), without(x, t))``; one
            network call for a batch of both is cheaper.
        scale: strength.
        interval: lowest and highest t at which it acts; elsewhere the scale is 1 (Kynkäänniemi et
            al. 2024, Eq. 6).
    """
    low, high = interval

    def denoise(x: Float[Array, "batch *dims"], t: Times) -> Prediction:
        conditional, unconditional = pair(x, t)
        t = jnp.asarray(t, jnp.float32)
        strength = like(jnp.where((t >= low) & (t <= high), scale, 1.0), x)
        guided = jax.tree.map(
            lambda c, u: u + strength * (c - u), conditional[:2], unconditional[:2]
        )
        # How much noise a step adds is not guided: the condition's own.
        return Prediction(*guided, variance=conditional.variance)

    return denoise


Triple = Callable[[Float[Array, "batch *dims"], Times], tuple[Prediction, Prediction, Prediction]]
"""``(x, t) -> (prediction with image and text, with the image alone, with neither)``"""


def two_conditions(
    triple: Triple,
    scale: ScalarLike,
    image_scale: ScalarLike,
    interval: tuple[ScalarLike, ScalarLike] = (0.0, 1.0),
) -> Denoiser:
    """Guide by an image and by a text, each by its own strength.

    n + image_scale (i - n) + scale (c - i), of neither, of the image alone, and of both (Brooks et
    al. 2023, Eq. 3). With both scales 1 it is the conditional model.

    Args:
        triple: the predictions.
        scale: strength of the text.
        image_scale: strength of the image.
        interval: as of :func:`classifier_free`.
    """
    low, high = interval

    def denoise(x: Float[Array, "batch *dims"], t: Times) -> Prediction:
        both, image, neither = triple(x, t)
        t = jnp.asarray(t, jnp.float32)
        acts = (t >= low) & (t <= high)
        of_text, of_image = (
            like(jnp.where(acts, strength, 1.0), x) for strength in (scale, image_scale)
        )
        guided = jax.tree.map(
            lambda c, i, n: n + of_image * (i - n) + of_text * (c - i),
            both[:2],
            image[:2],
            neither[:2],
        )
        return Prediction(*guided, variance=both.variance)

    return denoise


def classifier_guidance(
    denoiser: Denoiser,
    schedule: Schedule,
    log_prob: Callable[[Float[Array, "batch *dims"], Times], Float[Array, "batch"]],
    scale: ScalarLike = 1.0,
    interval: tuple[ScalarLike, ScalarLike] = (0.0, 1.0),
) -> Denoiser:
    """Move predictions along the gradient of log p(label | x_t).

    eps becomes eps - scale sigma grad log p (Dhariwal & Nichol 2021, Eq. 14), and x_0 agrees with
    it. With scale 1 and the true p(label | x_t) the result is the conditional denoiser itself.

    Args:
        denoiser: usually an unconditional one.
        schedule: its schedule. Where nothing of the signal is left there is nothing to guide.
        log_prob: ``(x_t [B, ...], t) -> log p [B]`` of the label that each example should have.
        scale: strength.
        interval: lowest and highest t at which it acts.
    """
    low, high = interval
    gradient = jax.grad(lambda x, t: jnp.sum(log_prob(x, t)))

    def denoise(x: Float[Array, "batch *dims"], t: Times) -> Prediction:
        prediction = denoiser(x, t)
        t = jnp.asarray(t, jnp.float32)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        acts = (t >= low) & (t <= high) & (alpha > MIN_ALPHA)
        push = like(jnp.where(acts, scale * sigma, 0.0), x) * gradient(x, t)
        ratio = like(sigma / jnp.maximum(alpha, MIN_ALPHA), x)
        return prediction._replace(x_0=prediction.x_0 + ratio * push, eps=prediction.eps - push)

    return denoise


def through_x_0(
    denoiser: Denoiser,
    log_prob: Callable[[Float[Array, "batch *dims"]], Float[Array, "batch"]],
) -> Callable[[Float[Array, "batch *dims"], Times], Float[Array, "batch"]]:
    """Judge noisy x by what the denoiser takes its x_0 to be, for :func:`classifier_guidance`.

    For judges that never saw noise: log p(y | x_t) is put equal to log p(y | E[x_0 | x_t]) (Chung
    et al. 2023, Eq. 11), whose gradient goes through the denoiser. It is exact where log p is
    linear in x_0 or nothing is uncertain, at the end of sampling; before, it is too sure.

    Args:
        denoiser: of the model.
        log_prob: ``x_0 [B, ...] -> log p [B]`` of what each example should show.

    Returns:
        ``(x_t, t) -> log p [B]``.
    """
    return lambda x, t: log_prob(denoiser(x, t).x_0)
