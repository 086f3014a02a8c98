"""One training step, for any model with any number of players."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax.ops import keys as rng
from gen_jax.ops.averages import ema_decay_at
from gen_jax.protocols import (
    LOCAL,
    Across,
    Aux,
    Batch,
    Context,
    Loss,
    Model,
    Params,
    Turn,
    Weights,
)
from gen_jax.train.state import Guard, TrainState
from gen_jax.typing import Array, Key, Keys, PyTree, Scalar

__all__ = ["TrainStep", "make_train_step", "turns_of"]

TrainStep = Callable[
    [TrainState, PyTree, Batch, Key[Array, ""]], tuple[TrainState, Mapping[str, Scalar]]
]


# Where the keys of statistics begin among a step's keys, beyond any example's index.
_STATS = 2**30


class _Recipe(NamedTuple):
    """What a step is made of."""

    model: Model
    optimizers: Mapping[str, optax.GradientTransformation]
    microbatches: int
    unroll: bool
    spike_window: int
    spike_sigma: float
    across: Across


def make_train_step(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    turns: Sequence[str | Turn] | None = None,
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
    nothing and is counted. A turn that is not due computes nothing, and its metrics are NaN.

    Args:
        model: what is trained.
        optimizers: one for each player.
        turns: losses by name, or when they are due, in order, repeats allowed; None for the
            model's.
        ema_decay: of the exponential moving average of the parameters, in [0, 1); see
            :func:`gen_jax.ops.averages.ema_decay_at` for its warm-up.
        microbatches: into how many parts the batch is cut to save memory; their gradients,
            statistics and metrics are averaged.
        unroll: write the microbatches out one after another instead of in a loop. On a CPU, where
            convolutions inside a loop run on one slow path, that takes a tenth of the time.
        spike_window: how often a turn is taken before its loss may count as a leap, and over how
            many of these times the usual level of a loss is taken.
        spike_sigma: a loss more than so many standard deviations above its level is a leap; 0: no
            loss is.
        across: reductions over the global batch, given by the engine.
        first_example: the index in the global batch of the first of the ``num`` examples at hand,
            given by the engine.

    Returns:
        The step. ``key`` is the run's own, the same at every step; metrics are named
        ``<loss>/<metric>``, and ``guard/skipped`` and ``guard/consecutive`` count refused steps.

    Raises:
        ValueError: if a turn names no loss or is never due, ema_decay lies outside [0, 1) or
            microbatches < 1.
    """
    schedule = turns_of(model, turns)
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay: got {ema_decay}; a number in [0, 1) is required")
    if microbatches < 1:
        raise ValueError(f"microbatches: got {microbatches}; at least 1 is required")
    recipe = _Recipe(model, optimizers, microbatches, unroll, spike_window, spike_sigma, across)

    def train_step(
        state: TrainState, frozen: PyTree, batch: Batch, key: Key[Array, ""]
    ) -> tuple[TrainState, Mapping[str, Scalar]]:
        num_examples = len(jax.tree.leaves(batch)[0])
        step_key = jax.random.fold_in(key, state.step)
        keys = rng.per_example(step_key, first_example(num_examples), num_examples)
        metrics: dict[str, Scalar] = {}
        all_fine = jnp.array(True)
        levels = dict(state.guard.levels)
        for number, turn in enumerate(schedule):
            due = turn.is_due(state.step)
            state, levels[turn.loss], fine, reported = _take_if_due(
                recipe, turn, number, frozen, (batch, keys), step_key, state, levels[turn.loss]
            )
            all_fine &= fine
            new = {f"{turn.loss}/{name}": scalar for name, scalar in reported.items()}
            # Of a loss with several turns the last one that was taken is reported.
            metrics |= {
                name: jnp.where(due, scalar, metrics[name]) if name in metrics else scalar
                for name, scalar in new.items()
            }

        decay = jnp.where(all_fine, ema_decay_at(state.step, ema_decay), 1.0)
        averaged = {player: state.params[player] for player in state.ema_params}
        ema_params = jax.tree.map(
            lambda ema, new: ema + (1 - decay) * (new - ema), state.ema_params, averaged
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


def turns_of(model: Model, turns: Sequence[str | Turn] | None = None) -> tuple[Turn, ...]:
    """Complete the turns of a step: the model's, or others.

    Raises:
        ValueError: if a turn names no loss, or is never due.
    """
    chosen = model.turns if turns is None else turns
    chosen = tuple(model.losses) if chosen is None else chosen
    schedule = tuple(Turn(turn) if isinstance(turn, str) else turn for turn in chosen)
    for turn in schedule:
        if turn.loss not in model.losses:
            raise ValueError(f"turns: {turn.loss!r} is none of the losses {sorted(model.losses)}")
        first, of = turn.part
        never = turn.stop is not None and turn.stop <= turn.start
        if turn.every < 1 or turn.start < 0 or never or not 0 <= first < of:
            raise ValueError(
                f"turns: {turn}: every >= 1, start >= 0, stop > start and a part (i, n) with "
                "0 <= i < n are required"
            )
    return schedule


def _take_if_due(
    recipe: _Recipe,
    turn: Turn,
    number: int,
    frozen: PyTree,
    examples: tuple[Batch, Keys],
    step_key: Array,
    state: TrainState,
    level: Array,
) -> tuple[TrainState, Array, Array, Mapping[str, Scalar]]:
    """Take a turn, or wait; gives state, level of the loss, whether all went well, and metrics."""
    first, of = turn.part
    if of > 1:
        if len(examples[1]) % of:
            raise ValueError(f"turns: {of} parts do not divide a batch of {len(examples[1])}")
        examples = jax.tree.map(lambda x: x[first::of], examples)

    def take(state: TrainState, level: Array) -> tuple:
        return _take(recipe, turn, number, frozen, examples, step_key, state, level)

    if (turn.every, turn.start, turn.stop) == (1, 0, None):
        return take(state, level)
    *_, shapes = jax.eval_shape(take, state, level)

    def wait(state: TrainState, level: Array) -> tuple:
        nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
        return state, level, jnp.array(True), nothing

    # cond, not where: what is not due is not computed.
    return jax.lax.cond(turn.is_due(state.step), take, wait, state, level)


def _take(
    recipe: _Recipe,
    turn: Turn,
    number: int,
    frozen: PyTree,
    examples: tuple[Batch, Keys],
    step_key: Array,
    state: TrainState,
    level: Array,
) -> tuple[TrainState, Array, Array, Mapping[str, Scalar]]:
    loss = recipe.model.losses[turn.loss]
    batch, keys = examples
    weights = Weights(state.params, state.stats, frozen)
    context = Context(state.step, recipe.across, train=True)
    value, aux, grads = recipe.across.mean(
        _accumulate(recipe, loss, weights, batch, rng.fold_in(keys, number), context)
    )
    norm = optax.tree.norm(grads)
    taken = (state.step - turn.start) // turn.every
    leaps = _leaps(value, level, recipe.spike_sigma) & (taken >= recipe.spike_window)
    fine = jnp.isfinite(value) & jnp.isfinite(norm) & ~leaps
    rate = 1 / jnp.minimum(taken + 1, recipe.spike_window)
    moved = level + rate * (jnp.stack([value, jnp.square(value)]) - level)
    # The square of a number that is finite need not be.
    level = jnp.where(fine & jnp.all(jnp.isfinite(moved)), moved, level)
    stats_key = jax.random.fold_in(step_key, _STATS + number)
    # cond, not where: a clean run then has the same bits as one without a guard.
    state, stats_metrics = jax.lax.cond(
        fine, *_outcomes(recipe, loss.player, frozen, stats_key, grads, aux.observed), state
    )
    return state, level, fine, {"loss": value, "grad_norm": norm, **aux.metrics, **stats_metrics}


def _leaps(value: Scalar, level: Array, sigma: float) -> Array:
    """Return whether a loss stands far above its level, a mean and a mean of squares."""
    spread = jnp.sqrt(jnp.maximum(level[1] - jnp.square(level[0]), 0))
    return jnp.logical_and(sigma > 0, value > level[0] + sigma * spread)


def _outcomes(
    recipe: _Recipe,
    player: str,
    frozen: PyTree,
    key: Array,
    grads: PyTree,
    observed: PyTree,
) -> tuple[Callable, Callable]:
    """Make the two ways a turn can end: with the update, or with nothing."""

    def accept(state: TrainState) -> tuple[TrainState, Mapping[str, Scalar]]:
        updates, opt_state = recipe.optimizers[player].update(
            grads, state.opt_state[player], state.params[player]
        )
        params = {**state.params, player: optax.apply_updates(state.params[player], updates)}
        stats, metrics = recipe.model.update_stats(
            Weights(params, state.stats, frozen), {player: observed}, key, state.step
        )
        opt_states = {**state.opt_state, player: opt_state}
        return state.replace(params=params, opt_state=opt_states, stats=stats), metrics

    def refuse(state: TrainState) -> tuple[TrainState, Mapping[str, Scalar]]:
        _, metrics = jax.eval_shape(accept, state)
        return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics)

    return accept, refuse


def _accumulate(
    recipe: _Recipe,
    loss: Loss,
    weights: Weights,
    batch: Batch,
    keys: Keys,
    context: Context,
) -> tuple[Scalar, Aux, PyTree]:
    """Average a loss, what it observed and its gradient over microbatches."""

    def objective(own: PyTree, batch: Batch, keys: Keys) -> tuple[Scalar, Aux]:
        params: Params = {**weights.params, loss.player: own}
        return loss.fn(weights._replace(params=params), batch, keys, context)

    def evaluate(batch: Batch, keys: Keys) -> tuple[Scalar, Aux, PyTree]:
        (value, aux), grads = jax.value_and_grad(objective, has_aux=True)(
            weights.params[loss.player], batch, keys
        )
        return value, aux, grads

    microbatches = recipe.microbatches
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

    if recipe.unroll:
        total = zeros
        for index in range(microbatches):
            part = jax.tree.map(lambda x, index=index: x[index], parts)
            # One after another: side by side they would need the memory of the whole batch.
            part, total = jax.lax.optimization_barrier((part, total))
            total, _ = add(total, part)
    else:
        total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)
