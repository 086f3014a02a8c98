"""F7, F8, F22: a checkpoint that is no longer what was saved, by accident or on purpose."""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from gen_jax.errors import CheckpointError, DamagedError
from gen_jax.launch.cli import main
from gen_jax.launch.resume import checkpoint_steps, newest_good, set_aside
from gen_jax.train import checkpoint
from gen_jax.train.engines import jit_engine
from gen_jax.train.integrity import inspect_leaves, seal, unseal
from gen_jax.train.sharding import make_mesh
from tests.reliability.job import ROOT, environment, record, tries
from tests.train.toy import toy

# Arrays large enough not to lie in the nodes of orbax's index, which have checksums, and random
# enough not to be compressed: where a bit flips, a number changes.
BATCH = {"x": np.random.default_rng(0).normal(size=(8, 128)).astype(np.float32)}
OPTIMIZERS = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}


@pytest.fixture(scope="module")
def engine():
    return jit_engine(toy(), OPTIMIZERS, make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def target(engine):
    return engine.abstract(engine.put(BATCH))


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """A work directory with steps 1 and 2, and their digests."""
    workdir = tmp_path_factory.mktemp("saved")
    state = engine.init(engine.key(0), engine.put(BATCH))
    known = {}
    with checkpoint.open_checkpoints(workdir / "checkpoints") as manager:
        for step in (1, 2):
            state, _ = engine.step(state, {}, engine.put(BATCH), engine.key(0))
            checkpoint.save(manager, state, {"config": {"seed": 0}}, wait=True)
            known[step] = {name: leaf.digest for name, leaf in inspect_leaves(state).items()}
    return workdir, known


@pytest.fixture
def copied(saved, tmp_path):
    def copy():
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        shutil.copytree(saved[0], tmp_path / "w")
        return tmp_path / "w"

    return copy


def restored(workdir, target, **options):
    folder = workdir / "checkpoints"
    step, (state, _) = newest_good(
        folder,
        checkpoint_steps(workdir),
        lambda step: checkpoint.restore(folder, step, target),
        rename=set_aside,
        **options,
    )
    return step, {name: leaf.digest for name, leaf in inspect_leaves(state).items()}


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)


def array_data(item):
    """Give the largest file that holds numbers, which orbax reads and does not check."""
    data = [p for p in files(item) if "process_0/d/" in str(p)]
    return max(data, key=lambda p: p.stat().st_size)


