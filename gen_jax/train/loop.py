"""The training loop, readable from top to bottom."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from gen_jax.errors import NonFiniteError
from gen_jax.protocols import Batch
from gen_jax.train.engines import Engine
from gen_jax.train.state import TrainState
from gen_jax.typing import PyTree

__all__ = ["Loop", "train"]

Metrics = Mapping[str, float]


class Loop(NamedTuple):
    """What happens around the steps, and how often.

    ``report(step, metrics)`` and ``show(step, images)`` write, ``save(state, wait)`` checkpoints,
    ``inspect(state)`` looks at the model and gives ``(metrics, images)``, and ``stop()`` says
    whether somebody asked for an end. Nothing here may change the state.
    """

    steps: int
    log_every: int
    inspect_every: int  # 0 for never
    save_every: int
    max_bad_steps: int  # consecutive steps that the guard may refuse
    report: Callable[[int, Metrics], None]
    show: Callable[[int, Mapping[str, np.ndarray]], None]
    save: Callable[[TrainState, bool], None]
    inspect: Callable[[TrainState], tuple[Metrics, Mapping[str, np.ndarray]]]
    stop: Callable[[], bool]


def train(
    engine: Engine,
    state: TrainState,
    frozen: PyTree,
    batches: Iterator[Mapping[str, np.ndarray]],
    key: jax.Array,
    loop: Loop,
) -> TrainState:
    """Train until ``loop.steps`` steps are taken or ``loop.stop()``; the last state is saved.

    The numbers of a step are fetched after the next one has been dispatched, so that the device
    never waits for the host.

    Args:
        engine: runs the steps.
        state: where to begin; consumed.
        frozen: weights that are not trained.
        batches: this process's rows of the batches from step ``state.step`` on.
        key: the run's key.
        loop: what happens around the steps.

    Returns:
        The last state.

    Raises:
        NonFiniteError: after ``loop.max_bad_steps`` consecutive steps without a finite loss.
    """
    first = done = int(state.step)
    if done >= loop.steps:
        return state
    batch = engine.put(next(batches))
    compiled = _compile(engine, state, frozen, batch, key)
    clock = _Clock(images_per_step=_global_size(batch))
    window: list[Mapping[str, jax.Array]] = []
    saved = None
    with _progress(loop.steps, first) as bar:
        while done < loop.steps and not loop.stop():
            state, metrics = compiled(state, frozen, batch, key)
            done += 1
            if done < loop.steps:
                batch = engine.put(next(batches))
            if window:
                _check_finite(window[-1], done - 1, loop.max_bad_steps)
            window.append(metrics)
            bar.update()

            if done % loop.log_every == 0 or done == loop.steps:
                numbers = _summarise(window)
                numbers |= clock.rates(len(window), done)
                window = []
                _check_finite(numbers, done, loop.max_bad_steps)
                loop.report(done, numbers)
                _tell(bar, done, loop.steps, numbers)
            if loop.inspect_every and (done % loop.inspect_every == 0 or done == loop.steps):
                with clock.paused(state):
                    metrics, images = loop.inspect(state)
                    loop.show(done, images)
                    if metrics:
                        loop.report(done, metrics)
            if done % loop.save_every == 0 and done < loop.steps:
                with clock.paused(state):
                    loop.save(state, False)
                    saved = done
    if saved != done and done > first:
        loop.save(state, True)
    return state


def _compile(engine: Engine, *arguments: PyTree) -> Callable:
    """Compile ahead, so that the time is known and the first step is like the others."""
    start = time.perf_counter()
    compiled = engine.step.lower(*arguments).compile()
    print(f"compiled the training step in {time.perf_counter() - start:.1f} s", flush=True)
    return compiled


def _global_size(batch: Batch) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _check_finite(numbers: Mapping[str, jax.Array | float], step: int, limit: int) -> None:
    bad = int(numbers["guard/consecutive"])
    if bad >= limit:
        raise NonFiniteError(
            f"step {step}: the loss or its gradient was not finite in {bad} consecutive steps; "
            "the state was left as it was before them"
        )


def _summarise(window: list[Mapping[str, jax.Array]]) -> dict[str, float]:
    """Average over steps, leaving out refused ones; counters are taken from the last."""
    columns = {name: [float(m[name]) for m in jax.device_get(window)] for name in window[0]}
    numbers = {}
    for name, values in columns.items():
        finite = [value for value in values if np.isfinite(value)]
        if name.startswith("guard/"):
            numbers[name] = values[-1]
        else:
            numbers[name] = float(np.mean(finite)) if finite else float("nan")
    return numbers


class _Clock:
    """Measures training alone: neither compilation, nor pictures, nor the copy to a checkpoint."""

    def __init__(self, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._begin = self._last = time.perf_counter()
        self._away = 0.0

    def rates(self, num_steps: int, step: int) -> dict[str, float]:
        """Give the rates of the last ``num_steps`` steps, and start to measure anew."""
        now = time.perf_counter()
        rate = num_steps / max(now - self._last - self._away, 1e-9)
        self._last, self._away = now, 0.0
        return {
            "time/seconds": now - self._begin,
            "time/steps_per_second": rate,
            "time/images_per_second": rate * self._images_per_step,
            "time/images_seen": float(step * self._images_per_step),
        }

    @contextlib.contextmanager
    def paused(self, state: PyTree) -> Iterator[None]:
        """Leave out what happens inside, once the steps before it are done."""
        jax.block_until_ready(state)
        start = time.perf_counter()
        yield
        self._away += time.perf_counter() - start


def _progress(steps: int, first: int) -> tqdm:
    """Make a bar on a terminal, and nothing elsewhere, where lines are printed instead."""
    return tqdm(total=steps, initial=first, unit="step", disable=not sys.stderr.isatty())


def _tell(bar: tqdm, step: int, steps: int, numbers: Metrics) -> None:
    losses = {name: value for name, value in numbers.items() if name.endswith("/loss")}
    if not bar.disable:
        images = f"{numbers['time/images_per_second']:.0f} images/s"
        bar.set_postfix_str(
            " ".join([*(f"{name} {value:.4f}" for name, value in losses.items()), images])
        )
        return
    left = (steps - step) / numbers["time/steps_per_second"]
    parts = [
        f"step {step}/{steps}",
        *(f"{name} {value:.4f}" for name, value in losses.items()),
        f"{numbers['time/steps_per_second']:.2f} steps/s",
        f"{numbers['time/images_per_second']:.0f} images/s",
        f"{tqdm.format_interval(left)} left",
    ]
    print("  ".join(parts), flush=True)
