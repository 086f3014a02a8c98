"""Which times a training batch sees."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.diffusion.schedules import Schedule, time_of_noise
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Int, Keys

__all__ = [
    "LossHistory",
    "TimeSampler",
    "antithetic",
    "continuous",
    "discrete",
    "importance",
    "init_history",
    "log_normal_noise",
    "logit_normal",
    "observe_history",
    "update_history",
]

TimeSampler = Callable[[Keys], Float[Array, "batch"]]
"""``keys [B] -> t [B]`` in (0, 1], one draw from each key."""

T_MIN = 1e-5


def discrete(num_steps: int) -> TimeSampler:
    """Draw t uniformly from {1/T, 2/T, ..., 1} (Ho et al. 2020, Algorithm 1).

    Raises:
        ValueError: if num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: got {num_steps}; at least 1 is required")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        index = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_steps + 1))(keys)
        return index / num_steps

    return draw


def continuous(t_min: float = T_MIN) -> TimeSampler:
    """Draw t uniformly from [t_min, 1).

    Raises:
        ValueError: if t_min lies outside (0, 1), where log-SNR is infinite or nothing is left.
    """
    if not 0 < t_min < 1:
        raise ValueError(f"t_min: got {t_min}; a number in (0, 1) is required")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        return jax.vmap(lambda key: jax.random.uniform(key, (), minval=t_min))(keys)

    return draw


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeSampler:
    """Draw t = sigmoid(mean + std z): the middle of a flow more often (Esser et al. 2024, Eq. 19).

    Args:
        mean: below 0 prefers times near the data.
        std: above 0.

    Raises:
        ValueError: if std is not.
    """
    if not std > 0:
        raise ValueError(f"std: got {std}; a number above 0 is required")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        t = jax.nn.sigmoid(mean + std * jax.vmap(jax.random.normal)(keys))
        return jnp.clip(t, T_MIN, 1.0)

    return draw


def log_normal_noise(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """Draw t so that log(sigma / alpha) is normal (Karras et al. 2022, Table 1, "ln(sigma)").

    Args:
        schedule: whose times; noise levels beyond its last one become its last one.
        mean: of the logarithm, P_mean.
        std: of the logarithm, P_std; above 0.

    Raises:
        ValueError: if std is not.
    """
    if not std > 0:
        raise ValueError(f"std: got {std}; a number above 0 is required")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        return time_of_noise(schedule, jnp.exp(mean + std * jax.vmap(jax.random.normal)(keys)))

    return draw


def antithetic(sampler: TimeSampler, num_steps: int | None = None) -> TimeSampler:
    """Mirror each draw: times of every second example are those of the one before it, reversed.

    A batch then has as much of the early times as of the late ones (as in the code of Song et al.
    2021). Which examples are neighbors depends on how a batch is cut into microbatches.

    Args:
        sampler: of a distribution of t that is symmetric about its middle.
        num_steps: T of a discrete schedule, whose times {1/T, ..., 1} are mirrored onto themselves.
    """

    def mirror(t: Float[Array, "half"]) -> Float[Array, "half"]:
        if num_steps is None:
            return jnp.maximum(1.0 - t, T_MIN)
        # In whole steps: 1 + 1/T - t is not quite on the table.
        return (num_steps + 1 - jnp.round(t * num_steps)) / num_steps

    def draw(keys: Keys) -> Float[Array, "batch"]:
        t = sampler(keys[::2])
        both = jnp.stack([t, mirror(t)], axis=1)
        return jnp.reshape(both, -1)[: len(keys)]

    return draw


class LossHistory(NamedTuple):
    """What importance sampling knows of the loss at each of T times."""

    second_moment: Float[Array, "times"]  # running average of the squared loss
    seen: Float[Array, "times"]  # how many examples it has been of


# A time is drawn by its own loss once all have been seen as often, and its loss is averaged over
# about as many: the length of the history of Nichol & Dhariwal 2021, Section 3.3.
ENOUGH = 10
UNIFORM = 1e-3  # of the probability, spread over all times, as in their code


def init_history(num_steps: int) -> LossHistory:
    """Begin without any losses."""
    return LossHistory(jnp.zeros(num_steps), jnp.zeros(num_steps))


@checked
def importance(
    history: LossHistory, keys: Keys
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
    """Draw t in proportion to the root of the mean square of its loss, and say what to weigh it by.

    p_t ~ sqrt(E[L_t^2]) and the weight is 1 / (T p_t) (Nichol & Dhariwal 2021, Eq. 18), which keeps
    the expectation; uniform until every time has been seen ten times.

    Returns:
        Times in {1/T, ..., 1} and the weights of their losses.
    """
    num_steps = len(history.seen)
    root = jnp.sqrt(history.second_moment)
    p = (1 - UNIFORM) * root / jnp.maximum(jnp.sum(root), 1e-30) + UNIFORM / num_steps
    p = jnp.where(jnp.min(history.seen) >= ENOUGH, p, jnp.full(num_steps, 1.0 / num_steps))
    draw = jax.vmap(lambda key: jax.random.choice(key, num_steps, p=p))
    index = draw(keys)
    return (index + 1) / num_steps, 1.0 / (num_steps * p[index])


@checked
def observe_history(
    t: Float[Array, "batch"], losses: Float[Array, "batch"], num_steps: int
) -> dict[str, Float[Array, "times"]]:
    """Return what :func:`update_history` needs of a batch: means of examples, so that they add."""
    index: Int[Array, "batch"] = jnp.round(t * num_steps).astype(jnp.int32) - 1
    zeros = jnp.zeros(num_steps)
    num = len(losses)
    return {
        "square": zeros.at[index].add(jnp.square(losses)) / num,
        "share": zeros.at[index].add(1.0) / num,
    }


def update_history(
    history: LossHistory, observed: dict[str, Float[Array, "times"]], batch_size: int
) -> LossHistory:
    """Let a batch's losses in: averages in the beginning, then over about the last ten.

    The paper keeps the last ten losses of each time themselves; averages of them can be added over
    devices and microbatches.
    """
    count = observed["share"] * batch_size
    mean = observed["square"] / jnp.maximum(observed["share"], 1e-30)
    seen = history.seen + count
    rate = jnp.minimum(count / jnp.maximum(jnp.minimum(seen, ENOUGH), 1.0), 1.0)
    moment = history.second_moment + rate * (mean - history.second_moment)
    return LossHistory(jnp.where(count > 0, moment, history.second_moment), seen)
