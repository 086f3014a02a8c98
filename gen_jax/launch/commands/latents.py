"""The commands that look into a latent space, from ``reconstruct`` to ``scatter``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.data import Source, spread_indices
from gen_jax.errors import ConfigError, DataError
from gen_jax.evals.reconstruction import mean_squared_error, psnr, ssim
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import Draw, decode, encode, interpolate
from gen_jax.ops import latents
from gen_jax.ops.quantization import perplexity
from gen_jax.pictures import grid, pairs, scatter

__all__ = [
    "run_interpolation",
    "run_manifold",
    "run_reconstruction",
    "run_resynthesis",
    "run_scatter",
]


def run_reconstruction(
    trained: Trained, source: Source, *, num: int, out: Path, by_scale: bool = False
) -> None:
    """Show originals, and below each its reconstruction; print what is lost over all of them.

    Args:
        trained: a work directory's model.
        source: where the images come from, spread over it.
        num: how many; the picture shows 64 of them.
        out: ``.png``.
        by_scale: of codes from coarse to fine, a column for each image: what the first scale alone
            says, the first two, and so on, and below them the image.

    Raises:
        ConfigError: if there are no scales.
    """
    latents_of = trained.experiment.model.latents
    assert latents_of is not None
    if by_scale and not latents_of.scales:
        raise ConfigError("--scales: goes with model.quantizer 'multi_scale'")
    images, labels = _examples(trained, source, num)
    codes = _encode(trained, images, labels)
    again = _decode(trained, codes, labels)
    # Spread over all: sources often lie class by class.
    shown = np.linspace(0, num - 1, min(num, 64)).round().astype(int)
    if by_scale:
        _write(out, _by_scale(trained, images[:16], codes[:16]), trained)
    else:
        _write(out, pairs(images[shown], again[shown]), trained)
    print(
        f"{num} images of {source.name}, step {trained.step}: mean squared error "
        f"{mean_squared_error(images, again):.6g} (of values from 0 to 1), PSNR "
        f"{psnr(images, again):.2f} dB, SSIM {ssim(images, again):.4f}; in {out}",
        flush=True,
    )
    for line in _use_of(codes, latents_of.num_codes):
        print(line, flush=True)
    first = 0
    for side in latents_of.scales:
        own = codes[:, first : first + side * side]
        print(f"{side}x{side}: {len(np.unique(own))} codes used", flush=True)
        first += side * side


def _by_scale(trained: Trained, images: np.ndarray, codes: np.ndarray) -> np.ndarray:
    latents_of = trained.experiment.model.latents
    assert latents_of is not None
    rows = []
    for num in range(1, len(latents_of.scales) + 1):
        draw = Draw(0, {"num_scales": num}, z=codes)
        rows.append(decode(trained.experiment.model, trained.weights, draw))
    return grid(np.concatenate([*rows, images]), len(images))


def _use_of(codes: Any, num_codes: Any) -> Iterator[str]:
    """Return how many of a discrete first stage's codes these examples use."""
    if num_codes is None:
        return
    grids = codes if isinstance(codes, Mapping) else {"": codes}
    totals = num_codes if isinstance(num_codes, Mapping) else {"": num_codes}
    by_level = {
        f"{name} level {level}".strip(): grid[..., level]
        for name, grid in grids.items()
        for level in range(grid.shape[-1] if grid.ndim == 4 else 0)
    } or grids
    for name, codes_there in by_level.items():
        total = totals[name.partition(" level")[0] if name in totals else next(iter(totals))]
        counts = np.bincount(codes_there.reshape(-1), minlength=total)
        spread = float(perplexity(jnp.asarray(counts, jnp.float32)))
        yield (
            f"{f'{name}: ' if name else ''}{np.sum(counts > 0)} of {total} codes used "
            f"({np.mean(counts > 0):.1%}), perplexity {spread:.1f}"
        )


def run_interpolation(
    trained: Trained, source: Source, *, num: int, steps: int, path: str, out: Path
) -> None:
    """Go from one image to another through codes, a pair a row.

    Args:
        trained: a work directory's model.
        source: where the images come from.
        num: rows.
        steps: images a row, both ends included.
        path: ``"lerp"`` for straight lines or ``"slerp"`` for great circles.
        out: ``.png``.
    """
    images, labels = _examples(trained, source, 2 * num)
    z = _encode(trained, images, labels)
    # A class-conditional model keeps the class of the row's first image.
    draw = _draw(None if labels is None else labels[:num])
    draw = interpolate(draw, z[:num], z[num:], steps, path)
    pictures = decode(trained.experiment.model, trained.weights, draw)
    _write(out, grid(pictures, steps), trained)
    print(f"{num} interpolations ({path}) of step {trained.step} in {out}", flush=True)


