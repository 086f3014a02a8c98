"""F7, F8: a checkpoint that is no longer what was saved."""

import random
import shutil
import time

import jax
import numpy as np
import pytest

from gen_jax.errors import CheckpointError, DamagedError
from gen_jax.launch.cli.main import main
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train import checkpoint
from gen_jax.train.integrity import inspect_leaves
from tests.reliability.job import ROOT, record
from tests.reliability.saved import BATCH, array_data, files, mutate, restored, wreck
from tests.tiers import tries

pytestmark = pytest.mark.slow


def count_silent_errors(saved, copied, target, monkeypatch, count):
    """Count single flips in array data that orbax alone restores as if nothing were wrong."""
    rng, silent = random.Random(1), 0
    monkeypatch.setattr(checkpoint, "_verify", lambda *_: None)
    for _ in range(count):
        workdir = copied()
        mutate(array_data(workdir / "checkpoints/2/training"), "flip", rng)
        try:
            state, _ = checkpoint.restore(workdir / "checkpoints", 2, target)
        except DamagedError:
            continue
        found = {name: leaf.digest for name, leaf in inspect_leaves(state).items()}
        silent += found != saved[1][2]
    monkeypatch.undo()
    return silent


@pytest.mark.slow
def test_every_flipped_bit_of_array_data_is_noticed(saved, copied, target, monkeypatch, capsys):
    """Orbax notices nearly none of these, which is shown first: else this would prove nothing."""
    count = tries(5, 200)
    silent = count_silent_errors(saved, copied, target, monkeypatch, count)
    assert silent >= 0.8 * count
    rng, noticed = random.Random(1), 0
    for _ in range(count):  # the same flips
        workdir = copied()
        mutate(array_data(workdir / "checkpoints/2/training"), "flip", rng)
        step, found = restored(workdir, target)
        assert found == saved[1][step]
        noticed += step == 1
        assert (step == 1) == ("is not what was saved" in capsys.readouterr().err)
    assert noticed >= silent
    record("F7 array data", flips=count, silent_in_orbax=silent, noticed=noticed)


@pytest.mark.slow
def test_no_damage_is_ever_restored_as_if_it_were_good(saved, copied, target, capsys):
    """Any byte of any file of the newest step: it is restored right, or the one before it is."""
    _, known = saved
    rng = random.Random(0)
    count, outcomes, longest = tries(20, 2000), {1: 0, 2: 0}, 0.0
    for _ in range(count):
        workdir = copied()
        everything = files(workdir / "checkpoints" / "2")
        used = [p for p in everything if "process_0/d/" in str(p) or p.name == "metadata"]
        path = rng.choice(rng.choice([everything, used]))
        how = rng.choice(["flip", "flip", "truncate", "delete", "zero"])
        mutate(path, how, rng)
        begin = time.monotonic()
        step, found = restored(workdir, target)
        longest = max(longest, time.monotonic() - begin)
        assert found == known[step], (path, how)
        outcomes[step] += 1
        if step == 1:
            assert (workdir / "checkpoints" / "2.corrupt").is_dir()
            assert "step 1 is used instead" in capsys.readouterr().err
    assert longest < 30
    assert outcomes[1] >= 0.2 * count
    counted = {"newest": outcomes[2], "before": outcomes[1], "wrong": 0}
    record("F7", mutations=count, **counted, longest_s=round(longest, 1))


@pytest.mark.parametrize(
    "tear",
    [
        lambda step: [p.write_bytes(b"") for p in step.rglob("*metadata*") if p.is_file()],
        lambda step: [p.unlink() for p in step.rglob("manifest.ocdbt")],
        lambda step: (shutil.rmtree(step), step.mkdir()),
        lambda step: (shutil.rmtree(step), step.write_text("a file")),
        lambda step: shutil.rmtree(step / "meta"),
        lambda step: shutil.rmtree(step / "weights"),
        lambda step: shutil.rmtree(step / "training"),
    ],
    ids=["json", "manifest", "empty", "file", "meta", "weights", "training"],
)
def test_a_torn_step_is_passed_over(copied, saved, target, tear):
    workdir = copied()
    tear(workdir / "checkpoints" / "2")
    assert restored(workdir, target) == (1, saved[1][1])
    assert checkpoint_steps(workdir) == [1]
    # And the next save finds its number free.
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=2) as manager:
        state, _ = checkpoint.restore(workdir / "checkpoints", 1, target)
        checkpoint.save(manager, state.replace(step=state.step + 1), {"config": {}}, wait=True)
    assert checkpoint_steps(workdir) == [1, 2]


