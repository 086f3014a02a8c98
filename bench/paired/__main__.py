"""Our speed beside torch's on this machine, in one run: ``make bench``, or

    python bench/paired --torch PYTHON [--only TASK,...] [--rounds 7] [--compile] [--out FILE]

PYTHON is an interpreter with torch and diffusers. For each task both sides are made, each in a
process of its own, and then take turns: ours, theirs, ours, theirs. Printed are the median of the
ratios of neighbors (torch's time over ours: above 1 we are faster) and their quartiles. Our side
has huge pages, as every ``gen-jax`` command has, and torch its own defaults.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from sizes import decoding_of

HERE = Path(__file__).parent
TASKS = (
    *("unet_train", "unet_forward", "unet_sample", "unet_train_64", "cifar_train", "vqvae_train"),
    *("dit_train", "prior_train", "vae_train"),
    *(f"decode_{length}_{batch}" for length, batch in decoding_of()),
)
TURN_S = 0.7  # of one side, at least, after one repetition that is not timed
PAUSE_S = 0.3  # between turns: threads of the side before wait for work in a loop, for a while


class Side:
    """A process that times a task when it is its turn."""

    def __init__(self, python, side, task):
        path = os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
        # As gen-jax itself begins, and torch does not.
        pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if side == "jax" else {}
        self.process = subprocess.Popen(
            [python, str(HERE / "worker.py"), side, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **pages, "PYTHONPATH": path},
        )
        _, seconds, self.version = self._line("ready").split(maxsplit=2)
        self.repeats = max(1, round(TURN_S / float(seconds)))

    def _line(self, start=""):
        while line := self.process.stdout.readline():
            if line.startswith(start):
                return line.strip()
        raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}")

    def seconds(self):
        """Take a turn, and give the seconds of one repetition."""
        time.sleep(PAUSE_S)
        print(self.repeats, file=self.process.stdin, flush=True)
        return float(self._line()) / self.repeats

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(task, torch, rounds, peer):
    ours, theirs = Side(sys.executable, "jax", task), Side(torch, peer, task)
    pairs = [(ours.seconds(), theirs.seconds()) for _ in range(rounds)]
    ours.end(), theirs.end()
    ratios = sorted(b / a for a, b in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "task": task,
        "peer": peer,
        "torch_over_ours": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "ours_ms": round(1e3 * statistics.median(a for a, _ in pairs), 2),
        "torch_ms": round(1e3 * statistics.median(b for _, b in pairs), 2),
        "versions": [ours.version, theirs.version],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", required=True, help="interpreter with torch and diffusers")
    parser.add_argument("--only", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile in place of eager")
    parser.add_argument("--out")
    flags = parser.parse_args()
    begin = time.perf_counter()
    peer = "torch.compile" if flags.compile else "torch"
    print("task            torch/ours  quartiles      ours ms   torch ms", flush=True)
    for task in flags.only.split(","):
        row = measure(task, flags.torch, flags.rounds, peer)
        low, high = row["quartiles"]
        print(
            f"{task:<16} {row['torch_over_ours']:>8.2f}   {low:.2f} - {high:.2f} "
            f"{row['ours_ms']:>11,.1f} {row['torch_ms']:>10,.1f}",
            flush=True,
        )
        if flags.out:
            with open(flags.out, "a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"{', '.join(row['versions'])}; {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
