"""Draw images/moments.png: the loss with 16-bit Adam moments beside that with 32-bit ones.

    python experiments/scaling/moments.py runs/moments_float32 runs/moments_16bit

Needs matplotlib, which the project does not.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main() -> None:
    """Draw one line for each work directory."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for name in sys.argv[1:]:
        lines = [json.loads(x) for x in (Path(name) / "metrics.jsonl").read_text().splitlines()]
        points = [(line["step"], line["diffusion/loss"]) for line in lines]
        config = json.loads((Path(name) / "config.json").read_text())
        axis.plot(*zip(*points, strict=True), label=config["optimizer"]["moments"], alpha=0.8)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss, mean of 10 steps")
    axis.legend(title="Adam's moments")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent / "images" / "moments.png", dpi=90)


if __name__ == "__main__":
    main()
