"""F22: a checkpoint from somebody else, and what it may try."""

import json
import os
import random
import shutil
import sys

import jax
import orbax.checkpoint as ocp
import pytest

from gen_jax.errors import CheckpointError, DamagedError
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train import checkpoint
from gen_jax.train.integrity import seal, unseal
from tests.reliability.job import record, run_code
from tests.reliability.saved import (
    BATCH,
    array_data,
    files,
    mutate,
    restored,
)
from tests.tiers import tries

# The peak of this process alone: getrusage() knows what its parent took before it began.
MEASURED = """
import sys
from pathlib import Path
from gen_jax.errors import DamagedError
from gen_jax.train import checkpoint
from tests.reliability.saved import BATCH, one_device_engine

def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])

engine = one_device_engine()
target = engine.abstract(engine.put(BATCH))
before = peak()
try:
    checkpoint.restore(Path(sys.argv[1]), 2, target)
except DamagedError as error:
    print("refused", error)
print("grown", peak() - before)
"""


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
        out = run_code(MEASURED, tmp_path / "checkpoints")
        assert "refused" in out.stdout, out.stderr[-2000:]
        assert int(out.stdout.rpartition("grown")[2]) < 200_000, out.stdout  # kB


AUDITED = r"""
import json, os, sys, traceback
workdir, log = sys.argv[1:3]
from pathlib import Path
from gen_jax.errors import CheckpointError
from gen_jax.train import checkpoint
from tests.reliability.saved import BATCH, one_device_engine
engine = one_device_engine()
target = engine.abstract(engine.put(BATCH))
root = os.path.realpath(workdir)
watched = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork",
           "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class",
           "marshal.loads", "ctypes.dlopen")
events, on = set(), [False]

def underlines():  # a traceback parses the lines that it shows, to underline what failed
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_filename != traceback.__file__:
        frame = frame.f_back
    return frame is not None

def hook(event, arguments):
    if not on[0] or (event == "compile" and underlines()):
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
    out = run_code(AUDITED, folder, tmp_path / "log")
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


def is_pythons_own(event):
    kind, name = event
    if kind not in ("import", "open"):
        return False
    if kind == "import":
        return name.partition(".")[0] in sys.stdlib_module_names
    return name.startswith((sys.base_prefix, sys.prefix, os.path.realpath(sys.prefix)))