def run_resynthesis(
    trained: Trained, source: Source, *, num: int, steps: int, pair: tuple[int, int], out: Path
) -> None:
    """Add a growing share of the difference of two classes' mean codes to codes of the first.

    Args:
        trained: a work directory's model, unconditional: a class that the decoder is told is not in
            its codes.
        source: with labels; all of it, up to 10,000 images, makes the means.
        num: rows, images of the first class.
        steps: images a row, from none of the difference to all of it.
        pair: from which class to which.
        out: ``.png``.

    Raises:
        ConfigError: for a conditional model.
        DataError: if the source has no labels or not these classes.
    """
    if trained.experiment.num_classes:
        raise ConfigError(
            "resynthesis: this model is told the class (model.num_classes), which its codes then "
            "do not hold; an unconditional one is required"
        )
    _check_has_images(source)
    read = source.read(spread_indices(source, 10_000))
    if "label" not in read:
        raise DataError(f"{source.name}: no labels; resynthesis needs classes")
    images, labels = read["image"], read["label"]
    for label in pair:
        if not np.any(labels == label):
            raise DataError(f"{source.name}: no image of class {label}")
    z = _encode(trained, images, None)
    means = latents.class_means(jnp.asarray(z), jnp.asarray(labels), int(labels.max()) + 1)
    begin = z[labels == pair[0]][:num]
    weights = np.linspace(0.0, 1.0, steps, dtype=np.float32)
    weights = weights.reshape(1, -1, *(1 for _ in z.shape[1:]))
    moved = begin[:, None] + weights * np.asarray(means[pair[1]] - means[pair[0]])[None, None]
    pictures = _decode(trained, moved.reshape(-1, *z.shape[1:]), None)
    _write(out, grid(pictures, steps), trained)
    print(f"class {pair[0]} to class {pair[1]}, step {trained.step}: {out}", flush=True)


def run_manifold(trained: Trained, *, side: int, label: int | None, out: Path) -> None:
    """Decode a square grid over a 2-D latent space, by equal prior probability.

    Raises:
        ConfigError: if codes are not two numbers.
    """
    shape = _code_shape(trained)
    if shape != (2,):
        raise ConfigError(f"manifold: codes of 2 numbers are required, this model's are {shape}")
    labels = _labels(trained, label, side * side)
    images = _decode(trained, np.asarray(latents.normal_grid(side)), labels)
    _write(out, grid(images, side), trained)
    print(f"{side} x {side} points of the latent plane, step {trained.step}: {out}", flush=True)


def run_scatter(trained: Trained, source: Source, *, num: int, out: Path) -> None:
    """Plot posterior means, colored by label; more than two dimensions by their principal two.

    Raises:
        DataError: if the source has fewer than 3 images.
    """
    images, labels = _examples(trained, source, min(num, source.size), always_labels=True)
    if len(images) < 3:
        raise DataError(f"{source.name}: got {len(images)}; 3 images are required")
    given = labels if trained.experiment.num_classes else None
    z = _encode(trained, images, given).reshape(len(images), -1)
    what = "both coordinates"
    if z.shape[1] == 1:
        z, what = np.concatenate([z, np.zeros_like(z)], axis=1), "one coordinate"
    elif z.shape[1] > 2:
        centered = z - z.mean(axis=0)
        _, values, axes = np.linalg.svd(centered, full_matrices=False)
        z = centered @ axes[:2].T
        share = float(np.sum(values[:2] ** 2) / max(np.sum(values**2), 1e-30))
        what = f"2 principal axes of {axes.shape[1]} dimensions, {share:.0%} of the variance"
    _write(out, scatter(z, labels), trained)
    print(f"{len(z)} codes of {source.name}, {what}, step {trained.step}: {out}", flush=True)


def _write(out: Path, picture: np.ndarray, trained: Trained) -> None:
    write_file(out, png_bytes(picture, {"gen_jax": f"step {trained.step}"}))


def _check_has_images(source: Source) -> None:
    if source.stage1 is not None:
        raise DataError(f"{source.name}: holds codes; --data names images")


def _examples(
    trained: Trained, source: Source, num: int, always_labels: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images spread over a source, with labels if the model is told them."""
    _check_has_images(source)
    if num > source.size:
        raise DataError(f"{source.name}: {num} images are required, it has {source.size}")
    read = source.read(spread_indices(source, num))
    wanted = trained.experiment.num_classes or always_labels
    return read["image"], read.get("label") if wanted else None


def _labels(trained: Trained, label: int | None, num: int) -> np.ndarray | None:
    size = trained.experiment.num_classes
    if label is not None and size is None:
        raise ConfigError("--label: this model knows no classes (model.num_classes is 0)")
    if size is None:
        return None
    if not 0 <= (label or 0) < size:
        raise ConfigError(f"--label: {label}; a class from 0 to {size - 1} is required")
    return np.full(num, label or 0, np.int32)


def _draw(labels: np.ndarray | None, z: Any = None) -> Draw:
    return Draw(0, {}, {} if labels is None else {"label": labels}, z=z)


def _code_shape(trained: Trained) -> tuple[int, ...]:
    """Return the shape of a code, without making one."""
    model = trained.experiment.model
    assert model.latents is not None
    assert model.latents.encode is not None
    image = jax.ShapeDtypeStruct((1, *trained.config["data"]["shape"]), jnp.uint8)
    classes = trained.experiment.num_classes
    cond = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)} if classes else {}
    return tuple(jax.eval_shape(model.latents.encode, trained.weights, image, cond).shape[1:])


def _encode(trained: Trained, images: np.ndarray, labels: np.ndarray | None) -> Any:
    return encode(trained.experiment.model, trained.weights, _draw(labels), images)


def _decode(trained: Trained, z: Any, labels: np.ndarray | None) -> np.ndarray:
    return decode(trained.experiment.model, trained.weights, _draw(labels, z))
