"""Jobs to do harm to, and a record of what became of them.

``GEN_JAX_RECORD=FILE`` appends what each test counted, as lines of JSON.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gen_jax.files import png_bytes
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train.checkpoint import read_meta

ROOT = Path(__file__).parent.parent.parent
DDPM, VAE, AAE, KLAE = ("ddpm_digits", "vae_mnist", "aae_mnist", "klae_mnist")
CYCLEGAN = "cyclegan_emoji"  # carries pools of images from step to step


def record(fault, **counted):
    """Append what was counted to the record, if one is kept."""
    if path := os.environ.get("GEN_JAX_RECORD"):
        line = {"fault": fault, "date": time.strftime("%F"), **counted}
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


def train_line(name, workdir, *overrides, steps=20, save_every=2):
    """Give the arguments that train a tiny config; most of a job's time is its start."""
    return [
        "train",
        f"--config={ROOT / 'configs' / f'{name}.py:tiny'}",
        f"--workdir={workdir}",
        f"--config.train.steps={steps}",
        f"--config.train.save_every={save_every}",
        f"--config.data.source=synthetic:8x8x{3 if name == CYCLEGAN else 1}",
        "--config.train.log_every=1",
        "--config.train.sample_every=0",
        "--config.optimizer.decay=constant",
        "--config.optimizer.warmup_steps=0",
        *overrides,
    ]


def environment(**more):
    """Give an environment in which jobs start quickly: compiled programs are kept, all of them."""
    quick = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **quick, **more}


class Job:
    """A process of gen-jax whose output goes to a file, so that it never blocks on a pipe."""

    def __init__(self, arguments, log, *, module="gen_jax", group=False, env=None):
        self.log = Path(log)
        self._file = open(log, "wb")  # noqa: SIM115 closed by end()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=environment() if env is None else env,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=group,
        )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def text(self):
        return self.log.read_text(errors="replace")

    def running(self):
        return self.process.poll() is None

    def until(self, condition, seconds=120):
        """Wait until a condition holds; False if the job ended before it did."""
        limit = time.monotonic() + seconds
        while not condition():
            if not self.running():
                return condition()
            assert time.monotonic() < limit, f"waited {seconds} s:\n{self.text()[-3000:]}"
            time.sleep(0.005)
        return True

    def says(self, words, seconds=120):
        assert self.until(lambda: words in self.text(), seconds), self.text()[-3000:]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=120):
        code = self.process.wait(timeout=seconds)
        return code, self.text()

    def end(self):
        if self.running():
            self.process.kill()
        self.process.wait()
        self._file.close()


def run(arguments, log, seconds=240, **options):
    """Run a job to its end: its code and what it printed."""
    with Job(arguments, log, **options) as job:
        return job.wait(seconds)


def newest_step(workdir):
    """Give the newest checkpoint's step; 0 where there is none."""
    return max(checkpoint_steps(Path(workdir)), default=0)


def run_code(code, *arguments, seconds=600):
    """Run a program of a few lines in a process of its own, which may fail."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def write_images(root, count, classes=("0", "1")):
    """Write 8x8 PNG files in a folder for each class, in turn."""
    for index, image in enumerate(
        np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    ):
        folder = root / classes[index % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:02d}.png").write_bytes(png_bytes(image[..., None]))


def half_saved(workdir):
    """List what a save that was cut off has left."""
    return sorted(Path(workdir).glob("checkpoints/*tmp*"))


def digests(workdir, step=None):
    """Give the digests of all arrays of a checkpoint, equal only for equal bits."""
    step = checkpoint_steps(workdir)[-1] if step is None else step
    spec = read_meta(Path(workdir) / "checkpoints", step)["spec"]
    return {name: x[2] for name, x in spec.items()}


def logged(workdir):
    lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def children(pid):
    """List the processes that descend from one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found += [int(entry.name), *children(int(entry.name))]
    return found


def is_alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
