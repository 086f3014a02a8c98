"""F11, F12, F19, F29, F30, F31: what training itself promises."""

import json
import os
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from gen_jax.data import (
    batch_of,
    examples_of,
    hold_out,
    named_by,
    open_source,
    train_batches,
)
from gen_jax.data.text import BYTES
from gen_jax.launch.build.parallel import build_engine
from gen_jax.launch.commands.train import _seen_by
from gen_jax.launch.config.files import load_config
from gen_jax.launch.config.schema import families
from gen_jax.launch.runs.tokens import with_text
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train import checkpoint
from gen_jax.train.engines import make_engine
from gen_jax.train.integrity import inspect_leaves
from gen_jax.train.sharding import Rules, make_mesh
from tests.reliability.job import VAE, digests, logged, record, run, train_line
from tests.test_protocols import FAMILIES, build_over
from tests.tiers import tries

pytestmark = pytest.mark.slow

STEPS, BATCH_SIZE = 6, 8  # the size of every tiny config
GOLDEN = Path(__file__).parent / "golden.json"


class Family:
    """A tiny model of a family, compiled once, on one device."""

    def __init__(self, name):
        config = load_config(FAMILIES[name], [])
        told = config.get("text", {}).get("tokenizer", "none") != "none"
        texts = ["text.tokenizer=bytes", "text.vocabulary=259", "data.captions=disc {}"]
        shape = tuple(config["data"]["shape"])
        source = f"synthetic:{'x'.join(map(str, shape))}"
        source = config["data"]["source"] if len(shape) == 4 else source  # films say more
        if told:
            config = load_config(FAMILIES[name], texts)
        self.experiment, self.config = build_over(config, texts)
        whole = open_source(source, "train", shape)
        if "prompt" in self.experiment.model.inputs:
            whole = whole if whole.captions else named_by(whole, "disc {}")
            whole = with_text(whole, BYTES, self.config)
        self.source = hold_out(whole, whole.size - 5 * BATCH_SIZE - 2)[0]
        self.source = _seen_by(self.experiment.model, self.source)
        # As the command makes it, so that its program is one that tests/test_configs.py compiles.
        self.engine = build_engine(
            self.config, self.experiment, make_mesh(devices=jax.devices()[:1])
        )
        self.frozen = self.engine.place(self.experiment.frozen)
        self.key = self.engine.key(0)
        batch = self.engine.put(next(self.batches(0)))
        self.target = self.engine.abstract(batch, self.frozen)
        self.start = lambda: self.engine.init(self.key, batch, self.frozen)
        self.step = self.engine.compile(self.start(), self.frozen, batch, self.key)

    def batches(self, first):
        # Five steps an epoch, and not quite.
        return train_batches(self.source, seed=0, batch_size=BATCH_SIZE, first_step=first)

    def train(self, state, until):
        batches, losses = self.batches(int(state.step)), []
        while int(state.step) < until:
            batch = self.engine.put(next(batches))
            state, metrics = self.step(state, self.frozen, batch, self.key)
            losses.append({n: float(x) for n, x in metrics.items() if n.endswith("/loss")})
        return state, losses


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param, Family(request.param)