def wreck(item):
    """Flip a bit of every byte of array data, whichever of them are read."""
    for path in files(item):
        if "process_0/d/" in str(path):
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def mutate(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del data[rng.randrange(len(data)) :]
    elif how == "zero":
        begin = rng.randrange(len(data))
        end = min(begin + 512, len(data))
        data[begin:end] = bytes(end - begin)
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes(data)


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
    count = tries(20, 200)
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
    count, outcomes, longest = tries(100, 2000), {1: 0, 2: 0}, 0.0
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


LEAVES = {
    "f32": np.random.default_rng(0).normal(size=(8, 6, 5)).astype(np.float32),
    "bf16": np.arange(48, dtype=np.float32).reshape(8, 6).astype(jax.numpy.bfloat16),
    "i8": np.arange(-8, 8, dtype=np.int8),
    "bool": np.arange(16) % 3 == 0,
    "u32": np.arange(16, dtype=np.uint32),
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "long": np.random.default_rng(1).normal(size=(16, 9999)).astype(np.float32),
}


class TestDigest:
    def test_host_and_device_agree_however_the_array_is_split(self):
        from gen_jax.train import integrity

        mesh = jax.make_mesh((8,), ("x",))
        for name, x in LEAVES.items():
            on_host = inspect_leaves({name: x})
            split = jax.sharding.PartitionSpec(*(("x",) if x.ndim and x.size else ()))
            spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, split))
            assert inspect_leaves({name: spread}) == on_host
            compiled = integrity._on_devices()(spread)
            low, high, finite = jax.device_get(compiled)
            assert (f"{int(low):08x}{int(high):08x}", bool(finite)) == next(iter(on_host.values()))

    def test_every_bit_and_every_place_counts(self):
        x = LEAVES["f32"]
        digest = inspect_leaves(x)[""].digest
        rng = random.Random(0)
        for _ in range(300):
            data = bytearray(x.tobytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            assert (
                inspect_leaves(np.frombuffer(data, x.dtype).reshape(x.shape))[""].digest != digest
            )
        for axis in range(3):
            assert inspect_leaves(np.flip(x, axis))[""].digest != digest

    def test_what_is_not_finite_is_seen(self):
        x = LEAVES["f32"].copy()
        x[3, 2, 1] = np.inf
        assert not inspect_leaves(x)[""].finite
        assert inspect_leaves(LEAVES["i8"])[""].finite


def test_sealed_json_is_that_or_nothing():
    content = {"step": 3, "config": {"a": [1, 2.5, None]}, "spec": {"x": [[2], "float32", "00"]}}
    data = json.dumps(seal(content)).encode()
    assert unseal(data) == content
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                assert unseal(bytes(flipped)) == content
            except ValueError:
                continue


class TestMalice:
    """What a checkpoint from somebody else may try."""

    def test_links_are_refused(self, copied, target, tmp_path):
        workdir = copied()
        secret = tmp_path / "secret"
        data = array_data(workdir / "checkpoints/2/weights")
        data.rename(secret)
        data.symlink_to(secret)
        with pytest.raises(DamagedError, match="is a link"):
            checkpoint.restore(workdir / "checkpoints", 2, target)

    def test_a_linked_step_is_refused(self, copied, target, tmp_path):
        workdir = copied()
        (workdir / "checkpoints/2").rename(tmp_path / "elsewhere")
        (workdir / "checkpoints/2").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DamagedError, match="is no directory"):
            checkpoint.read_meta(workdir / "checkpoints", 2)

    def test_a_pipe_does_not_hang_it(self, copied, target):
        workdir = copied()
        os.mkfifo(workdir / "checkpoints/2/weights/fifo")
        with pytest.raises(DamagedError, match="no file at all"):
            checkpoint.restore(workdir / "checkpoints", 2, target)

    @pytest.mark.parametrize(
        "text",
        [
            b'{"a": ' * 1000 + b"1" + b"}" * 1000,
            b"[" * 100_000,
            b'{"format": 1, "format": 1}',
            b'{"format": 1e999}',
            b"NaN",
            b"\xff\xfe",
            b"",
            b"3",
        ],
    )
    def test_json_of_all_kinds_is_one_error(self, copied, text):
        workdir = copied()
        (workdir / "checkpoints/2/meta/metadata").write_bytes(text)
        with pytest.raises(DamagedError):
            checkpoint.read_meta(workdir / "checkpoints", 2)

    def test_the_tree_comes_from_the_code_alone(self, engine, copied, target):
        """Sealed by somebody who knows how, it may still not add, drop or reshape an array."""
        for change in (
            lambda spec: spec.update({".params['evil']": [[10**12], "float32", "0" * 16]}),
            lambda spec: spec.pop(".params['gen']['w']"),
            lambda spec: spec[".params['gen']['w']"].__setitem__(0, [10**6, 10**6]),
            lambda spec: spec.clear(),
        ):
            workdir = copied()
            path = workdir / "checkpoints/2/meta/metadata"
            meta = unseal(path.read_bytes())
            change(meta["spec"])
            path.write_text(json.dumps(seal(meta)))
            with pytest.raises(CheckpointError, match="does not fit the config"):
                checkpoint.restore(workdir / "checkpoints", 2, target)

    def test_sealed_nonsense_is_damage(self, copied, target):
        path = copied() / "checkpoints/2/meta/metadata"
        good = unseal(path.read_bytes())
        for change in (
            {"spec": []},
            {"spec": {"evil": [[1], "float32", "0"]}},
            {"spec": {".step": 3}},
            {"spec": {".step": [[], "int32"]}},
            {"step": 3},
            {"step": "2"},
        ):
            path.write_text(json.dumps(seal({**good, **change})))
            with pytest.raises(DamagedError, match="not of this step"):
                checkpoint.restore(path.parent.parent.parent, 2, target)
        path.write_text(json.dumps(seal({**good, "format": 7})))
        with pytest.raises(CheckpointError, match="of format 7; this version reads 1"):
            checkpoint.restore(path.parent.parent.parent, 2, target)

    def test_what_only_stands_in_the_way_is_not_called_damage(
        self, copied, target, monkeypatch, capsys
    ):
        """A good step must not be passed over, nor renamed, for want of memory or rights."""
        for error in (MemoryError(), PermissionError(13, "no"), OSError(116, "stale")):
            workdir = copied()

            def fail(*_, error=error):
                raise error

            with monkeypatch.context() as patch:
                patch.setattr(checkpoint, "read_file", fail)
                with pytest.raises(CheckpointError, match="2: cannot be read now"):
                    restored(workdir, target)
            assert checkpoint_steps(workdir) == [1, 2]
            assert not capsys.readouterr().err

    def test_a_file_without_end_is_not_read_to_its_end(self, copied, target):
        path = copied() / "checkpoints/2/meta/metadata"
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DamagedError, match="no file at all"):
            checkpoint.restore(path.parent.parent.parent, 2, target)
        path.unlink()
        with open(path, "wb") as file:
            file.truncate(2**40)
        with pytest.raises(DamagedError, match="is longer than"):
            checkpoint.restore(path.parent.parent.parent, 2, target)

    @pytest.mark.slow
    def test_an_array_that_claims_a_terabyte_takes_none(self, engine, target, tmp_path):
        """Arrays without the database, so that their headers can be written by hand."""
        state = engine.init(engine.key(0), engine.put(BATCH)).replace(step=jax.numpy.int32(2))
        with checkpoint.open_checkpoints(tmp_path / "checkpoints") as manager:
            checkpoint.save(manager, state, {"config": {}}, wait=True)
        step = tmp_path / "checkpoints" / "2"
        for item in ("weights", "training"):
            shutil.rmtree(step / item)
            part = dict(zip(("weights", "training"), checkpoint._split(state), strict=True))[item]
            handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
            with ocp.Checkpointer(handler) as writer:
                writer.save((step / item).absolute(), args=ocp.args.PyTreeSave(part))
        headers = [p for p in step.rglob(".zarray") if "'w'" in str(p) or ".w" in str(p.parent)]
        assert headers
        for header in headers:
            described = json.loads(header.read_text())
            described["shape"] = [10**6 for _ in described["shape"]]
            described["chunks"] = [10**6 for _ in described["chunks"]]
            header.write_text(json.dumps(described))
        code = (
            "import resource, sys\n"
            "resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, 64 * 2**30))\n"
            "from pathlib import Path\n"
            "from tests.reliability.test_damage import *\n"
            "engine = jit_engine(toy(), OPTIMIZERS, make_mesh(devices=jax.devices()[:1]))\n"
            "target = engine.abstract(engine.put(BATCH))\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n"
            "    checkpoint.restore(Path(sys.argv[1]), 2, target)\n"
            "except DamagedError as error:\n"
            "    print('refused', error)\n"
            "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
            "print('grown', grown)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "checkpoints")],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert "refused" in out.stdout, out.stderr[-2000:]
        assert int(out.stdout.rpartition("grown")[2]) < 200_000, out.stdout  # kB


AUDITED = r"""
import json, os, sys
workdir, log = sys.argv[1:3]
from pathlib import Path
from tests.reliability.test_damage import *
engine = jit_engine(toy(), OPTIMIZERS, make_mesh(devices=jax.devices()[:1]))
target = engine.abstract(engine.put(BATCH))
root = os.path.realpath(workdir)
watched = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork",
           "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class",
           "marshal.loads", "ctypes.dlopen")
events, on = set(), [False]

def hook(event, arguments):
    if not on[0]:
        return
    if event in watched:
        events.add((event, str(arguments[0])[:80]))
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith(root):
            events.add(("open", path if not path.startswith("/proc/") else "/proc"))

def go(folder):
    on[0] = True
    try:
        checkpoint.restore(Path(folder) / "checkpoints", 2, target)
        return "good"
    except CheckpointError:
        return "refused"
    finally:
        on[0] = False

sys.addaudithook(hook)
lines = []
for folder in sorted(Path(workdir).iterdir()):
    events.clear()
    outcome = go(folder)
    lines.append([folder.name, outcome, sorted(events)])
    if folder.name == "000-good":  # once more, when everything is loaded that will be
        events.clear(); go(folder); lines.append(["001-again", "good", sorted(events)])
Path(log).write_text(json.dumps(lines))
"""


@pytest.mark.slow
def test_a_restore_runs_nothing_and_opens_nothing_else(saved, tmp_path):
    """Whatever a mutated checkpoint does, a good one does too."""
    rng = random.Random(2)
    folder = tmp_path / "many"
    folder.mkdir()
    shutil.copytree(saved[0], folder / "000-good")
    count = tries(20, 200)
    for index in range(count):
        copy = folder / f"{index + 100}"
        shutil.copytree(saved[0], copy)
        path = rng.choice(files(copy / "checkpoints/2"))
        mutate(path, rng.choice(["flip", "truncate", "delete", "zero"]), rng)
    out = subprocess.run(
        [sys.executable, "-c", AUDITED, str(folder), str(tmp_path / "log")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    lines = json.loads((tmp_path / "log").read_text())
    good = {tuple(event) for line in lines[:2] for event in line[2]}
    assert lines[0][1] == "good"
    refused = 0
    for name, outcome, events in lines[2:]:
        extra = {tuple(event) for event in events} - good
        # Telling of an error loads what formats it, and its source; that must be Python's own.
        harmless = {e for e in extra if is_pythons_own(e)}
        assert not extra - harmless, (name, extra - harmless)
        refused += outcome == "refused"
    assert refused
    record("F22", mutated=count, refused=refused, forbidden_events=0)


EVENT_LOOP = ("raise RuntimeError('Event loop is closed')", "self._check_closed()")


def is_pythons_own(event):
    kind, name = event
    if kind == "compile":  # a traceback underlines its lines
        return name in {f"b{line!r}" for line in EVENT_LOOP}
    if kind not in ("import", "open"):
        return False
    if kind == "import":
        return name.partition(".")[0] in sys.stdlib_module_names
    return name.startswith((sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix)))


@pytest.mark.slow
def test_training_goes_on_from_the_step_before(tmp_path, capsys):
    """Through the command line: warn, rename, go on; or refuse with --strict_restore."""
    line = ["train", f"--config={ROOT / 'configs/ddpm_digits.py'}:tiny", f"--workdir={tmp_path}"]
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
    sample = ["sample", f"--workdir={tmp_path}", f"--out={picture}", "--num=2", "--steps=2"]
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
