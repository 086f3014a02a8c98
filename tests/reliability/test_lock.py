"""F20: one job a work directory."""

import json
import subprocess
import sys
import time

from tests.reliability.job import ROOT, record
from tests.tiers import tries

RACER = """
import sys, time
from pathlib import Path
from gen_jax.errors import WorkdirInUseError
from gen_jax.launch.runs.workdir import lock
assert "jax" not in sys.modules
for line in sys.stdin:  # the name of the next directory, when everybody is to go
    begin = time.monotonic()
    try:
        with lock(Path(line.strip())):
            print("won", flush=True)
            sys.stdin.readline()  # hold it until told
    except WorkdirInUseError as error:
        took = time.monotonic() - begin
        print(f"refused {took:.3f} {error}", flush=True)
        sys.stdin.readline()
"""


def racer():
    return subprocess.Popen(
        [sys.executable, "-c", RACER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def test_of_twenty_racers_one_wins(tmp_path):
    racers = [racer() for _ in range(20)]
    rounds = tries(5, 50)
    try:
        for number in range(rounds):
            work = tmp_path / str(number)
            work.mkdir()
            for process in racers:
                process.stdin.write(f"{work}\n")
            answers = [process.stdout.readline().split() for process in racers]
            winners = [i for i, answer in enumerate(answers) if answer[0] == "won"]
            assert len(winners) == 1, answers
            pid = racers[winners[0]].pid
            for answer in answers:
                if answer[0] == "refused":
                    assert float(answer[1]) <= 2
                    # The holder may not have written its name yet.
                    assert f"by process {pid} on" in " ".join(answer) or "another" in answer
            assert json.loads((work / ".lock").read_text())["pid"] == pid
            for process in racers:
                process.stdin.write("\n")
    finally:
        for process in racers:
            process.kill()
            process.communicate()
    record("F20", racers=20, rounds=rounds, winners_each=1)


def test_a_killed_holder_holds_nothing(tmp_path):
    first, second = racer(), racer()
    try:
        first.stdin.write(f"{tmp_path}\n")
        assert first.stdout.readline() == "won\n"
        first.kill()
        first.wait()
        begin = time.monotonic()
        second.stdin.write(f"{tmp_path}\n")
        assert second.stdout.readline() == "won\n"
        assert time.monotonic() - begin < 2
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
