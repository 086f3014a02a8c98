"""A diffusion process as a whole: what is chosen before there is a network."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

from gen_jax.diffusion import rules
from gen_jax.diffusion.parameterization import Denoiser, Parameterization, denoiser
from gen_jax.diffusion.schedules import Schedule, end_levels
from gen_jax.diffusion.solvers import Variance
from gen_jax.diffusion.time_sampling import (
    TimeSampler,
    continuous,
    discrete,
    log_normal_noise,
)
from gen_jax.errors import check_arguments
from gen_jax.typing import Array, Float

__all__ = ["Process", "make_process"]


class Process(NamedTuple):
    """Noise, what a network says of it, and what data it is about; see :func:`make_process`."""

    schedule: Schedule
    parameterization: Parameterization
    num_steps: int | None
    learned_variance: bool
    clip: bool
    bin_width: float | None
    default_grid: str
    coupled: bool

    def denoiser(
        self, network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array]
    ) -> Denoiser:
        """Make a denoiser of a network ``(x_t, t [B]) -> output``."""
        return denoiser(network, self.schedule, self.parameterization, self.learned_variance)

    @property
    def variances(self) -> tuple[Variance, ...]:
        """List the variances that a DDPM step may have, the default first."""
        fixed: tuple[Variance, ...] = ("beta", "beta_tilde")
        return ("learned", *fixed) if self.learned_variance else fixed

    @property
    def likelihood_variances(self) -> tuple[Variance, ...]:
        """List the variances that the steps of a bound may have, the default first.

        Of a table without learned ones it is that of Ho et al. 2020's reported likelihoods.
        """
        if self.learned_variance or self.num_steps is None:
            return (*self.variances, "fixed_large")
        return ("fixed_large", *self.variances)

    @property
    def most_steps(self) -> int:
        """Return the largest number of steps of a solver."""
        return self.num_steps or 100_000

    def end(self) -> tuple[float, float]:
        """Return alpha(1) and sigma(1)."""
        return end_levels(self.schedule)

    def default_times(self) -> TimeSampler:
        """Make the usual times of training: uniform, or EDM's where the variance explodes."""
        if self.num_steps is not None:
            return discrete(self.num_steps)
        alpha, sigma = self.end()
        return log_normal_noise(self.schedule) if alpha**2 + sigma**2 > 4 else continuous()


def make_process(
    schedule: Schedule,
    parameterization: Parameterization,
    num_steps: int | None = None,
    *,
    learned_variance: bool = False,
    clip: bool = True,
    bin_width: float | None = None,
    default_grid: str = "uniform",
    coupled: bool = False,
) -> Process:
    """Put a process together.

    Args:
        schedule: signal and noise levels.
        parameterization: what the network is trained to predict.
        num_steps: T of a discrete schedule, whose times are {1/T, ..., 1}; None for a continuous
            one.
        learned_variance: whether the network has twice as many outputs, the second half for
            variances (Nichol & Dhariwal 2021, Eq. 15).
        clip: whether sampling clips the predicted x_0 to [-1, 1], the range of pixels.
        bin_width: of one gray level of x, which then is from -1 to 1; None where x is not discrete.
        default_grid: of sampling; one of :data:`gen_jax.diffusion.recipes.GRIDS`.
        coupled: whether the noise of training depends on the data, as after pairing or reflow. The
            probability flow is right then, but -eps / sigma is no score: solvers that add noise,
            guidance by a classifier and bounds are wrong.

    Raises:
        ValueError: if at t = 1, where sampling begins, the prediction does not say what x_0 is.

    Example:
        >>> process = make_process(rectified_flow(), velocity)
        >>> process.default_times()(keys).shape
        (16,)
    """
    process = Process(
        schedule,
        parameterization,
        num_steps,
        learned_variance,
        clip,
        bin_width,
        default_grid,
        coupled,
    )
    alpha, sigma = process.end()
    if alpha > rules.MAX_ALPHA * sigma:
        warnings.warn(
            f"schedule: alpha(1) is {alpha:.2g} and sigma(1) {sigma:.2g}: samples begin with noise "
            "alone, which this model never sees",
            stacklevel=3,
        )
    if parameterization.name == "eps":  # the others are defined at both ends
        check_arguments(
            rules.prediction_faults(
                prediction="eps",
                signal=alpha >= rules.MIN_ALPHA,
                last_beta=schedule.last_beta,
                clip=clip,
            )
        )
    return process
