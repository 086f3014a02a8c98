"""What a network is trained to predict, and how to read it.

Whatever the target, one output becomes one :class:`Prediction` with both x_0 and eps, so that
solvers and guidance never ask what the network was trained on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax.diffusion.schedules import MIN_ALPHA, Schedule, like
from gen_jax.ops.checks import check_floating, check_times
from gen_jax.typing import Array, Float

__all__ = [
    "Denoiser",
    "Parameterization",
    "Prediction",
    "denoiser",
    "edm",
    "epsilon",
    "v",
    "velocity",
    "x_0",
]


class Prediction(NamedTuple):
    """A denoised example and the noise that goes with it: x_t = alpha x_0 + sigma eps.

    ``variance`` is what models with learned variances add: where between the log of the posterior's
    variance (0) and that of beta (1) the log-variance of a step lies (Nichol & Dhariwal 2021, Eq.
    15).
    """

    x_0: Float[Array, "batch *dims"]
    eps: Float[Array, "batch *dims"]
    variance: Float[Array, "batch *dims"] | None = None


Denoiser = Callable[[Float[Array, "batch *dims"], Float[Array, "*t"] | float], Prediction]
"""``(x [B, ...], t in (0, 1], a scalar or [B]) -> Prediction``; parameters, condition and guidance
are already closed over."""


def _as_they_are(x_t: Array, t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    del alpha, sigma
    return x_t, t


class Parameterization(NamedTuple):
    """A pair of linear maps; ``alpha`` and ``sigma`` are shaped to multiply the arrays.

    ``target(x_0, eps, alpha, sigma)`` is what the network should give, and
    ``read(output, x_t, alpha, sigma)`` the :class:`Prediction` that an output stands for.
    ``show(x_t, t, alpha, sigma)`` is what the network is given: x_t and t as they are, unless a
    preconditioning scales them. ``name`` is what configs and errors call it.
    """

    target: Callable[[Array, Array, Array, Array], Array]
    read: Callable[[Array, Array, Array, Array], Prediction]
    show: Callable[[Array, Array, Array, Array], tuple[Array, Array]] = _as_they_are
    name: str = ""


def _x_0_from_eps(eps: Array, x_t: Array, alpha: Array, sigma: Array) -> Array:
    return (x_t - sigma * eps) / alpha


def eps_from_x_0(x_0: Array, x_t: Array, alpha: Array, sigma: Array) -> Array:
    """Return the noise that leads from ``x_0`` to ``x_t``: (x_t - alpha x_0) / sigma."""
    return (x_t - alpha * x_0) / sigma


# Functions by name and no lambdas, so that what is made of them can be pickled.
def _target_eps(x_0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
    del x_0, alpha, sigma
    return eps


def _read_eps(output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
    return Prediction(x_0=_x_0_from_eps(output, x_t, alpha, sigma), eps=output)


epsilon = Parameterization(_target_eps, _read_eps, name="eps")
"""The noise itself (Ho et al. 2020, Eq. 12)."""


def _target_x_0(x_0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
    del eps, alpha, sigma
    return x_0


def _read_x_0(output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
    return Prediction(x_0=output, eps=eps_from_x_0(output, x_t, alpha, sigma))


x_0 = Parameterization(_target_x_0, _read_x_0, name="x_0")
"""The clean example."""


def _target_v(x_0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
    return alpha * eps - sigma * x_0


def _read_v(output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
    # Divided by alpha^2 + sigma^2, which is 1 for a variance-preserving schedule only.
    norm = jnp.square(alpha) + jnp.square(sigma)
    return Prediction(
        x_0=(alpha * x_t - sigma * output) / norm, eps=(sigma * x_t + alpha * output) / norm
    )


v = Parameterization(_target_v, _read_v, name="v")
"""v = alpha eps - sigma x_0 (Salimans & Ho 2022, Appendix D); defined at both ends of time."""


def _target_velocity(x_0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
    del alpha, sigma
    return eps - x_0


def _read_velocity(output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
    total = alpha + sigma
    return Prediction(x_0=(x_t - sigma * output) / total, eps=(x_t + alpha * output) / total)


velocity = Parameterization(_target_velocity, _read_velocity, name="velocity")
"""eps - x_0, the velocity dx_t / dt of a rectified flow (Liu et al. 2023, Eq. 1, where time runs
the other way); defined at both ends of time, for any schedule."""


def edm(sigma_data: float = 0.5) -> Parameterization:
    """Make the preconditioning of EDM (Karras et al. 2022, Table 1 and Eq. 7), for any schedule.

    With s = sigma / alpha and d = sigma_data, a network F gives

        x_0 = d^2 / (s^2 + d^2) x + s d / sqrt(s^2 + d^2) F(x / sqrt(s^2 + d^2), log(s) / 4)

    for x = x_t / alpha. The mean squared error of its target is their loss with the weight 1 /
    c_out^2 (Eq. 8), so that it needs no other. Where sigma^2 + alpha^2 = 1 and d = 1, the target is
    minus that of :data:`v`.

    Args:
        sigma_data: standard deviation of the data, above 0.

    Raises:
        ValueError: if it is not.
    """
    if not sigma_data > 0:
        raise ValueError(f"sigma_data: got {sigma_data}; a number above 0 is required")
    made = _EDM(sigma_data)
    return Parameterization(made.target, made.read, made.show, "edm")


class _EDM:
    """The maps of :func:`edm`; d is ``sigma_data``."""

    def __init__(self, d: float) -> None:
        self.d = d

    def norm(self, alpha: Array, sigma: Array) -> Array:
        return jnp.sqrt(jnp.square(sigma) + self.d**2 * jnp.square(alpha))

    def target(self, x_0: Array, eps: Array, alpha: Array, sigma: Array) -> Array:
        return (sigma * x_0 - self.d**2 * alpha * eps) / (self.d * self.norm(alpha, sigma))

    def read(self, output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
        n = self.norm(alpha, sigma)
        return Prediction(
            x_0=self.d**2 * alpha * x_t / n**2 + sigma * self.d / n * output,
            eps=sigma * x_t / n**2 - alpha * self.d / n * output,
        )

    def show(self, x_t: Array, t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        # Finite where nothing of the signal, or of the noise, is left.
        level = jnp.log(jnp.maximum(sigma, MIN_ALPHA)) - jnp.log(jnp.maximum(alpha, MIN_ALPHA))
        return x_t / self.norm(alpha, sigma), jnp.reshape(level, t.shape) / 4


def denoiser(
    network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array],
    schedule: Schedule,
    parameterization: Parameterization,
    learned_variance: bool = False,
) -> Denoiser:
    """Make a denoiser of any network.

    Args:
        network: ``(x_t [B, ...], t [B] in (0, 1]) -> output [B, ...]``: a bare function, or a bound
            module of any framework.
        schedule: the schedule that the network was trained with.
        parameterization: what the network was trained to predict.
        learned_variance: whether the network has twice as many channels, whose second half, from -1
            to 1, says where the variance lies (see :class:`Prediction`).
    """

    def denoise(x: Float[Array, "batch *dims"], t: Float[Array, "*t"] | float) -> Prediction:
        check_floating(x=x)
        check_times(t)
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        alpha, sigma = like(schedule.alpha(t), x), like(schedule.sigma(t), x)
        output = network(*parameterization.show(x, t, alpha, sigma))
        if not learned_variance:
            return parameterization.read(output, x, alpha, sigma)
        output, variance = jnp.split(output, 2, axis=-1)
        prediction = parameterization.read(output, x, alpha, sigma)
        return prediction._replace(variance=(variance + 1) / 2)

    return denoise
