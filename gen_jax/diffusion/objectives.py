"""What a diffusion model minimizes: L_simple, the bound, or both at once."""

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from gen_jax.diffusion.likelihood import bound_term
from gen_jax.diffusion.losses import denoising_loss
from gen_jax.diffusion.process import Process
from gen_jax.diffusion.weighting import Weighting, of_target, simple as weigh_eps
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float

__all__ = ["Objective", "objective_losses"]

Objective = Literal["simple", "hybrid", "vlb"]

# Weight of the bound in the hybrid loss: lambda of Nichol & Dhariwal 2021, Section 3.1.
HYBRID = 1e-3


@checked
def objective_losses(
    objective: Objective,
    process: Process,
    network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array],
    x_0: Float[Array, "batch *dims"],
    t: Float[Array, "batch"],
    eps: Float[Array, "batch *dims"],
    weighting: Weighting | None = None,
) -> tuple[Float[Array, "batch"], dict[str, Float[Array, "batch"]]]:
    """Compute the loss of each example.

    Args:
        objective: ``"simple"``, the mean squared error of the target (Ho et al. 2020, Eq. 14);
            ``"vlb"``, the bound in bits/dim; ``"hybrid"``, L_simple and 1e-3 of the bound, which
            then trains the variances alone (Nichol & Dhariwal 2021, Eq. 16).
        process: the noise and the parameterization; the bound needs a discrete one.
        network: ``(x_t, t) -> output``.
        x_0: clean examples.
        t: times in (0, 1].
        eps: standard normal noise.
        weighting: how much each noise level counts in L_simple; None leaves the error of the
            target as it is.

    Returns:
        Losses [B], and what else is worth reporting of each example: with a bound ``vlb`` in
        bits/dim and ``eps_error``.
    """
    schedule, parameterization = process.schedule, process.parameterization
    if objective == "simple":
        losses = denoising_loss(network, schedule, parameterization, x_0, t, eps, weighting)
        return losses, {}
    vlb, error = _bits(objective, process, network, x_0, t, eps)
    reported = {"vlb": vlb, "eps_error": error}
    if objective == "vlb":
        return vlb, reported
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if weighting is None:  # the error of the target, as in L_simple
        weight = 1 / of_target(weigh_eps(), parameterization, alpha, sigma)
    else:
        weight = weighting(jnp.square(alpha / sigma))
    return weight * error + HYBRID * vlb, reported


def _bits(
    objective: Objective,
    process: Process,
    network: Callable[[Array, Array], Array],
    x_0: Array,
    t: Array,
    eps: Array,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
    """Compute T L_t in bits/dim, and the squared error of eps, from one run of the network."""
    num_steps = process.num_steps
    assert num_steps is not None
    nats, (_, error) = bound_term(
        process.denoiser(network),
        process.schedule,
        x_0,
        t,
        (jnp.round(t * num_steps) - 1) / num_steps,  # exactly 0 at the end
        eps,
        "learned" if process.learned_variance else "beta_tilde",
        process.bin_width,
        freeze_mean=objective == "hybrid",
    )
    return num_steps * nats / (math.prod(x_0.shape[1:]) * math.log(2)), error
