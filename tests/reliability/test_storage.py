"""F5, F6: a disk that is full, on a file system that really is."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from gen_jax.errors import StorageError
from gen_jax.files import npz_bytes, png_bytes, write_file
from gen_jax.launch.runs.workdir import checkpoint_steps
from tests.reliability.job import VAE, Job, digests, newest_step, record, run, train_line
from tests.tiers import tries

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk, leave):
    """Leave so many bytes free."""
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - leave
    path = disk / "filler"
    with open(path, "ab") as file:
        file.write(bytes(max(size, 0)))
    return path


def test_a_disk_that_fills_up_costs_nothing_that_was_saved(small_disk, tmp_path):
    count = tries(2, 20)
    work = small_disk / "w"
    line = train_line(VAE, work, "--config.train.keep=1", steps=100_000, save_every=5)
    last = 0
    for _ in range(count):
        with Job(line, tmp_path / "log") as job:
            wanted = last + 10
            job.until(lambda wanted=wanted: newest_step(work) >= wanted)
            filler = fill(small_disk, 30_000)
            code, text = job.wait()
        assert code == 7, text
        error = [line for line in text.splitlines() if line.startswith("gen_jax: ")]
        assert "out of space" in error[-1] or "No space left" in error[-1], text
        # It ended at the save that failed, not one later.
        steps = checkpoint_steps(work)
        assert last_step_told(text) <= steps[-1] + 2 * 5 + 2
        assert digests(work, steps[-1])
        filler.unlink()
        last = steps[-1]
    code, text = run([*line, f"--config.train.steps={last + 3}"], tmp_path / "log")
    assert code == 0, text
    assert f"resuming at step {last}" in text
    whole = train_line(VAE, tmp_path / "whole", steps=last + 3, save_every=10**6)
    assert run(whole, tmp_path / "whole.log")[0] == 0
    assert digests(work) == digests(tmp_path / "whole")
    record("F5", tries=count, equal=True)


def last_step_told(text):
    told = [line for line in text.splitlines() if line.startswith("step ")]
    return int(told[-1].split()[1].split("/")[0])


def test_a_run_that_cannot_keep_its_checkpoints_is_not_begun(small_disk, tmp_path):
    fill(small_disk, 200_000)
    code, text = run(train_line(VAE, small_disk / "w"), tmp_path / "log")
    assert code == 7, text
    assert "out of space for 3 more checkpoints of " in text
    assert "compiled" not in text


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", pytest.param("tensorboard", marks=pytest.mark.nightly)]
)
def test_a_log_that_cannot_be_written_ends_the_run(name, small_disk, tmp_path):
    """It would be silence otherwise, or, with TensorBoard's own thread, a hang."""
    work = tmp_path / "w"
    line = train_line(VAE, work, steps=20, save_every=100)
    assert run([*line, "--config.train.steps=1"], tmp_path / "log")[0] == 0
    if name == "metrics.jsonl":
        shutil.move(work / name, small_disk / name)
        (work / name).symlink_to(small_disk / name)
        fill(small_disk, 0)
    else:
        for file in (work / name).iterdir():
            file.unlink()
        (work / name).rmdir()
        (work / name).write_text("in the way")
    code, text = run(line, tmp_path / "log")
    assert code == 7, text
    assert f"{name}: cannot be written" in text


def test_output_is_whole_or_not_there(small_disk):
    """Whatever the space that is left."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    makers = {
        "a.png": lambda: png_bytes(pixels),
        "b.npz": lambda: npz_bytes({"images": pixels[None]}),
        "c.json": lambda: json.dumps(pixels.tolist()).encode(),
    }
    readers = {
        "a.png": lambda path: Image.open(path).load(),
        "b.npz": lambda path: np.load(path)["images"],
        "c.json": lambda path: json.loads(path.read_text()),
    }
    written = refused = 0
    for _ in range(tries(20, 100)):
        filler = fill(small_disk, int(rng.integers(0, 40_000)))
        for name, make in makers.items():
            path = small_disk / name
            try:
                write_file(path, make())
            except StorageError as error:
                assert "No space left" in str(error)  # noqa: PT017 either outcome is right
                assert not path.exists()
                refused += 1
            else:
                readers[name](path)
                path.unlink()
                written += 1
        filler.unlink()
        assert not list(small_disk.iterdir())
    assert written
    assert refused
    record("F6", written=written, refused=refused, torsos=0)
