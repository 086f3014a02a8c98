"""The training loop, readable from top to bottom."""

import collections
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from gen_jax.errors import GenJaxError, NonFiniteError
from gen_jax.protocols import Batch, Turn
from gen_jax.train.engines import Engine
from gen_jax.train.profiling import Window
from gen_jax.train.state import TrainState
from gen_jax.train.transfers import allowed, guarded
from gen_jax.typing import PyTree

__all__ = ["Loop", "train"]

Metrics = Mapping[str, float]

# A run that must leave out more than this has another fault than a bad example now and then.
_MAX_REFUSED, _REFUSED_OF = 10, 1000
# The metric of a generator that says how its samples differ, over how the data does; and below
# which it is worth a line.
_DIVERSITY, _COLLAPSED = "gen/diversity", 0.2


class Loop(NamedTuple):
    """What happens around the steps, and how often.

    ``report(step, metrics)`` and ``show(step, images)`` write, ``save(state, wait)`` checkpoints,
    ``check()`` raises if a save in the background has failed, ``rescue(state)`` saves it when the
    data has failed, ``inspect(state)`` looks at the model and gives ``(metrics, images)``,
    ``validate(state)`` measures held-out losses,
    ``stop(step)`` says whether somebody asked for an end, ``interrupted()`` the same of this
    process while it compiles, and ``origin(step)`` in words what data a step was made of. Nothing
    here may change the state. Of many processes, all must save, inspect and stop at the same steps.
    """

    steps: int
    log_every: int
    inspect_every: int  # 0 for never
    save_every: int
    max_bad_steps: int  # consecutive steps that the guard may refuse
    batch_size: int  # of the global batch
    report: Callable[[int, Metrics], None]
    show: Callable[[int, Mapping[str, np.ndarray]], None]
    save: Callable[[TrainState, bool], None]
    check: Callable[[], None]
    rescue: Callable[[TrainState], None]
    inspect: Callable[[TrainState], tuple[Metrics, Mapping[str, np.ndarray]]]
    stop: Callable[[int], bool]
    interrupted: Callable[[], bool]
    origin: Callable[[int], str]
    turns: Sequence[Turn]  # of a step: one that waits is not to blame
    window: Window  # of steps to profile
    validate_every: int = 0  # 0 for never
    validate: Callable[[TrainState], Metrics] = lambda state: {}


@allowed()
def train(
    engine: Engine,
    state: TrainState,
    frozen: PyTree,
    batches: Iterator[Mapping[str, np.ndarray]],
    key: jax.Array,
    loop: Loop,
) -> TrainState:
    """Train until ``loop.steps`` steps are taken or ``loop.stop(step)``; the last state is saved.

    The numbers of a step are fetched after the next one has been dispatched, so that the device
    never waits for the host.

    Args:
        engine: runs the steps.
        state: where to begin; consumed.
        frozen: weights that are not trained.
        batches: this process's rows of the batches from step ``state.step`` on; training also ends,
            as if asked to, when there are no more.
        key: the run's key.
        loop: what happens around the steps.

    Returns:
        The last state.

    Raises:
        NonFiniteError: after ``loop.max_bad_steps`` consecutive steps without a finite loss, or
            more than ten among the last thousand.
    """
    first = done = int(state.step)
    if done >= loop.steps:
        return state

    def fetch() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else engine.put(batch)

    if (batch := fetch()) is None:
        return state
    compiled = _compile(engine, loop.interrupted, state, frozen, batch, key)
    if compiled is None:
        return state
    saved, unread = first, None
    with _progress(loop.steps, first) as bar:
        meter = _Meter(loop, bar, first)
        while done < loop.steps and batch is not None and not loop.stop(done):
            loop.window.open(done + 1)
            with jax.profiler.StepTraceAnnotation("train", step_num=done + 1), guarded():
                state, metrics = compiled(state, frozen, batch, key)
            done += 1
            loop.window.close(done, metrics)
            if done < loop.steps:
                with _rescued(loop, meter, state, unread, (done, metrics)):
                    batch = fetch()
            loop.check()
            # Only now, with the next step under way, are the last one's numbers asked for.
            if unread is not None:
                meter.read(*unread)
            unread = done, metrics

            saving = done % loop.save_every == 0 and done < loop.steps
            if saving or _is_looked_at(loop, done):
                meter.read(*unread)
                unread = None
                with meter.paused():
                    _look(loop, meter, state, done)
                    if saving:
                        loop.save(state, False)
                        saved = meter.saved = done
        if unread is not None:
            meter.read(*unread)
        loop.window.close(None, state)
    if saved != done:
        loop.save(state, True)
    return state


def _is_due(every: int, done: int, steps: int) -> bool:
    return bool(every) and (done % every == 0 or done == steps)


def _is_looked_at(loop: Loop, done: int) -> bool:
    return any(_is_due(n, done, loop.steps) for n in (loop.inspect_every, loop.validate_every))


def _look(loop: Loop, meter: "_Meter", state: TrainState, done: int) -> None:
    """Draw pictures and measure held-out losses, where it is time to."""
    if _is_due(loop.inspect_every, done, loop.steps):
        numbers, images = loop.inspect(state)
        loop.show(done, images)
        if numbers:
            loop.report(done, numbers)
    if _is_due(loop.validate_every, done, loop.steps):
        numbers = loop.validate(state)
        loop.report(done, numbers)
        meter.say(done, numbers)


