"""F26, F28: what the package never does."""

import ast

import pytest

from tests.reliability.job import DDPM, ROOT, run_code, train_line

PACKAGE = sorted((ROOT / "gen_jax").rglob("*.py"))
# Reading data must never become running code; nor may an archive be unpacked, or a shell started.
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "torch", "yaml", "shelve", "marshal"}
MODULES |= {"tarfile"}
NAMES = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "os.system",
    "os.popen",
    "np.load",
    "numpy.load",
    "shutil.unpack_archive",
    "config_dict.to_yaml",
}


def dotted(node):
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"


# Where pickles are read by an unpickler that knows arrays and nothing else (tests/interop).
CLOSED = {
    "gen_jax/interop/pickles.py": {"pickle"},
    # Reads headers, and takes nothing out: calls that would are refused below.
    "gen_jax/data/sources/named.py": {"tarfile"},
    "gen_jax/data/sources/tars.py": {"tarfile"},
}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    refused = MODULES - CLOSED.get(str(path.relative_to(ROOT)), set())
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert not {name.name.split(".")[0] for name in node.names} & refused, where
        if isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] not in refused, where
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            assert called not in NAMES | ATTRIBUTES, where
            assert not called.endswith((".extractall", ".extract")), where
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                assert not (keyword.arg in ("shell", "allow_pickle") and value is True), where


AUDITED = """
import os, sys, threading, time
seen, listening, done = [], [], threading.Event()

def hook(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        seen.append((event, str(arguments[1:])))

def look():  # also for what libraries open without Python
    while not done.wait(0.05):
        own = set()
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                own.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            except OSError:
                continue
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in open(table).readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                    listening.append(line)
        looks.append(1)

looks = []
sys.addaudithook(hook)
thread = threading.Thread(target=look)
thread.start()
from gen_jax.launch.cli.main import main
code = main(sys.argv[1:])
done.set()
thread.join()
assert not seen, seen
assert not listening, listening
print("quiet", code, len(looks))
"""


@pytest.mark.nightly
def test_one_process_speaks_to_nobody(tmp_path):
    """Training and sampling, watched from their first import to their end."""
    lines = [
        train_line(DDPM, tmp_path / "w", "--config.train.sample_every=2", steps=2),
        ["sample", f"--workdir={tmp_path / 'w'}", f"--out={tmp_path / 'x.png'}", "--num=2"],
    ]
    for line in lines:
        out = run_code(AUDITED, *line)
        said = out.stdout.split()
        assert said[-3:-1] == ["quiet", "0"], out.stderr[-2000:]
        assert int(said[-1]) > 10