def test_resumed_is_uninterrupted(family, tmp_path):
    """To the last bit, beyond an epoch; by night also at the first and the last step but one."""
    name, made = family
    whole, _ = made.train(made.start(), STEPS)
    expected = inspect_leaves(whole)
    cuts = tries((STEPS // 2,), (1, STEPS // 2, STEPS - 1))
    for cut in cuts:
        part, _ = made.train(made.start(), cut)
        with checkpoint.open_checkpoints(tmp_path / str(cut)) as manager:
            checkpoint.save(manager, part, {})
        part, _ = checkpoint.restore(tmp_path / str(cut), cut, made.target)
        assert inspect_leaves(made.train(part, STEPS)[0]) == expected
    record("F30", family=name, cuts=list(cuts), equal=True)


def test_equal_seeds_give_equal_bits(family):
    _, made = family
    results = [inspect_leaves(made.train(made.start(), 3)[0]) for _ in range(2)]
    assert results[0] == results[1]


def test_losses_are_those_of_the_record(family):
    """A change detector and nothing more; after a change that is meant, GEN_JAX_GOLDEN=write
    writes it anew (one worker).

    Rounding differs between processors, and grows with the steps, hence the tolerance.
    """
    name, made = family
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    _, losses = made.train(made.start(), STEPS)
    if os.environ.get("GEN_JAX_GOLDEN") == "write":
        golden[name] = losses
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    for found, expected in zip(losses, golden[name], strict=True):
        assert found == pytest.approx(expected, rel=2e-3)


def test_every_family_is_in_the_record():
    assert set(json.loads(GOLDEN.read_text())) == set(families())


def test_worker_processes_change_nothing(folder_of_images):
    """Batches from any step on, read one by one, by 0 or 2 processes, across epochs."""
    source = open_source(f"folder:{folder_of_images}", "train", (8, 8, 1))
    options = {"seed": 3, "batch_size": 10, "flip": True, "crop": 2, "skip": (5,)}
    for first in (0, 2, 3):  # 36 examples
        alone = train_batches(source, first_step=first, **options)
        helped = train_batches(source, first_step=first, num_workers=2, **options)
        for _ in range(6):
            chex.assert_trees_all_equal(next(alone), next(helped))


class TestSkipping:
    def test_the_order_is_the_uninterrupted_one_without_those_batches(self):
        source = open_source("synthetic:8x8x1", "train", (8, 8, 1))
        options = {"seed": 1, "batch_size": 64, "flip": True, "crop": 1}
        whole = train_batches(source, **options)
        whole = [next(whole) for _ in range(30)]
        for skip in ((1,), (3, 4, 5), (2, 17), (29, 5)):
            left = [batch for number, batch in enumerate(whole, 1) if number not in skip]
            for first in (0, 3, 20):
                batches = train_batches(source, first_step=first, skip=skip, **options)
                for expected in left[first : first + 8]:
                    chex.assert_trees_all_equal(next(batches), expected)

    def test_the_examples_of_a_step_are_those_it_saw(self):
        source = open_source("synthetic:8x8x1", "train", (8, 8, 1))
        batches = train_batches(source, seed=1, batch_size=64, skip=(2,))
        for step in range(4):
            batch = batch_of(step, (2,))
            indices = examples_of(batch, size=source.size, seed=1, batch_size=64)
            np.testing.assert_array_equal(next(batches)["image"], source.read(indices)["image"])

    def test_only_what_comes_can_be_skipped(self, tmp_path):
        line = train_line(VAE, tmp_path / "w", steps=10)
        assert run(line, tmp_path / "log")[0] == 0
        more = [*line, "--config.train.steps=14"]
        code, text = run([*more, "--config.data.skip_steps=(10,)"], tmp_path / "log")
        assert code == 4, text
        assert "data.skip_steps: 10; step 10 is behind it already" in text
        code, text = run([*more, "--config.data.skip_steps=(11,13)"], tmp_path / "log")
        assert code == 0, text
        code, text = run([*more, "--config.train.steps=15"], tmp_path / "log")
        assert code == 4, text


class TestNaN:
    def faulty(self, fault, line, log):
        return run([json.dumps(fault), *line], log, module="tests.reliability.faulty")

    def test_bad_steps_are_left_out_counted_and_told(self, tmp_path):
        line = train_line(VAE, tmp_path / "w", steps=45, save_every=20)
        code, text = self.faulty({"nan": [17, 40]}, line, tmp_path / "log")
        assert code == 0, text
        told = [line for line in text.splitlines() if "nothing was learned" in line]
        assert [line.split(":")[0] for line in told] == ["step 17", "step 40"]
        part = hold_out(open_source("synthetic:8x8x1", "train", (8, 8, 1)), 16)[0]
        batch = examples_of(16, size=part.size, seed=0, batch_size=8)
        wanted = ", ".join(map(str, part.indices[batch]))
        assert f"elbo/grad_norm nan, elbo/loss nan, from batch 17, examples {wanted}:" in told[0]
        last = json.loads((tmp_path / "w" / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["guard/skipped"] == 2
        assert checkpoint_steps(tmp_path / "w")[-1] == 45
        record("F11", injected=2, skipped=2)

    def test_too_many_in_a_row_end_the_run_at_the_fifth(self, tmp_path):
        line = train_line(VAE, tmp_path / "w", steps=45, save_every=10)
        code, text = self.faulty({"nan_from": 23}, line, tmp_path / "log")
        assert code == 5, text
        error = text.splitlines()[-1]
        assert error.startswith("gen_jax: training: step 27: elbo/grad_norm nan, elbo/loss nan")
        assert "5 consecutive steps" in error
        assert "last checkpoint: step 20" in error
        assert checkpoint_steps(tmp_path / "w")[-1] == 20
        assert logged(tmp_path / "w")[-1] == 27
        # What was saved is finite, and without the fault the run goes on from it.
        assert run(line, tmp_path / "log")[0] == 0

    @pytest.mark.nightly
    def test_too_many_in_all_end_the_run_too(self, tmp_path):
        line = train_line(VAE, tmp_path / "w", steps=100, save_every=1000)
        code, text = self.faulty({"nan": list(range(2, 100, 3))}, line, tmp_path / "log")
        assert code == 5, text
        assert "step 32: " in text.splitlines()[-1]
        assert "11 of the last 1,000 steps" in text.splitlines()[-1]


@pytest.mark.nightly
def test_a_checkpoint_fits_every_mesh(tmp_path):
    """F19: saved on one layout, restored on another: the same bits, and nearly the same losses."""
    made = Family("vae")
    layouts = [
        make_mesh(devices=jax.devices()[:1]),
        make_mesh(),
        make_mesh(fsdp=2),
        make_mesh(data=2, fsdp=4),
        make_mesh(data=3, tensor=2, devices=jax.devices()[:6]),
    ]
    rules = Rules(made.experiment.tensor_dims, min_size=1)
    saved = None
    for number, mesh in enumerate(layouts):
        engine = make_engine("jit", made.experiment.model, made.experiment.optimizers, mesh, rules)
        size = 24 if mesh.size == 6 else 16
        rows = np.arange(size) % 16
        batch = {"image": made.source.read(rows)["image"], "label": np.zeros(size, np.int32)}
        target = engine.abstract(engine.put(batch))
        if saved is None:
            state, _ = made.train(made.start(), 3)
            saved = inspect_leaves(state)
            with checkpoint.open_checkpoints(tmp_path) as manager:
                checkpoint.save(manager, state, {}, wait=True)
            losses = None
        state, _ = checkpoint.restore(tmp_path, 3, target)
        assert inspect_leaves(state) == saved
        if mesh.size == 6:
            continue  # another batch: restored only
        frozen, key = engine.place(made.experiment.frozen), engine.key(0)
        found = []
        for _ in range(100):
            state, metrics = engine.step(state, frozen, engine.put(batch), key)
            found.append(float(metrics["elbo/loss"]))
        losses = found if number == 0 else losses
        np.testing.assert_allclose(found, losses, rtol=1e-5)
    record("F19", layouts=len(layouts), restored_equal=True, losses_rtol=1e-5)


def test_equal_seeds_give_equal_bits_through_the_command_line(tmp_path):
    for name in ("a", "b"):
        assert run(train_line(VAE, tmp_path / name, steps=5), tmp_path / "log")[0] == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
