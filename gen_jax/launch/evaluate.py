"""``gen-jax evaluate``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen_jax.data import Source, ordered_batches, spread_indices
from gen_jax.errors import DataError
from gen_jax.evals.frechet import fit_gaussian, frechet_distance, raw_pixels
from gen_jax.evals.likelihood import bits_per_dim, mean_log_prob
from gen_jax.evals.losses import mean_losses
from gen_jax.files import write_file
from gen_jax.launch.sampling import draw_samples
from gen_jax.launch.sources import check_codes, open_checked
from gen_jax.launch.workdir import Trained

__all__ = ["run_evaluation"]

# Small test sets are seen several times, each time with other noise, until this many draws.
MIN_LOSS_DRAWS = 4096
# Keeps the noise of densities apart from that of losses, whose keys are folded with small numbers.
_DENSITY = 0x0DE51


def run_evaluation(
    trained: Trained,
    workdir: Path,
    *,
    num: int,
    seed: int,
    batch_size: int,
    options: Mapping[str, Any],
    split: str = "test",
) -> dict[str, Any]:
    """Measure the averaged weights, print a table, and write ``eval/<step>.json``.

    The loss is the model's own, on training and on held-out images. ``nats`` is -log p(x) of the
    held-out images, or the bound on it, where the model has a density; ``bits_per_dim`` is the same
    for each dimension, where the density is over 8-bit pixels, and ``bits_per_token`` for each
    token, where it is over those of a first stage. The Fréchet distance is in raw-pixel
    space, between ``num`` samples and the held-out images; beside it the same distance between
    as many training images and the held-out images says what a perfect model would get.

    Args:
        trained: a work directory's model.
        workdir: the work directory.
        num: samples for the Fréchet distance.
        seed: of the samples and of the loss's noise.
        batch_size: examples at once.
        options: the model's, for sampling and for its density.
        split: which images are the held-out ones: ``"test"``, ``"validation"`` or ``"train"``.

    Returns:
        What the file holds.

    Raises:
        DataError: if a split cannot be opened, or has a single image.
    """
    splits = {name: open_checked(trained.config, name) for name in ("train", split)}
    for source in splits.values():
        if source.size < 2:
            raise DataError(f"{source.name}: a covariance needs at least 2 images, got 1")
        check_codes(source, trained.experiment.stage1_digest)
    results: dict[str, Any] = {"step": trained.step, "seed": seed}
    for name, source in splits.items():
        size = min(source.size, splits[split].size)
        losses = mean_losses(
            trained.experiment.model,
            trained.params,
            trained.stats,
            trained.experiment.frozen,
            ordered_batches(source, min(batch_size, size), size),
            jax.random.key(seed),
            draws=max(1, MIN_LOSS_DRAWS // size),
        )
        results |= {f"{loss}_loss_{name}": value for loss, value in losses.items()}
    results |= _density(trained, splits[split], split, seed, batch_size, options)

    if any(source.stage1 for source in splits.values()):
        print("no Fréchet distance: the data holds codes; --data names images", flush=True)
        return _write(trained, workdir, results, split)
    num = min(num, splits["train"].size)
    labels = None
    train_images, train_labels = _images(splits["train"], num)
    if trained.experiment.num_classes:
        labels = train_labels  # as many samples of each class as there are real images
    samples = draw_samples(
        trained.experiment,
        trained.params,
        trained.stats,
        num=num,
        seed=seed,
        options={k: v for k, v in options.items() if k in trained.experiment.model.sample_options},
        labels=labels,
        mesh=trained.mesh,
        batch_size=batch_size,
        progress=True,
    )
    held_out = fit_gaussian(raw_pixels(_images(splits[split])[0]))
    results["frechet_num"] = num
    for name, images in (("samples", samples), ("train", train_images)):
        distance = frechet_distance(fit_gaussian(raw_pixels(images)), held_out)
        results[f"frechet_pixels_{name}_to_{split}"] = distance

    return _write(trained, workdir, results, split)


def _write(trained: Trained, workdir: Path, results: dict[str, Any], split: str) -> dict[str, Any]:
    """Print a table and keep it."""
    suffix = "" if split == "test" else f"_{split}"
    path = workdir / "eval" / f"{trained.step}{suffix}.json"
    write_file(path, (json.dumps(results, indent=2) + "\n").encode())
    width = max(map(len, results))
    for name, value in results.items():
        print(
            f"{name:<{width}}  {value:.6g}"
            if isinstance(value, float)
            else f"{name:<{width}}  {value}"
        )
    print(f"written to {path}", flush=True)
    return results


def _density(
    trained: Trained,
    source: Source,
    split: str,
    seed: int,
    batch_size: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Measure -log p(x), in nats an example, and its standard error over examples."""
    model = trained.experiment.model
    if model.log_prob is None:
        return {}
    known = model.log_prob_options
    options = {name: options.get(name, option.default) for name, option in known.items()}
    size = source.size
    nats, error = mean_log_prob(
        model,
        trained.params,
        trained.stats,
        trained.experiment.frozen,
        ordered_batches(source, min(batch_size, size), size),
        jax.random.fold_in(jax.random.key(seed), _DENSITY),
        options,
        num_batches=-(-size // min(batch_size, size)),
    )
    results: dict[str, Any] = {f"nats_{split}": -nats, f"nats_{split}_stderr": error}
    results["log_prob"] = f"{model.log_prob_kind} {options or ''}".strip()
    if model.over_pixels:
        num_dims = math.prod(source.image_shape)
        results[f"bits_per_dim_{split}"] = bits_per_dim(-nats, num_dims)
    elif trained.experiment.num_tokens:
        tokens = trained.experiment.num_tokens
        results[f"bits_per_token_{split}"] = bits_per_dim(-nats, tokens)
    return results


def _images(source: Source, limit: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images, and labels where there are any, spread over the source."""
    indices = spread_indices(source, limit)
    parts = [source.read(part) for part in np.array_split(indices, -(-len(indices) // 1024))]
    images = np.concatenate([part["image"] for part in parts])
    labels = np.concatenate([part["label"] for part in parts]) if "label" in parts[0] else None
    return images, labels
