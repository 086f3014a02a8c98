"""Denoising diffusion (Ho et al. 2020) over any x, pixels or latents."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.diffusion.guidance import clip_x_0
from gen_jax.diffusion.losses import denoising_loss
from gen_jax.diffusion.parameterization import Parameterization, denoiser
from gen_jax.diffusion.sampling import sample as sample_x
from gen_jax.diffusion.sampling import uniform_times
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.solvers import Variance, ddim, ddpm
from gen_jax.diffusion.time_sampling import discrete
from gen_jax.ops import keys as rng
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    Loss,
    Model,
    Params,
    SampleOption,
    Stats,
    batch_mean,
    no_statistics,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["diffusion"]


def diffusion(
    network: nn.Module,
    schedule: Schedule,
    parameterization: Parameterization,
    shape: Sequence[int],
    num_steps: int,
    num_classes: int | None = None,
    clip: bool = True,
) -> Model:
    """Make a diffusion model of a network.

    Its only player is ``"net"`` and its only loss ``"diffusion"``, L_simple for the
    parameterisation's target (Ho et al. 2020, Algorithm 1), a mean over dimensions.

    Args:
        network: Linen module ``(x_t, t, label, keys) -> output``; ``label`` is None without
            classes, and ``keys`` None outside of training.
        schedule: a discrete schedule of ``num_steps``.
        parameterization: what the network is trained to predict.
        shape: of one x.
        num_steps: T, the steps of the schedule; training draws t from {1/T, ..., 1}.
        num_classes: labels are in [0, num_classes); None for an unconditional model, which ignores
            labels.
        clip: whether sampling clips the predicted x_0 to [-1, 1], the range of pixels.

    Returns:
        A model of ``batch["x"]``; its ``sample`` takes ``solver``, ``steps``, ``eta`` and
        ``variance``, and ``cond``, int labels, where there are classes.
    """
    shape = tuple(shape)
    times_of = discrete(num_steps)

    def label_of(batch: Batch) -> Int[Array, "batch"] | None:
        return batch["label"] if num_classes is not None else None

    def apply_network(
        params: Params, x: Array, t: Array, label: Array | None, keys: Keys | None
    ) -> Array:
        output = network.apply({"params": params["net"]}, x, t, label, keys)
        assert isinstance(output, Array)  # a tuple only for modules that mutate collections
        return output

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        x = batch["x"]
        variables = network.init(key, x, jnp.ones(len(x)), label_of(batch))
        return {"net": variables["params"]}, {}

    def loss(
        params: Params, stats: Stats, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del stats
        x_0 = batch["x"]
        time_keys, noise_keys, dropout_keys = rng.split(keys, 3)
        eps = batch["eps"] if "eps" in batch else rng.normal(noise_keys, shape)

        def apply(x_t: Float[Array, "batch *dims"], t: Float[Array, "batch"]) -> Array:
            return apply_network(
                params, x_t, t, label_of(batch), dropout_keys if context.train else None
            )

        losses = denoising_loss(apply, schedule, parameterization, x_0, times_of(time_keys), eps)
        return batch_mean(batch, losses), Aux(observed={}, metrics={})

    def sample(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        cond: Int[Array, "batch"] | None = None,
        *,
        solver: str = "ddim",
        steps: int | None = None,
        eta: Float[Array, ""] | float = 0.0,
        variance: Variance = "beta",
    ) -> Float[Array, "batch *dims"]:
        """Draw samples; see ``sample_options`` for what the options mean."""
        del stats, frozen
        denoise = denoiser(
            lambda x, t: apply_network(params, x, t, cond, None), schedule, parameterization
        )
        if clip:
            denoise = clip_x_0(denoise, schedule)
        steps = default_steps(solver) if steps is None else steps
        method = ddim(eta) if solver == "ddim" else ddpm(variance)
        times = uniform_times(steps, num_steps)
        return sample_x(denoise, schedule, method, times, shape, keys)

    def default_steps(solver: str) -> int:
        return min(50, num_steps) if solver == "ddim" else num_steps

    sample_options = {
        "solver": SampleOption(
            str, "ddim", "ddim or ddpm", ("ddim", "ddpm").__contains__, True,
            "ddim: few, deterministic steps; ddpm: ancestral sampling",
        ),
        "steps": SampleOption(
            int, None, f"a whole number from 1 to {num_steps}",
            lambda steps: 1 <= steps <= num_steps, True,
            f"network evaluations; by default 50 for ddim and {num_steps} for ddpm",
        ),
        "eta": SampleOption(
            float, 0.0, "a number from 0 to 1", lambda eta: 0 <= eta <= 1, False,
            "noise of ddim: 0 is deterministic, 1 is ddpm with beta_tilde", ("solver", "ddim"),
        ),
        "variance": SampleOption(
            str, "beta", "beta or beta_tilde", ("beta", "beta_tilde").__contains__, True,
            "noise of ddpm", ("solver", "ddpm"),
        ),
    }  # fmt: skip

    return Model(
        init=init,
        losses={"diffusion": Loss("net", loss)},
        update_stats=no_statistics,
        sample=sample,
        sample_options=sample_options,
    )
