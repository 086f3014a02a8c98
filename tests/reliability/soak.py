"""F32: a run that somebody is always at, and nobody watches.

``python -m tests.reliability.soak --minutes 60`` trains one model, does it some harm every minute,
and starts the same line again whatever became of it. In the end it must have the very bits of a run
that was left in peace.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gen_jax.launch.runs.workdir import checkpoint_steps
from tests.reliability.job import (
    VAE,
    Job,
    children,
    digests,
    half_saved,
    is_alive,
    newest_step,
    record,
    run,
    train_line,
    write_images,
)

PACE = 0.05  # seconds a step
SAVE_EVERY = 100
DISK = "96m"
FAULTS = ("kill", "TERM", "INT", "full disk", "damage", "worker")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds from fault to fault")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
        mounted = subprocess.run(command, check=False).returncode == 0
        try:
            return soak(Path(folder), disk, arguments, FAULTS if mounted else FAULTS_ON_ANY_DISK)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(disk)], check=True)


FAULTS_ON_ANY_DISK = tuple(fault for fault in FAULTS if fault != "full disk")


def soak(folder, disk, arguments, faults):
    rng = random.Random(arguments.seed)
    write_images(folder / "images", 60)
    # As many steps as fit into the time with an eighth of it lost.
    steps = int(arguments.minutes * 60 / PACE * 7 / 8)
    nan = sorted(rng.sample(range(1, steps), max(int(arguments.minutes), 1)))
    overrides = (
        f"--config.data.source=folder:{folder / 'images'}",
        "--config.data.holdout=0",
        "--config.train.log_every=100",
    )
    line = train_line(VAE, disk / "w", *overrides, steps=steps, save_every=SAVE_EVERY)
    fault = [json.dumps({"pace": PACE, "nan": nan})]
    arguments_of_job = [*fault, *line, "--config.data.num_workers=2"]
    counts, codes, orphans, lives, longest_start = dict.fromkeys(faults, 0), {}, 0, 0, 0.0
    bag: list[str] = []
    begin = time.monotonic()
    while True:
        lives += 1
        started, before = time.monotonic(), newest_step(disk / "w")
        log = folder / f"{lives}.log"
        with Job(arguments_of_job, log, module="tests.reliability.faulty") as job:
            job.until(lambda job=job: "compiled the training step" in job.text())
            longest_start = max(longest_start, time.monotonic() - started)
            until = started + arguments.every * rng.uniform(0.5, 1.5)
            while job.running() and time.monotonic() < until:
                time.sleep(0.1)
            workers = children(job.pid)
            bag = bag or rng.sample(faults, len(faults))  # each as often as the others
            what = harm(job, disk, rng, bag.pop()) if job.running() else None
            code, text = job.wait(180)
        time.sleep(0 if what is None else 5)
        orphans += sum(map(is_alive, workers))
        codes[code] = codes.get(code, 0) + 1
        now = newest_step(disk / "w")
        print(f"{time.monotonic() - begin:6.0f} s  {what}: code {code}, step {now}", flush=True)
        if code == 0:
            break
        assert what is not None, f"ended by itself with {code}:\n{text[-3000:]}"
        counts[what] += 1
        assert now >= before - 2 * SAVE_EVERY, (before, now)
    wall = time.monotonic() - begin - 5 * sum(counts.values())  # less what was waited for orphans
    quiet = [json.dumps({"nan": nan}), *line, f"--workdir={folder / 'quiet'}"]
    code, text = run(quiet, folder / "quiet.log", 3600, module="tests.reliability.faulty")
    assert code == 0, text[-3000:]
    equal = digests(disk / "w") == digests(folder / "quiet")
    last = json.loads((disk / "w" / "metrics.jsonl").read_text().splitlines()[-1])
    result = {
        "minutes": round(wall / 60, 1),
        "steps": steps,
        "faults": counts,
        "nan_batches": len(nan),
        "skipped": int(last["guard/skipped"]),
        "lives": lives,
        "codes": {str(code): number for code, number in sorted(codes.items())},
        "equal": equal,
        "goodput": round(steps * PACE / wall, 3),
        "longest_start_s": round(longest_start, 1),
        "orphans": orphans,
        "half_saved": len(half_saved(disk / "w")),
        "corrupt": len(list((disk / "w" / "checkpoints").glob("*.corrupt*"))),
    }
    print(json.dumps(result, indent=1))
    record("F32", **result)
    fine = equal and not orphans and not result["half_saved"] and last["guard/skipped"] == len(nan)
    return 0 if fine else 1


def harm(job, disk, rng, what):
    """Do one thing to a running job that ends it; give what was really done."""
    checkpoints = disk / "w" / "checkpoints"
    workers = [pid for pid in children(job.pid) if b"spawn_main" in command_line(pid)]
    if what == "kill":
        job.signal(signal.SIGKILL)
    elif what in ("TERM", "INT"):
        job.signal({"TERM": signal.SIGTERM, "INT": signal.SIGINT}[what])
    elif what == "worker" and workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
    elif what == "full disk":
        free = os.statvfs(disk)
        filler = disk / "filler"
        filler.write_bytes(bytes(max(free.f_bavail * free.f_frsize - 50_000, 0)))
        job.wait(120)
        filler.unlink()
    else:
        what = "damage"
        job.signal(signal.SIGKILL)
        job.wait()
        if steps := checkpoint_steps(disk / "w"):
            newest = checkpoints / str(steps[-1])
            files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
            path = max(files, key=lambda p: ("process_0/d/" in str(p), p.stat().st_size))
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    return what


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main())
