"""Solvers and grids by name, as command lines and configs have them."""

import numpy as np

from gen_jax.diffusion.sampling import karras_times, on_table, quadratic_times, uniform_times
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.solvers import (
    Solver,
    Variance,
    churned,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_ancestral,
    heun,
)
from gen_jax.typing import ArrayLike, ScalarLike

__all__ = ["GRIDS", "SOLVERS", "make_solver", "make_times"]

SOLVERS = ("ddim", "ddpm", "euler", "euler_ancestral", "heun", "dpmpp_2m")
GRIDS = ("uniform", "quadratic", "karras")


def make_solver(
    name: str,
    num_steps: ArrayLike,
    *,
    eta: ScalarLike | None = None,
    variance: Variance = "beta",
    churn: ScalarLike | None = None,
    churn_from: ScalarLike | None = None,
    churn_to: ScalarLike | None = None,
    churn_noise: ScalarLike | None = None,
) -> Solver:
    """Make a solver by its name.

    Args:
        name: of :data:`SOLVERS`.
        num_steps: of the whole run, which may be traced, for the amount of churn in each step.
        eta: of ddim, by default 0, and euler_ancestral, by default 1.
        variance: of ddpm.
        churn: S_churn of :func:`churned`; None for no churn.
        churn_from: S_tmin, by default 0.
        churn_to: S_tmax, by default without a limit.
        churn_noise: S_noise, by default 1.

    Raises:
        ValueError: for another name, or a setting of what there is none.
    """
    settings = {"churn_from": churn_from, "churn_to": churn_to, "churn_noise": churn_noise}
    given = {name: value for name, value in settings.items() if value is not None}
    if churn is None and given:
        raise ValueError(f"{next(iter(given))}: has a meaning only with churn")
    if name not in SOLVERS:
        raise ValueError(f"solver: got {name!r}; one of {', '.join(SOLVERS)} is required")
    if eta is None:
        eta = 1.0 if name == "euler_ancestral" else 0.0
    makers = {
        "ddim": lambda: ddim(eta),
        "ddpm": lambda: ddpm(variance),
        "euler": euler,
        "euler_ancestral": lambda: euler_ancestral(eta),
        "heun": heun,
        "dpmpp_2m": dpmpp_2m,
    }
    solver = makers[name]()
    if churn is None:
        return solver
    low, high, noise = (
        default if value is None else value
        for value, default in zip(settings.values(), (0.0, 1e9, 1.0), strict=True)
    )
    return churned(solver, churn, num_steps, low, high, noise)


def make_times(
    name: str, num_steps: int, schedule: Schedule, num_train_steps: int | None = None
) -> np.ndarray:
    """Make a grid by its name, on the table of a discrete schedule where there is one.

    Args:
        name: of :data:`GRIDS`.
        num_steps: S.
        schedule: for noise levels.
        num_train_steps: T of a discrete schedule; None for a continuous one.

    Raises:
        ValueError: for another name, or S > T.
    """
    if name == "uniform":
        return uniform_times(num_steps, num_train_steps)
    if name == "quadratic":
        times = quadratic_times(num_steps)
    elif name == "karras":
        times = karras_times(schedule, num_steps)
        if num_train_steps is not None:
            times[0] = 1.0  # a table's largest noise is what it was trained to begin with
    else:
        raise ValueError(f"grid: got {name!r}; one of {', '.join(GRIDS)} is required")
    return times if num_train_steps is None else on_table(times, num_train_steps)
