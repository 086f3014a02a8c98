"""F2, F10: of several processes one is lost, or no longer answers."""

import contextlib
import json
import os
import random
import signal
import socket
import time

import pytest

from gen_jax.launch.runs.workdir import checkpoint_steps
from tests.reliability.job import (
    DDPM,
    KLAE,
    VAE,
    Job,
    children,
    digests,
    environment,
    half_saved,
    is_alive,
    newest_step,
    record,
    run,
    train_line,
)

pytestmark = pytest.mark.slow

HEARTBEAT = 10


@contextlib.contextmanager
def pair(line, folder, module="gen_jax"):
    """Two processes of one job, the first of them the coordinator."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Job(
                    [*line, f"--heartbeat_timeout={HEARTBEAT}"],
                    folder / f"{index}.log",
                    module=module,
                    env=environment(
                        JAX_COORDINATOR_ADDRESS=address,
                        JAX_NUM_PROCESSES="2",
                        JAX_PROCESS_ID=str(index),
                    ),
                )
            )
            for index in range(2)
        ]


def finish(line, folder):
    with pair(line, folder) as jobs:
        for job in jobs:
            code, text = job.wait(240)
            assert code == 0, text


@pytest.mark.nightly
def test_kill_9_of_one_of_two(tmp_path):
    """The other one ends by itself, and the same line goes on to the same bits."""
    kills, rng = 20, random.Random(0)
    work = tmp_path / "w"
    line = train_line(VAE, work, steps=40 * kills)
    longest, inside = {0: 0.0, 1: 0.0}, 0
    for number in range(kills):
        victim = number % 2
        newest = newest_step(work)
        with pair(line, tmp_path) as jobs:
            enough = newest + 2 * rng.randint(1, 3)
            jobs[0].until(lambda enough=enough: newest_step(work) >= enough)
            time.sleep(rng.uniform(0, 0.1))
            assert jobs[0].running(), jobs[0].text()
            jobs[victim].process.kill()
            inside += bool(half_saved(work))
            begin = time.monotonic()
            jobs[1 - victim].wait(HEARTBEAT + 30)
            longest[victim] = max(longest[victim], time.monotonic() - begin)
    assert max(longest.values()) <= HEARTBEAT + 5
    finish(line, tmp_path)
    whole = train_line(VAE, tmp_path / "whole", steps=40 * kills)
    finish(whole, tmp_path)
    assert digests(work) == digests(tmp_path / "whole")
    assert not half_saved(work)
    record(
        "F2",
        kills=kills,
        inside_a_save=inside,
        coordinator_killed_s=round(longest[0], 1),
        worker_killed_s=round(longest[1], 1),
        equal=True,
    )


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_process_that_hangs_is_not_waited_for(victim, tmp_path):
    """Stopped, not killed: nothing is closed, it only no longer answers."""
    line = train_line(VAE, tmp_path / "w", steps=100_000, save_every=10**6)
    with pair(line, tmp_path) as jobs:
        jobs[0].says("step 3/")
        jobs[victim].signal(signal.SIGSTOP)
        begin = time.monotonic()
        code, _ = jobs[1 - victim].wait(HEARTBEAT + 30)
        took = time.monotonic() - begin
        assert code not in (0, None)
        # A stopped process can only be killed, which is its scheduler's to do.
        assert is_alive(jobs[victim].pid)
    record("F10", stopped="first" if victim == 0 else "second", other_ended_s=round(took, 1))


@pytest.mark.nightly  # it waits for most of a minute
def test_launch_local_ends_also_the_one_that_hangs(tmp_path):
    line = train_line(VAE, tmp_path / "w", steps=100_000, save_every=10**6)
    arguments = ["launch", "local", "-n", "2", "--", *line, f"--heartbeat_timeout={HEARTBEAT}"]
    with Job(arguments, tmp_path / "log") as job:
        job.says("step 3/")

        pids = children(job.pid)
        assert len(pids) == 2

        os.kill(pids[1], signal.SIGSTOP)
        begin = time.monotonic()
        code, text = job.wait(HEARTBEAT + 40)
        assert code != 0, text
        assert time.monotonic() - begin <= HEARTBEAT + 30
        assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.nightly
def test_two_processes_take_over_a_first_stage(tmp_path):
    """The first of them reads and copies it while the other waits."""
    assert run(train_line(KLAE, tmp_path / "one", steps=2), tmp_path / "log")[0] == 0
    line = train_line(
        DDPM,
        tmp_path / "two",
        f"--config.stage1={tmp_path / 'one'}",
        "--config.diffusion.clip=False",
        "--config.diffusion.prediction=v",
        steps=2,
    )
    finish(line, tmp_path)
    finish([*line, "--config.train.steps=4"], tmp_path)
    assert checkpoint_steps(tmp_path / "two") == [2, 4]


@pytest.mark.nightly
@pytest.mark.parametrize("index", [0, 1])
def test_damage_that_one_of_two_sees_is_passed_over_by_both(index, tmp_path):
    """As when one host's part of a split state, or its view of a file system, is bad."""
    line = train_line(VAE, tmp_path / "w", steps=4)
    finish(line, tmp_path)
    assert checkpoint_steps(tmp_path / "w") == [2, 4]
    fault = json.dumps({"cannot_read": 4, "process": index})
    with pair(
        [fault, *line, "--config.train.steps=6"], tmp_path, module="tests.reliability.faulty"
    ) as jobs:
        for job in jobs:
            code, text = job.wait(240)
            assert code == 0, text
            assert "step 2 is used instead" in text
    assert checkpoint_steps(tmp_path / "w") == [4, 6]
    assert (tmp_path / "w" / "checkpoints" / "4.corrupt").is_dir()
    whole = train_line(VAE, tmp_path / "whole", steps=6)
    finish(whole, tmp_path)
    assert digests(tmp_path / "w") == digests(tmp_path / "whole")
    record("F7 in one of two processes", seen_by=index, equal=True)
