"""Train a row for each family on MNIST, with parameters alike and for equal seconds.

    python experiments/table/train.py --data mnist.npz --runs runs --seconds 150

Each row is tried for some steps first, which tell how many steps the seconds hold, so that
schedules end with them. A row that is there already is left alone.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

TRIAL = 60
# Within a tenth of 420,000 parameters, those of all players together.
ROWS = {
    "autoencoder": (
        "ae_mnist", "model.network=mlp", "model.widths=(200,200)", "model.latent_dim=50",
    ),
    "vae": ("vae_mnist",),
    "aae": ("aae_mnist", "model.widths=(200,200)", "model.disc_widths=(64,64)"),
    "gan": ("gan_mnist", "model.widths=(88,46,24)"),
    "glow": ("glow_mnist", "model.width=120"),
    "tarflow": ("tarflow_mnist", "model.num_classes=0", "model.class_dropout=0"),
    "ddpm": ("ddpm_mnist", "model.channels=24", "model.multipliers=(1,1,2)"),
    "rectified_flow": ("flow_mnist", "model.channels=24", "model.multipliers=(1,1,2)"),
    "pixelcnn": (
        "transformer_digits", "data.shape=(28,28,1)", "model.levels=256", "model.network=pixelcnn",
        "model.width=34", "model.depth=6", "data.batch_size=32", "model.dropout=0",
    ),
    "rbm": ("rbm_mnist", "model.hidden=(540,)"),
}  # fmt: skip


def train(config, workdir, data, steps, *more):
    overrides = (f"data.source=npz:{data}", f"train.steps={steps}", "train.sample_every=0", *more)
    line = [sys.executable, "-m", "gen_jax", "train", f"--config=configs/{config}.py"]
    line += [f"--workdir={workdir}", *(f"--config.{override}" for override in overrides)]
    subprocess.run(line, check=True)


def speed(workdir):
    """Steps a second in the second half of a run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds = {line["step"]: line["time/seconds"] for line in lines if "time/seconds" in line}
    half, last = sorted(seconds)[len(seconds) // 2], max(seconds)
    return (last - half) / (seconds[last] - seconds[half])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    given = parser.parse_args()
    for name in given.rows:
        config, *more = ROWS[name]
        if (given.runs / name / "done").exists():
            continue
        trial = given.runs / "trials" / name
        short = ("train.log_every=10", "optimizer.warmup_steps=0", "train.save_every=1000")
        if not (trial / "metrics.jsonl").exists():
            train(config, trial, given.data, TRIAL, *more, *short)
        steps = max(100, round(speed(trial) * given.seconds))
        kept = [f"train.save_every={steps}", f"train.log_every={max(1, steps // 40)}"]
        kept += [f"optimizer.warmup_steps={min(100, steps // 10)}"]
        train(config, given.runs / name, given.data, steps, *more, *kept)
        (given.runs / name / "done").touch()


if __name__ == "__main__":
    main()
