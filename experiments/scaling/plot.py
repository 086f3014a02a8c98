"""Draw images/scaling.png from plans/*.json. Needs matplotlib, which the project does not.

python experiments/scaling/plot.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
MODELS = {
    "unet": "CIFAR-10 U-Net, 16 images a device",
    "transformer": "transformer prior, 4 images a device",
}


def load(model: str, split: str) -> list[dict]:
    """Read the plans of a model under data parallelism or fsdp, by number of devices."""
    plans = [json.loads(path.read_text()) for path in (HERE / "plans").glob(f"{model}_*.json")]
    axis = "fsdp" if split == "fsdp" else "data"
    return sorted(
        (plan for plan in plans if plan["mesh"][axis] == plan["devices"]),
        key=lambda plan: plan["devices"],
    )


def main() -> None:
    """Draw memory, communication and efficiency against the number of devices."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True)
    for row, (model, title) in zip(axes, MODELS.items(), strict=True):
        for split, style in (("data", "o-"), ("fsdp", "s--")):
            plans = load(model, split)
            devices = [plan["devices"] for plan in plans]
            state = [
                sum(plan["memory"][name] for name in ("weights", "averaged_weights", "optimizer"))
                for plan in plans
            ]
            row[0].plot(devices, [x / 2**20 for x in state], style, label=f"{split}: state")
            sent = [plan["wire_bytes"] / 2**20 for plan in plans]
            row[1].plot(devices, sent, style, label=split)
            for name, alpha in (("step_overlapped", 1.0), ("step_serial", 0.4)):
                share = [plan["seconds"]["compute"] / plan["seconds"][name] for plan in plans]
                label = f"{split}, {'overlapped' if alpha == 1 else 'one after the other'}"
                row[2].plot(devices, share, style, alpha=alpha, label=label)
        row[0].set_ylabel("MiB on each device")
        row[0].set_yscale("log")
        row[1].set_ylabel("MiB sent by each device in a step")
        row[2].set_ylabel("predicted weak-scaling efficiency")
        row[2].set_ylim(0, 1.05)
        row[1].set_title(title)
        for axis in row:
            axis.set_xscale("log", base=2)
            axis.set_xticks([1, 8, 64, 256], ["1", "8", "64", "256"])
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("devices")
    figure.tight_layout()
    figure.savefig(HERE / "images" / "scaling.png", dpi=90)


if __name__ == "__main__":
    main()
