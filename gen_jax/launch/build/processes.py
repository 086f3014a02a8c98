"""Diffusion processes that configs describe by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax import diffusion
from gen_jax.diffusion import schedules
from gen_jax.diffusion.parameterization import Parameterization
from gen_jax.diffusion.rules import beta_range
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.time_sampling import TimeSampler
from gen_jax.diffusion.weighting import Weighting

__all__ = ["make_betas", "make_prediction", "make_schedule", "make_times", "make_weighting"]


def make_schedule(values: Mapping[str, Any]) -> tuple[Schedule, int | None]:
    """Make the schedule that a config describes, and its number of steps, if it is discrete."""
    kind, num_steps = values["diffusion.schedule"], values["diffusion.num_steps"]
    if kind == "flow":
        return diffusion.rectified_flow(), None
    if kind == "edm":
        return diffusion.variance_exploding(values["diffusion.sigma_max"]), None
    return diffusion.from_betas(make_betas(values)), num_steps


def make_betas(values: Mapping[str, Any]) -> np.ndarray:
    """Compute the variances beta_1 to beta_T of a discrete schedule that a config describes."""
    kind, num_steps = values["diffusion.schedule"], values["diffusion.num_steps"]
    if kind == "cosine":
        betas = schedules.cosine_betas(num_steps)
    else:
        make = schedules.linear_betas if kind == "linear" else schedules.scaled_linear_betas
        given = values["diffusion.beta_start"], values["diffusion.beta_end"]
        betas = make(num_steps, *beta_range(num_steps, *given))
    return schedules.zero_terminal_snr(betas) if values["diffusion.zero_terminal_snr"] else betas


def make_prediction(values: Mapping[str, Any]) -> Parameterization:
    """Make what a network is trained to predict."""
    kinds = {
        "eps": diffusion.epsilon,
        "x_0": diffusion.x_0,
        "v": diffusion.v,
        "velocity": diffusion.velocity,
        "edm": diffusion.edm(values["diffusion.sigma_data"]),
    }
    return kinds[values["diffusion.prediction"]]


def make_weighting(values: Mapping[str, Any]) -> Weighting | None:
    """Make the weights of noise levels; None where the error of the target is left as it is."""
    gamma = values["diffusion.weighting_gamma"]
    arguments = (gamma,) if gamma else ()  # 0: the paper's
    kinds = {
        "none": lambda: None,
        "eps": diffusion.simple,
        "min_snr": lambda: diffusion.min_snr(*arguments),
        "p2": lambda: diffusion.p2(*arguments),
    }
    return kinds[values["diffusion.weighting"]]()


def make_times(
    values: Mapping[str, Any], schedule: Schedule, num_steps: int | None
) -> TimeSampler | None:
    """Make the times that are trained; None for the process's own."""
    mean, std = values["diffusion.times_mean"], values["diffusion.times_std"]
    moments = (mean, std) if std else ()  # without a deviation, the paper's
    kind, mirrored = values["diffusion.times"], values["diffusion.antithetic"]
    if kind == "log_normal_noise":
        return diffusion.log_normal_noise(schedule, *moments)
    if kind == "logit_normal":
        sampler, table = diffusion.logit_normal(*moments), None
    elif not mirrored:
        return None
    elif num_steps is None:
        sampler, table = diffusion.continuous(), None
    else:
        sampler, table = diffusion.discrete(num_steps), num_steps
    return diffusion.antithetic(sampler, table) if mirrored else sampler
