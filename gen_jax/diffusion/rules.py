"""What does not go together in a diffusion model, without JAX.

Model factories ask it, and so does the config schema before anything is loaded; both refuse the
same things with the same words. Each function gives ``{argument: what is wrong}``.
"""

import math
from collections.abc import Mapping

__all__ = [
    "COSINE_MAX_BETA",
    "MAX_ALPHA",
    "MIN_ALPHA",
    "OBJECTIVES",
    "TABLES",
    "beta_faults",
    "beta_range",
    "last_beta",
    "objective_faults",
    "pairing_faults",
    "prediction_faults",
    "signal_faults",
    "time_faults",
    "weighting_faults",
]

OBJECTIVES = ("simple", "hybrid", "vlb")
TABLES = ("linear", "scaled_linear", "cosine")

MIN_ALPHA = 1e-18  # its square is still a normal number in single precision
MAX_ALPHA = 0.1  # of alpha(1): with more, what is taken for noise is not
COSINE_MAX_BETA = 0.999  # of Nichol & Dhariwal 2021
# With it an error of eps becomes ten times as large in the first step of sampling.
_LARGEST_BETA = 0.99


def beta_range(
    num_steps: int, beta_start: float | None = None, beta_end: float | None = None
) -> tuple[float, float]:
    """Return beta_1 and beta_T of a linear schedule.

    Those of Ho et al. 2020 for their 1,000 steps are 1e-4 and 0.02; with fewer, or more, 0.1 / T
    and 20 / T leave about as much of the signal (Nichol & Dhariwal 2021's code does the same).
    """
    if beta_end is None:
        # Of fewer than 25 steps the last would leave so little that eps could not be read.
        beta_end = min(20 / num_steps, 0.8)
    if beta_start is None:
        beta_start = min(0.1 / num_steps, beta_end)
    return beta_start, beta_end


def last_beta(schedule: str, num_steps: int, beta_end: float | None) -> float | None:
    """Return beta_T of a schedule by name; None where there is no table."""
    if schedule not in TABLES:
        return None
    if schedule == "cosine":
        return COSINE_MAX_BETA
    return beta_range(num_steps, beta_end=beta_end)[1]


def _log_alpha_bar(schedule: str, num_steps: int, beta_start: float, beta_end: float) -> float:
    power = 1 if schedule == "linear" else 2
    low, high = beta_start ** (1 / power), beta_end ** (1 / power)
    span = (high - low) / max(num_steps - 1, 1)
    return sum(math.log1p(-((low + span * i) ** power)) for i in range(num_steps))


def beta_faults(
    schedule: str, num_steps: int, beta_start: float | None, beta_end: float | None
) -> Mapping[str, str]:
    """Find what is wrong with a schedule of betas.

    Args:
        schedule: ``"linear"`` or ``"scaled_linear"``; others have no betas to choose.
        num_steps: T.
        beta_start: beta_1, None for that of :func:`beta_range`.
        beta_end: beta_T, likewise.
    """
    if schedule not in ("linear", "scaled_linear"):
        return {}
    beta_start, beta_end = beta_range(num_steps, beta_start, beta_end)
    if beta_start > beta_end:
        return {"beta_start": f"got {beta_start}; at most beta_end {beta_end} is required"}
    if _log_alpha_bar(schedule, num_steps, beta_start, beta_end) < 2 * math.log(MIN_ALPHA):
        what = f"with {num_steps} steps nothing of the signal is left; a smaller one is required"
        return {"beta_end": f"got {beta_end}; {what}"}
    return {}


def signal_faults(
    schedule: str, num_steps: int, beta_start: float | None, beta_end: float | None
) -> Mapping[str, str]:
    """Find whether so much of the signal is left at t = 1 that sampling could not begin there.

    It begins with noise alone; a network that has always seen some signal there draws something
    else. For experiments that begin: who has trained such a model may still look at it.
    """
    if schedule not in ("linear", "scaled_linear") or (beta_start, beta_end) == (None, None):
        return {}
    low, high = beta_range(num_steps, beta_start, beta_end)
    alpha = math.exp(0.5 * _log_alpha_bar(schedule, num_steps, low, high))
    if alpha <= MAX_ALPHA:
        return {}
    usual = beta_range(num_steps)[1]
    what = f"with {num_steps} steps alpha(1) is {alpha:.2g}, where sampling begins with noise alone"
    return {
        "beta_end": f"got {high}; {what}; more, as {usual:g}, which is the default, is required"
    }


