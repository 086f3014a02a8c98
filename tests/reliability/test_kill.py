"""F1, F3, F4: a job may be killed or signaled at any moment."""

import random
import signal
import time

import pytest

from gen_jax.launch.runs.workdir import checkpoint_steps
from tests.reliability.job import (
    AAE,
    CYCLEGAN,
    DDPM,
    VAE,
    Job,
    children,
    digests,
    half_saved,
    is_alive,
    logged,
    newest_step,
    record,
    run,
    train_line,
)
from tests.tiers import tries

pytestmark = pytest.mark.slow

SAVE_EVERY = 2
KILLS = {DDPM: tries(2, 30), AAE: tries(4, 35), VAE: tries(4, 35), CYCLEGAN: tries(4, 20)}


@pytest.mark.parametrize(
    "name",
    [VAE, *(pytest.param(name, marks=pytest.mark.nightly) for name in (DDPM, AAE, CYCLEGAN))],
)
def test_kill_9_at_any_moment_costs_no_bit(name, tmp_path):
    """Also while it starts, and mostly while it saves: every second step is saved."""
    kills, rng = KILLS[name], random.Random(name)
    line = train_line(name, tmp_path / "w", steps=10 * kills)
    whole = train_line(name, tmp_path / "whole", steps=10 * kills)
    assert run(whole, tmp_path / "whole.log")[0] == 0
    inside = resumed = longest_loss = 0
    expected = 0
    for number in range(kills):
        newest = newest_step(tmp_path / "w")
        left = set(half_saved(tmp_path / "w"))
        with Job(line, tmp_path / "log") as job:
            if number % 7 == 3:  # while Python, JAX or the program start
                time.sleep(rng.uniform(0, 4))
            elif number % 2 == 0:  # as soon as a save has begun
                job.until(lambda left=left: set(half_saved(tmp_path / "w")) - left)
            else:  # whenever
                enough = newest + 2 * rng.randint(1, 3)
                job.until(lambda enough=enough: newest_step(tmp_path / "w") >= enough)
                time.sleep(rng.uniform(0, 0.06))
            assert job.running(), job.text()
            job.process.kill()
            job.process.wait()
            began = "compiled the training step" in job.text()
            expected += began and newest > 0
            resumed += f"resuming at step {newest}" in job.text()
            inside += bool(set(half_saved(tmp_path / "w")) - left)
            after = newest_step(tmp_path / "w")
            assert after >= newest
            # What is lost: less than an interval, and as much as was taken while saving.
            lost = (logged_or_none(tmp_path / "w") or [0])[-1] - after
            longest_loss = max(longest_loss, lost)
            assert lost <= 2 * SAVE_EVERY + 1
    code, text = run(line, tmp_path / "log")
    assert code == 0, text
    assert digests(tmp_path / "w") == digests(tmp_path / "whole")
    assert logged(tmp_path / "w") == list(range(1, 10 * kills + 1))
    assert not half_saved(tmp_path / "w")
    record(
        "F1",
        family=name,
        kills=kills,
        inside_a_save=inside,
        resumed=resumed,
        lost_steps_at_most=longest_loss,
        equal=True,
    )
    assert resumed >= expected  # of those that came so far, and had something to resume from
    # A kill that meets nothing under way would prove little.
    assert inside >= 0.3 * kills


MOMENTS = ("training", "starting", "saving", "compiling")


@pytest.mark.parametrize("name", ["TERM", pytest.param("INT", marks=pytest.mark.nightly)])
def test_a_signal_saves_the_step_at_hand(name, tmp_path):
    number = {"TERM": signal.SIGTERM, "INT": signal.SIGINT}[name]
    count, rng = {"TERM": tries(4, 50), "INT": tries(2, 10)}[name], random.Random(name)
    line = train_line(VAE, tmp_path / "w", "--config.data.num_workers=0", steps=100_000)
    longest = 0.0
    for index in range(count):
        moment = MOMENTS[index % len(MOMENTS)]
        newest = newest_step(tmp_path / "w")
        save_every = 2 if moment == "saving" else 100_000
        with Job([*line, f"--config.train.save_every={save_every}"], tmp_path / "log") as job:
            if moment == "starting":  # once it catches signals; before, it has nothing to save
                job.until(lambda: f'"pid": {job.pid}' in lock_text(tmp_path / "w"))
                time.sleep(rng.uniform(0, 1))
            elif moment == "compiling":
                job.says("parameters; synthetic")
            else:
                job.says("compiled the training step")
                steps = newest + rng.randint(3, 12)
                job.until(lambda steps=steps: (logged_or_none(tmp_path / "w") or [0])[-1] >= steps)
            begin = time.monotonic()
            job.signal(number)
            code, text = job.wait()
            if moment in ("training", "saving"):
                longest = max(longest, time.monotonic() - begin)
        assert code == 128 + number, text
        now = checkpoint_steps(tmp_path / "w")
        if now:
            assert logged(tmp_path / "w")[-1] == now[-1], moment
            assert f"resuming at step {newest}" in text or not newest
    assert checkpoint_steps(tmp_path / "w")
    assert longest <= 5  # a step, a save, two seconds, and a busy machine
    # What was interrupted so often is what was not.
    last = checkpoint_steps(tmp_path / "w")[-1]
    whole = train_line(VAE, tmp_path / "whole", steps=last, save_every=100_000)
    assert run(whole, tmp_path / "whole.log")[0] == 0
    assert digests(tmp_path / "w") == digests(tmp_path / "whole")
    record("F3" if name == "TERM" else "F4", signals=count, longest_s=round(longest, 1), equal=True)


def lock_text(workdir):
    path = workdir / ".lock"
    return path.read_text() if path.exists() else ""


def logged_or_none(workdir):
    try:
        return logged(workdir)
    except (OSError, ValueError):
        return None


def test_a_second_signal_ends_at_once(tmp_path):
    line = train_line(VAE, tmp_path / "w", steps=100_000, save_every=100_000)
    with Job(line, tmp_path / "log") as job:
        job.says("parameters; synthetic")  # compiling: the first is heard only afterward
        job.signal(signal.SIGTERM)
        job.signal(signal.SIGTERM)
        code, _ = job.wait(60)
    assert code in (143, -signal.SIGTERM)


def test_workers_do_not_outlive_a_killed_job(tmp_path, folder_of_images):
    source = f"--config.data.source=folder:{folder_of_images}"
    line = train_line(
        VAE, tmp_path / "w", source, "--config.data.num_workers=2", steps=100_000, save_every=10**6
    )
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Job(line, tmp_path / "log") as job:
            job.says("step 3/")
            workers = children(job.pid)
            assert len(workers) >= 2
            job.signal(number)
            job.wait()
            limit = time.monotonic() + 5
            while any(map(is_alive, workers)) and time.monotonic() < limit:
                time.sleep(0.1)
            assert not [pid for pid in workers if is_alive(pid)]
    record("F15 parent dies", tries=2, orphans=0)
