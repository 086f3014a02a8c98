"""``gen-jax sample``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.files import npz_bytes, png_bytes, write_file
from gen_jax.launch.pictures import grid
from gen_jax.launch.sampling import check_label, draw_samples
from gen_jax.launch.workdir import Trained

__all__ = ["run_sampling"]


def run_sampling(
    trained: Trained,
    *,
    num: int,
    seed: int,
    out: Path,
    label: int | None,
    batch_size: int,
    options: Mapping[str, Any],
) -> None:
    """Draw samples and write them as a grid (``.png``) or as arrays (``.npz``).

    Args:
        trained: a work directory's model.
        num: how many.
        seed: sample i depends on the seed and on i.
        out: where to; the file appears whole or not at all.
        label: the class, for class-conditional models; None goes through all classes in turn.
        batch_size: samples drawn at once.
        options: the model's own.

    Raises:
        ConfigError: if the model has no such class.
        StorageError: if the file cannot be written.
    """
    num_classes = trained.experiment.num_classes
    labels = None
    check_label(num_classes, label)
    if num_classes is not None:
        labels = np.arange(num) % num_classes if label is None else np.full(num, label)
        labels = labels.astype(np.int32)
    images = draw_samples(
        trained.experiment,
        trained.params,
        trained.stats,
        num=num,
        seed=seed,
        options=options,
        labels=labels,
        mesh=trained.mesh,
        batch_size=batch_size,
        progress=True,
    )
    if out.suffix == ".npz":
        arrays = {"images": images} | ({} if labels is None else {"labels": labels})
        arrays |= {"step": np.int64(trained.step), "digest": np.array(trained.digest)}
        write_file(out, npz_bytes(arrays))
    else:
        weights = f"step {trained.step}, weights {trained.digest}"
        origin = {"gen_jax": f"{weights}, seed {seed}, {dict(options)}"}
        write_file(out, png_bytes(grid(images), origin))
    print(f"{num} samples of step {trained.step} in {out}", flush=True)