def prediction_faults(
    *, prediction: str, signal: bool, last_beta: float | None, clip: bool
) -> Mapping[str, str]:
    """Find whether a prediction says what x_0 is where sampling begins, at t = 1.

    Args:
        prediction: name of the parameterization.
        signal: whether anything of x_0 is left there.
        last_beta: beta_T of the schedule's table; None for none.
        clip: whether the predicted x_0 is clipped to the range of the data.
    """
    if prediction != "eps":
        return {}
    if not signal:
        what = "at t = 1 of this schedule eps does not say what x_0 is"
        return {"prediction": f"got 'eps'; {what}; 'velocity', 'v', 'x_0' or 'edm' is required"}
    if last_beta is not None and last_beta > _LARGEST_BETA and not clip:
        times = (1 - last_beta) ** -0.5
        what = f"without clip the first step of sampling makes its error {times:.0f} times as large"
        return {"prediction": f"got 'eps'; {what}; 'v' or 'x_0' is required"}
    return {}


def objective_faults(
    *,
    objective: str,
    learned_variance: bool,
    discrete: bool,
    importance: bool,
    weighted: bool,
    own_times: bool,
) -> Mapping[str, str]:
    """Find what is wrong with what is trained.

    Args:
        objective: one of :data:`OBJECTIVES`.
        learned_variance: whether the network gives variances.
        discrete: whether the schedule is a table.
        importance: whether times are drawn in proportion to their losses.
        weighted: whether noise levels are weighted.
        own_times: whether times are drawn in a way of their own.
    """
    if objective not in OBJECTIVES:
        return {"objective": f"got {objective!r}; one of {', '.join(OBJECTIVES)} is required"}
    faults = {}
    if not discrete and importance:
        faults["importance"] = "got True; a discrete schedule is required"
    if not discrete and objective != "simple":
        faults["objective"] = f"got {objective!r}; a discrete schedule is required"
    elif objective == "hybrid" and not learned_variance:
        faults["objective"] = "got 'hybrid'; learned_variance is required, which it trains"
    if objective == "simple" and learned_variance:
        faults["learned_variance"] = "got True; objective 'simple' never trains it"
    if objective == "vlb" and weighted:
        faults["weighting"] = "must be none: the objective 'vlb' weighs by itself"
    if own_times and importance:
        faults["times"] = "must be uniform: with importance the losses choose the times"
    elif own_times and objective != "simple":
        faults["times"] = f"must be uniform with objective {objective!r}"
    return faults


def weighting_faults(*, weighting: str, prediction: str, continuous: bool) -> Mapping[str, str]:
    """Find a weighting that lets the smallest noise outweigh everything.

    Args:
        weighting: name of it.
        prediction: name of the parameterization.
        continuous: whether noise levels go down to 0; a table has a smallest one.
    """
    if (weighting, prediction, continuous) != ("eps", "x_0", True):
        return {}
    what = "of 'x_0' it weighs the smallest noise up to 1e10 times as much as the largest"
    return {"weighting": f"got 'eps'; {what}; 'none' or 'min_snr' is required"}


def pairing_faults(
    *, pairing: bool, coupled: bool, objective: str, shared_condition: bool
) -> Mapping[str, str]:
    """Find what does not go with noise that depends on the data.

    Args:
        pairing: whether noise is paired with the examples of a batch.
        coupled: whether it comes with them, as in reflow.
        objective: one of :data:`OBJECTIVES`.
        shared_condition: whether examples share what the model is told, as they do a class, or it
            is told nothing; a context or an image is each example's own.
    """
    faults = {}
    if pairing and not shared_condition:
        what = "classes alone can be paired within; without a context and a low_res is required"
        faults["pairing"] = f"got True; {what}"
    if (pairing or coupled) and objective != "simple":
        what = "a bound supposes that noise does not depend on the data; 'simple' is required"
        faults["objective"] = f"got {objective!r}; {what}"
    return faults


def time_faults(
    *, schedule: str, times: str, mean: float, std: float, antithetic: bool, importance: bool
) -> Mapping[str, str]:
    """Find what is wrong with the times that are trained, by name.

    Args:
        schedule: name of the schedule.
        times: ``"uniform"``, ``"logit_normal"`` or ``"log_normal_noise"``.
        mean: of the distribution; 0 with ``std`` 0 for the paper's.
        std: likewise.
        antithetic: whether draws are mirrored.
        importance: whether losses choose the times.
    """
    faults = {}
    if schedule == "edm" and times != "log_normal_noise":
        what = "'log_normal_noise' is required for 'edm': other times are nearly all noise"
        faults["times"] = f"got {times!r}; {what}"
    if times == "uniform" and (mean or std):
        name, value = ("times_mean", mean) if mean else ("times_std", std)
        faults[name] = f"got {value}; times 'uniform' has none"
    elif mean and not std:
        faults["times_mean"] = f"got {mean}; it goes with times_std; both 0: the paper's"
    if antithetic and (times == "log_normal_noise" or mean):
        faults["antithetic"] = "got True; such times have no mirror"
    elif antithetic and importance:
        faults["antithetic"] = "got True; with importance the losses choose the times"
    return faults