@contextlib.contextmanager
def _rescued(
    loop: Loop, meter: "_Meter", state: TrainState, *unread: tuple[int, PyTree] | None
) -> Iterator[None]:
    """Check that bad data costs neither the steps before it nor their numbers."""
    try:
        yield
    except BaseException as error:
        for numbers in unread:
            if numbers is not None:
                meter.read(*numbers)
        try:
            loop.rescue(state)
        except GenJaxError as second:  # the first error is still the one to tell
            error.args = (f"{error}; and the state could not be saved: {second}",)
        raise


def _compile(
    engine: Engine, interrupted: Callable[[], bool], *arguments: PyTree
) -> Callable | None:
    """Compile ahead, so that the time is known and the first step is like the others.

    In another thread, because Python hears no signal while this one compiles; None if one came.
    """
    if jax.config.jax_disable_jit:  # there is no program
        return engine.step
    start = time.perf_counter()
    print("compiling the training step ...", flush=True)
    found: list[Callable] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(engine.compile(*arguments))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if interrupted():
            return None
    if failed:
        raise failed[0]
    print(f"compiled the training step in {time.perf_counter() - start:.1f} s", flush=True)
    return found[0]


class _Meter:
    """Reads the numbers of each step, and reports means and rates every ``log_every`` of them.

    It measures training alone: neither compilation, nor pictures, nor the copy to a checkpoint.
    """

    def __init__(self, loop: Loop, bar: tqdm, first: int) -> None:
        self.saved = first  # the last step that was
        self._loop, self._bar = loop, bar
        self._refused: collections.deque[int] = collections.deque()
        self._begin = self._last = time.perf_counter()
        self._away = 0.0
        self._window: list[dict[str, float]] = []

    def read(self, step: int, metrics: PyTree) -> None:
        """Wait for a step, take its numbers, and report if it is time to."""
        numbers = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self._window.append(numbers)
        self._bar.update()
        bad = int(numbers["guard/consecutive"])
        if step % self._loop.log_every == 0 or step == self._loop.steps:
            self._report(step)
        if bad:
            self._refuse(step, numbers, bad)

    def say(self, step: int, numbers: Metrics) -> None:
        """Tell of numbers that were measured beside training."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        self._bar.write(f"step {step}: {shown}")

    def _refuse(self, step: int, numbers: Metrics, consecutive: int) -> None:
        """Say which step changed nothing and why, and give up if there are too many."""
        self._refused.append(step)
        while self._refused[0] <= step - _REFUSED_OF:
            self._refused.popleft()
        taken = {turn.loss for turn in self._loop.turns if turn.is_due(step - 1)}
        culprits = ", ".join(
            f"{name} {numbers[name]:g}"
            for name in numbers
            for loss, _, what in [name.rpartition("/")]
            if loss in taken and what in ("loss", "grad_norm") and not math.isfinite(numbers[name])
        )
        what = f"step {step}: {culprits or 'a loss leaped'}, from {self._loop.origin(step)}"
        self._bar.write(f"{what}: nothing was learned from it", file=sys.stderr)
        many = len(self._refused) > _MAX_REFUSED
        if consecutive >= self._loop.max_bad_steps or many:
            how_many = (
                f"{len(self._refused)} of the last {_REFUSED_OF:,} steps"
                if many
                else f"{consecutive} consecutive steps"
            )
            last = f"step {self.saved}" if self.saved else "none"
            raise NonFiniteError(
                f"{what}; the loss or its gradient was not finite (or leaped) in {how_many}; the "
                f"state was left as it was before each; last checkpoint: {last}"
            )

    def _report(self, step: int) -> None:
        now = time.perf_counter()
        rate = len(self._window) / max(now - self._last - self._away, 1e-9)
        steps = range(step - len(self._window), step)
        waiting = {turn.loss for turn in self._loop.turns} - {
            turn.loss for turn in self._loop.turns for taken in steps if turn.is_due(taken)
        }
        numbers = {
            name: value
            for name, value in _summarize(self._window).items()
            if name.rpartition("/")[0] not in waiting
        } | {
            "time/seconds": now - self._begin,
            "time/steps_per_second": rate,
            "time/images_per_second": rate * self._loop.batch_size,
            "time/images_seen": float(step * self._loop.batch_size),
        }
        self._window, self._last, self._away = [], now, 0.0
        self._loop.report(step, numbers)
        _tell(self._bar, step, self._loop.steps, numbers)
        if (diversity := numbers.get(_DIVERSITY, 1.0)) < _COLLAPSED:
            what = f"step {step}: {_DIVERSITY} {diversity:.3g}, where 1 is the data's"
            self._bar.write(f"{what}: the generator has collapsed, or not begun", file=sys.stderr)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside."""
        start = time.perf_counter()
        yield
        self._away += time.perf_counter() - start


def _summarize(window: list[dict[str, float]]) -> dict[str, float]:
    """Average over steps, leaving out refused ones; counters are taken from the last."""
    numbers = {}
    for name in window[0]:
        values = [metrics[name] for metrics in window]
        finite = [value for value in values if math.isfinite(value)]
        if name.startswith("guard/"):
            numbers[name] = values[-1]
        else:
            numbers[name] = sum(finite) / len(finite) if finite else math.nan
    return numbers


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
