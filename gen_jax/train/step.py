"""One training step, for any model with any number of players."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax.ops import keys as rng
from gen_jax.ops.averages import ema_decay_at
from gen_jax.protocols import LOCAL, Across, Aux, Batch, Context, Loss, Model, Params
from gen_jax.train.state import Guard, TrainState
from gen_jax.typing import Array, Key, Keys, PyTree, Scalar

__all__ = ["TrainStep", "make_train_step"]

TrainStep = Callable[
    [TrainState, PyTree, Batch, Key[Array, ""]], tuple[TrainState, Mapping[str, Scalar]]
]


# Where the keys of statistics begin among a step's keys, beyond any example's index.
_STATS = 2**30


def make_train_step(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    turns: Sequence[str] | None = None,
    ema_decay: float = 0.9999,
    microbatches: int = 1,
    unroll: bool = False,
    spike_window: int = 128,
    spike_sigma: float = 0.0,
    across: Across = LOCAL,
    first_example: Callable[[int], Array | int] = lambda num: 0,
) -> TrainStep:
    """Make the pure function ``(state, frozen, batch, key) -> (state, metrics)``.

    A step takes its turns in order. Each turn differentiates one loss with respect to its own
    player's parameters only, so that the opponent needs no stop_gradient, and keeps only that
    player's statistics. A turn whose loss or gradient is not finite, or whose loss leaps, changes
    nothing and is counted.

    Args:
        model: what is trained.
        optimizers: one for each player.
        turns: names of losses, in order, repeats allowed; None for each loss once.
        ema_decay: of the exponential moving average of all parameters, in [0, 1); see
            :func:`gen_jax.ops.averages.ema_decay_at` for its warm-up.
        microbatches: into how many parts the batch is cut to save memory; their gradients,
            statistics and metrics are averaged.
        unroll: write the microbatches out one after another instead of in a loop. On a CPU, where
            convolutions inside a loop run on one slow path, that takes a tenth of the time.
        spike_window: steps over which the usual level of a loss is taken, and before which none
            counts as a leap.
        spike_sigma: a loss more than so many standard deviations above its level is a leap; 0: no
            loss is.
        across: reductions over the global batch, given by the engine.
        first_example: the index in the global batch of the first of the ``num`` examples at hand,
            given by the engine.

    Returns:
        The step. ``key`` is the run's own, the same at every step; metrics are named
        ``<turn>/<metric>``, and ``guard/skipped`` and ``guard/consecutive`` count refused steps.

    Raises:
        ValueError: if a turn names no loss, ema_decay lies outside [0, 1) or microbatches < 1.
    """
    turns = tuple(model.losses) if turns is None else tuple(turns)
    if unknown := [turn for turn in turns if turn not in model.losses]:
        raise ValueError(f"turns: {unknown[0]!r} is none of the losses {sorted(model.losses)}")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay: a number in [0, 1) is needed, got {ema_decay}")
    if microbatches < 1:
        raise ValueError(f"microbatches: at least 1 is needed, got {microbatches}")

    def train_step(
        state: TrainState, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, Mapping[str, Scalar]]:
        num_examples = len(jax.tree.leaves(batch)[0])
        step_key = jax.random.fold_in(key, state.step)
        keys = rng.per_example(step_key, first_example(num_examples), num_examples)
        context = Context(frozen, state.step, across, train=True)
        metrics: dict[str, Scalar] = {}
        all_fine = jnp.array(True)
        levels = dict(state.guard.levels)

        for number, turn in enumerate(turns):
            loss = model.losses[turn]
            turn_keys = rng.fold_in(keys, number)
            value, aux, grads = _accumulate(
                loss, state, batch, turn_keys, context, microbatches, unroll
            )
            value, aux, grads = across.mean((value, aux, grads))
            norm = optax.tree.norm(grads)
            level = levels[turn]
            leaps = _leaps(value, level, spike_sigma) & (state.step >= spike_window)
            fine = jnp.isfinite(value) & jnp.isfinite(norm) & ~leaps
            rate = 1 / jnp.minimum(state.step + 1, spike_window)
            moved = level + rate * (jnp.stack([value, jnp.square(value)]) - level)
            # The square of a number that is finite need not be.
            levels[turn] = jnp.where(fine & jnp.all(jnp.isfinite(moved)), moved, level)

            stats_key = jax.random.fold_in(step_key, _STATS + number)
            # cond, not where: a clean run then has the same bits as one without a guard.
            state, stats_metrics = jax.lax.cond(
                fine,
                *_outcomes(model, optimizers, loss.player, stats_key, grads, aux.observed),
                state,
            )
            all_fine &= fine
            reported = {"loss": value, "grad_norm": norm, **aux.metrics, **stats_metrics}
            metrics |= {f"{turn}/{name}": scalar for name, scalar in reported.items()}

        decay = jnp.where(all_fine, ema_decay_at(state.step, ema_decay), 1.0)
        ema_params = jax.tree.map(
            lambda ema, new: ema + (1 - decay) * (new - ema), state.ema_params, state.params
        )
        guard = Guard(
            skipped=state.guard.skipped + ~all_fine,
            consecutive=jnp.where(all_fine, 0, state.guard.consecutive + 1),
            levels=levels,
        )
        metrics["guard/skipped"], metrics["guard/consecutive"] = guard.skipped, guard.consecutive
        state = state.replace(step=state.step + 1, ema_params=ema_params, guard=guard)
        return state, metrics

    return train_step


def _leaps(value: Scalar, level: Array, sigma: float) -> Array:
    """Tell whether a loss stands far above its level, a mean and a mean of squares."""
    spread = jnp.sqrt(jnp.maximum(level[1] - jnp.square(level[0]), 0))
    return jnp.logical_and(sigma > 0, value > level[0] + sigma * spread)


def _outcomes(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    player: str,
    key: Array,
    grads: PyTree,
    observed: PyTree,
) -> tuple[Callable, Callable]:
    """Make the two ways a turn can end: with the update, or with nothing."""

    def accept(state: TrainState) -> tuple[TrainState, Mapping[str, Scalar]]:
        updates, opt_state = optimizers[player].update(
            grads, state.opt_state[player], state.params[player]
        )
        params = optax.apply_updates(state.params[player], updates)
        stats, metrics = model.update_stats(state.stats, {player: observed}, key, state.step)
        state = state.replace(
            params={**state.params, player: params},
            opt_state={**state.opt_state, player: opt_state},
            stats=stats,
        )
        return state, metrics

    def refuse(state: TrainState) -> tuple[TrainState, Mapping[str, Scalar]]:
        _, metrics = jax.eval_shape(accept, state)
        return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics)

    return accept, refuse


def _accumulate(
    loss: Loss,
    state: TrainState,
    batch: Batch,
    keys: Keys,
    context: Context,
    microbatches: int,
    unroll: bool,
) -> tuple[Scalar, Aux, PyTree]:
    """Average a loss, what it observed and its gradient over microbatches."""

    def objective(own: PyTree, batch: Batch, keys: Keys) -> tuple[Scalar, Aux]:
        params: Params = {**state.params, loss.player: own}
        return loss.fn(params, state.stats, batch, keys, context)

    def evaluate(batch: Batch, keys: Keys) -> tuple[Scalar, Aux, PyTree]:
        (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(
            state.params[loss.player], batch, keys
        )
        return value, aux, grads

    if microbatches == 1:
        return evaluate(batch, keys)
    if len(keys) % microbatches:
        raise ValueError(f"microbatches: {microbatches} does not divide a batch of {len(keys)}")
    # Part i takes every microbatches-th example, so that each part stays spread over all devices.
    parts = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), (batch, keys)
    )
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(evaluate, *first))

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, evaluate(*part)), None

    if unroll:
        total = zeros
        for index in range(microbatches):
            part = jax.tree.map(lambda x, index=index: x[index], parts)
            # One after another: side by side they would need the memory of the whole batch.
            part, total = jax.lax.optimization_barrier((part, total))
            total, _ = add(total, part)
    else:
        total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)