def test_strict_restore_refuses_what_is_damaged(copied, target):
    workdir = copied()
    mutate(workdir / "checkpoints/2/meta/metadata", "flip", random.Random(0))
    with pytest.raises(DamagedError, match="checkpoints/2: damaged"):
        restored(workdir, target, strict=True)
    assert checkpoint_steps(workdir) == [1, 2]


def test_when_nothing_is_good_nothing_is_touched(copied, target):
    workdir = copied()
    for step in (1, 2):
        (workdir / f"checkpoints/{step}/meta/metadata").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="no usable checkpoint among 2: .*/2: damaged"):
        restored(workdir, target)
    assert checkpoint_steps(workdir) == [1, 2]


def test_a_state_that_is_not_finite_is_never_saved(engine, tmp_path):
    from gen_jax.errors import NonFiniteError

    state = engine.init(engine.key(0), engine.put(BATCH))
    broken = jax.tree.map(lambda x: x, state)
    broken.params["gen"]["w"] = broken.params["gen"]["w"].at[0, 0].set(np.nan)
    with (
        checkpoint.open_checkpoints(tmp_path) as manager,
        pytest.raises(NonFiniteError, match=r"\.params\['gen'\]\['w'\] is not finite"),
    ):
        checkpoint.save(manager, broken, {}, wait=True)
    assert not [p for p in tmp_path.iterdir() if p.name.isdecimal()]


@pytest.mark.usefixtures("one_device")
@pytest.mark.slow
def test_training_goes_on_from_the_step_before(tmp_path, capsys):
    """Through the command line: warn, rename, go on; or refuse with --strict_restore."""
    line = ["train", f"--config={ROOT / 'configs/vae_mnist.py'}:tiny", f"--workdir={tmp_path}"]
    line += ["--config.train.save_every=1", "--config.optimizer.decay=constant"]
    assert main(line) == 0
    folder = tmp_path / "checkpoints"
    assert checkpoint_steps(tmp_path) == [1, 2]
    wreck(folder / "2" / "training")
    capsys.readouterr()
    line += ["--config.train.steps=3"]
    assert main([*line, "--strict_restore"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("gen_jax: checkpoint: ")
    assert len(err.splitlines()) == 1
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "checkpoints/2: damaged" in err
    assert "step 1 is used instead" in err
    assert "resuming at step 1" in out
    assert (folder / "2.corrupt").is_dir()
    assert checkpoint_steps(tmp_path) == [2, 3]
    # Sampling looks for itself, and leaves everything as it is.
    wreck(folder / "3" / "weights")
    picture = tmp_path / "x.png"
    sample = ["sample", f"--workdir={tmp_path}", f"--out={picture}", "--num=2"]
    assert main(sample) == 0
    assert "step 2 is used instead" in capsys.readouterr().err
    assert (folder / "3").is_dir()
    for step in (2, 3):
        shutil.rmtree(folder / str(step) / "weights")
    assert main([*line, "--config.train.steps=5"]) == 4
    assert "no usable checkpoint among 2" in capsys.readouterr().err
    # Anew only when told to, and then nothing is destroyed.
    assert main([*line, "--restart=from_scratch"]) == 0
    assert "before-1" in capsys.readouterr().out
    assert checkpoint_steps(tmp_path) == [2, 3]
    assert (tmp_path / "before-1/checkpoints/2.corrupt").is_dir()
