import gzip
import itertools
import json
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from gen_jax.errors import DataError, NonFiniteError, StorageError
from gen_jax.protocols import Turn
from gen_jax.train.engines import jit_engine
from gen_jax.train.loop import Loop, train
from gen_jax.train.profiling import Window
from gen_jax.train.sharding import make_mesh
from gen_jax.train.transfers import allowed, guarded
from gen_jax.train.writer import close, open_writer, write_images, write_metrics
from tests.train.toy import toy

X = np.random.default_rng(0).normal(size=(100, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def engine():
    return jit_engine(toy(), {"gen": optax.adam(0.01), "disc": optax.adam(0.01)}, make_mesh())


def batches(first=0, bad=()):
    for i in itertools.count(first):
        yield {"x": np.where(i in bad, np.nan, X[i % 100]).astype(np.float32)}


class Record:
    """Everything that a loop reported."""

    def __init__(self):
        self.metrics, self.images, self.saved, self.inspected = [], [], [], []

    def loop(self, **options):
        def inspect(state):
            self.inspected.append(int(state.step))
            return {"look": 1.0}, {"picture": np.zeros((2, 2, 1), np.uint8)}

        settings = {
            "steps": 10,
            "log_every": 4,
            "inspect_every": 5,
            "save_every": 3,
            "max_bad_steps": 3,
            "report": lambda step, metrics: self.metrics.append((step, dict(metrics))),
            "show": lambda step, images: self.images.append((step, set(images))),
            "batch_size": 8,
            "save": lambda state, wait: self.saved.append((int(state.step), wait)),
            "rescue": lambda state: self.saved.append((int(state.step), True)),
            "inspect": inspect,
            "check": lambda: None,
            "origin": lambda step: f"batch {step}",
            "stop": lambda step: False,
            "interrupted": lambda: False,
            "turns": (Turn("gen"), Turn("disc")),
            "window": Window(Path(), 0, 0),
        }
        return Loop(**{**settings, **options})


def start(engine):
    return engine.init(engine.key(0), engine.put({"x": X[0]}))


def test_everything_happens_when_it_should(engine, capsys):
    record = Record()
    state = train(engine, start(engine), {}, batches(), engine.key(0), record.loop())
    assert int(state.step) == 10
    logged = [step for step, metrics in record.metrics if "gen/loss" in metrics]
    assert logged == [4, 8, 10]
    assert record.inspected == [5, 10]
    assert record.images == [(5, {"picture"}), (10, {"picture"})]
    assert record.saved == [(3, False), (6, False), (9, False), (10, True)]
    numbers = record.metrics[0][1]
    assert numbers["time/images_seen"] == 32
    assert numbers["time/steps_per_second"] > 0
    out = capsys.readouterr().out
    assert "compiled the training step in" in out
    assert "step 10/10  disc/loss" in out
    assert "images/s" in out


def test_metrics_are_means_over_the_steps_between_lines(engine):
    fine, coarse = Record(), Record()
    for record, every in ((fine, 1), (coarse, 5)):
        loop = record.loop(log_every=every, inspect_every=0, save_every=100)
        train(engine, start(engine), {}, batches(), engine.key(0), loop)
    losses = [metrics["gen/loss"] for _, metrics in fine.metrics]
    assert coarse.metrics[0][1]["gen/loss"] == pytest.approx(np.mean(losses[:5]), rel=1e-6)


def test_a_stopped_run_saves_the_step_it_is_at(engine):
    record = Record()
    asked = itertools.count()
    loop = record.loop(stop=lambda step: next(asked) >= 4, inspect_every=0)
    state = train(engine, start(engine), {}, batches(), engine.key(0), loop)
    assert int(state.step) == 4
    assert record.saved[-1] == (4, True)


def test_a_signal_is_heard_while_it_compiles(engine, capsys):
    hung = threading.Event()
    slow = engine._replace(compile=lambda *arguments: hung.wait(60))
    loop = Record().loop(interrupted=lambda: True)
    begin = time.perf_counter()
    state = train(slow, start(engine), {}, batches(), engine.key(0), loop)
    assert time.perf_counter() - begin < 20
    assert int(state.step) == 0
    assert "compiling the training step ..." in capsys.readouterr().out
    hung.set()


def test_stopping_and_going_on_is_bitwise_the_uninterrupted_run(engine):
    quiet = {"inspect_every": 0, "save_every": 100}
    whole = train(
        engine, start(engine), {}, batches(), engine.key(0), Record().loop(steps=9, **quiet)
    )
    for cut in (1, 4, 8):
        part = train(
            engine, start(engine), {}, batches(), engine.key(0), Record().loop(steps=cut, **quiet)
        )
        part = train(engine, part, {}, batches(cut), engine.key(0), Record().loop(steps=9, **quiet))
        jax.tree.map(np.testing.assert_array_equal, whole, part)


def test_bad_batches_are_survived_and_left_out_of_the_means(engine):
    record = Record()
    loop = record.loop(log_every=10, inspect_every=0)
    state = train(engine, start(engine), {}, batches(bad=(2, 5)), engine.key(0), loop)
    numbers = record.metrics[0][1]
    assert numbers["guard/skipped"] == 2
    assert np.isfinite(numbers["gen/loss"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_a_turn_that_waits_is_not_to_blame(capsys):
    turns = (Turn("gen"), Turn("disc", start=100))
    sgd = {player: optax.sgd(0.01) for player in ("gen", "disc")}
    waiting = jit_engine(toy()._replace(turns=turns), sgd, make_mesh())
    loop = Record().loop(steps=3, inspect_every=0, turns=turns)
    train(waiting, start(waiting), {}, batches(bad=(1,)), waiting.key(0), loop)
    told = capsys.readouterr().err
    assert "step 2: gen/grad_norm nan, gen/loss nan, from batch 2: nothing was learned" in told
    assert "disc" not in told


def test_what_waited_is_not_reported_and_a_collapse_is(capsys):
    turns = (Turn("gen"), Turn("disc", start=3))
    adam = {player: optax.adam(0.01) for player in ("gen", "disc")}
    late = jit_engine(toy(), adam, make_mesh(), turns=turns)
    record = Record()
    loop = record.loop(turns=turns, steps=6, log_every=3)
    train(late, start(late), {}, batches(), late.key(0), loop)
    told = [{name.partition("/")[0] for name in numbers} for _, numbers in record.metrics]
    assert ["disc" in names for names in told if "gen" in names] == [False, True]
    assert "nan" not in capsys.readouterr().out

    def engine_of(diversity):
        def step(state, *arguments):
            state, metrics = late.step(state, *arguments)
            return state, {**metrics, "gen/diversity": np.float32(diversity)}

        return late._replace(step=step, compile=lambda *_: step)

    for diversity, told_of in ((0.01, True), (0.9, False)):
        made = engine_of(diversity)
        train(made, start(made), {}, batches(), made.key(0), Record().loop(turns=turns, steps=3))
        assert ("collapsed" in capsys.readouterr().err) == told_of


def test_too_many_bad_batches_in_a_row_end_the_run(engine):
    record = Record()
    loop = record.loop(steps=50, log_every=100, inspect_every=0, save_every=100)
    with pytest.raises(NonFiniteError, match="step 8: .* in 3 consecutive .* checkpoint: none"):
        train(engine, start(engine), {}, batches(bad=range(5, 99)), engine.key(0), loop)
    assert record.saved == []


def test_a_finished_run_does_nothing(engine):
    record = Record()
    state = start(engine).replace(step=np.int32(10))
    train(engine, state, {}, iter(()), engine.key(0), record.loop())
    assert record.saved == record.metrics == []


def test_the_writer_keeps_lines_up_to_the_resumed_step(tmp_path):
    writer = open_writer(tmp_path, 0)
    for step in (1, 2, 3):
        write_metrics(writer, step, {"loss": float(step), "bad": float("nan")})
    close(writer)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # torn by a crash
    writer = open_writer(tmp_path, 2)
    write_metrics(writer, 3, {"loss": 30.0})
    write_images(writer, 3, {"samples": np.zeros((4, 4, 1), np.uint8)})
    close(writer)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert lines[0]["bad"] is None
    assert (tmp_path / "images" / "0000003_samples.png").stat().st_size > 0
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_full_disk_is_a_storage_error_in_writing_and_in_closing(tmp_path):
    """/dev/full takes nothing; the unwritten line is tried again on closing."""
    writer = open_writer(tmp_path, 0)
    writer.metrics.close()
    writer = writer._replace(metrics=open("/dev/full", "a", buffering=1))  # noqa: SIM115
    for action in (lambda: write_metrics(writer, 1, {"loss": 1.0}), lambda: close(writer)):
        with pytest.raises(StorageError, match=r"metrics.jsonl: cannot be written: No space"):
            action()


def test_bytes_that_are_no_text_do_not_stop_a_resumed_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n')
    close(open_writer(tmp_path, 1))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_bad_data_does_not_cost_the_steps_before_it(engine):
    def broken():
        yield from itertools.islice(batches(), 6)
        raise DataError("record 6")

    record = Record()
    with pytest.raises(DataError, match="record 6"):
        train(engine, start(engine), {}, broken(), engine.key(0), record.loop(save_every=100))
    assert record.saved == [(6, True)]


def test_a_window_of_steps_is_profiled(engine, tmp_path):
    loop = Record().loop(steps=6, inspect_every=0, window=Window(tmp_path, 3, 2))
    train(engine, start(engine), {}, batches(), engine.key(0), loop)
    (trace,) = tmp_path.rglob("perfetto_trace.json.gz")
    assert list(tmp_path.rglob("*.xplane.pb"))
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert steps == {"3", "4"}


def test_a_run_that_ends_in_its_window_still_writes_it(engine, tmp_path):
    loop = Record().loop(steps=4, inspect_every=0, window=Window(tmp_path, 3, 20))
    train(engine, start(engine), {}, batches(), engine.key(0), loop)
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))


def test_numbers_are_asked_for_only_when_the_next_step_is_under_way(engine):
    """Else the device would wait for the host at every step."""
    events = []

    class Number:
        def __init__(self, step, value):
            self.step, self.value = step, value

        def __float__(self):
            events.append(("read", self.step))
            return float(self.value)

    def step(state, frozen, batch, key):
        number = int(state.step) + 1
        events.append(("dispatch", number))
        return state.replace(step=number), {"guard/consecutive": Number(number, 0)}

    fake = engine._replace(compile=lambda *_: step)
    loop = Record().loop(steps=6, log_every=2, inspect_every=0, save_every=100)
    train(fake, start(engine), {}, batches(), engine.key(0), loop)
    expected = [("dispatch", 1)]
    for step in range(2, 7):
        expected += [("dispatch", step), ("read", step - 1)]
    assert events == [*expected, ("read", 6)]


def test_a_transfer_guard_watches_the_steps_alone(engine):
    plain, guarded = Record(), Record()
    train(engine, start(engine), {}, batches(), engine.key(1), plain.loop(steps=2, log_every=1))
    state, key = start(engine), engine.key(1)
    with jax.transfer_guard("disallow"):
        train(engine, state, {}, batches(), key, guarded.loop(steps=2, log_every=1))
    losses = [
        [numbers["gen/loss"] for _, numbers in record.metrics if "gen/loss" in numbers]
        for record in (plain, guarded)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    careless = engine._replace(put=lambda batch: batch)  # the step would copy it
    state = start(engine)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-dev"):
        train(careless, state, {}, batches(), key, Record().loop(steps=2))
    assert jax.config.jax_transfer_guard_host_to_device is None


def test_a_guard_of_all_threads_comes_back():
    before = jax.config.jax_transfer_guard_host_to_device
    jax.config.update("jax_transfer_guard_host_to_device", "disallow")
    try:
        with allowed():
            assert jax.config.jax_transfer_guard_host_to_device == "allow"
            with guarded():
                assert jax.config.jax_transfer_guard_host_to_device == "disallow"
        assert jax.config.jax_transfer_guard_host_to_device == "disallow"
    finally:
        jax.config.update("jax_transfer_guard_host_to_device", before)


def test_without_jit_it_trains_the_same(engine):
    record, eager = Record(), Record()
    settings = {"steps": 1, "log_every": 1, "inspect_every": 0}
    train(engine, start(engine), {}, batches(), engine.key(1), record.loop(**settings))
    state = start(engine)
    with jax.disable_jit():
        train(engine, state, {}, batches(), engine.key(1), eager.loop(**settings))
    (_, a), (_, b) = record.metrics[0], eager.metrics[0]
    assert a["gen/loss"] == pytest.approx(b["gen/loss"], rel=1e-5)
