"""``gen-jax sample``."""

import hashlib
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from gen_jax.errors import ConfigError
from gen_jax.files import npz_bytes, png_bytes, write_file
from gen_jax.launch import parts
from gen_jax.launch.givens import read_context, read_images, read_mask
from gen_jax.launch.guides import with_classifier
from gen_jax.launch.pictures import grid
from gen_jax.launch.request import Request, check_request
from gen_jax.launch.sampling import (
    Draw,
    check_label,
    draw_noise,
    draw_some,
    invert_images,
    to_low_res,
)
from gen_jax.launch.workdir import Trained
from gen_jax.ops.latents import slerp

__all__ = ["run_sampling"]

# Of a film: so many images are shown, and at most so many moments.
FILM_IMAGES, FILM_FRAMES = 64, 60


def run_sampling(trained: Trained, request: Request) -> None:
    """Draw samples and write them as a grid (``.png``) or as arrays (``.npz``).

    Sample i depends on the seed and on i. Without a label all classes come in turn. The file
    appears whole or not at all; a job for an npz of more than a thousand samples that is stopped
    goes on where it was when it is run again.

    Args:
        trained: a work directory's model.
        request: what is asked for.

    Raises:
        ConfigError: if the model has no such class, or does not take what is given.
        DataError: if a file that is given cannot be used.
        StorageError: if the file cannot be written.
    """
    check_request(trained, request)
    asked = request._asdict()
    trained, request, guide = _guided(trained, request)
    draw, num, columns = _plan(trained, request)
    noise = None
    if request.with_noise:
        noise = draw_noise(trained.experiment, seed=request.seed, num=num)

    bar = tqdm(total=num, unit="sample", disable=None)

    def draw_part(first: int, end: int) -> np.ndarray:
        arguments = (trained.experiment, trained.params, trained.stats, draw, trained.mesh)
        return np.concatenate(list(draw_some(*arguments, first, end, bar)))

    out = request.out
    long = out.suffix == ".npz" and num > parts.PART
    if long:
        origin = {
            "digest": trained.digest,
            "stage1": trained.experiment.stage1_digest,
            "step": trained.step,
            "guide": guide,
            "given": _digest(draw),
            **{name: x for name, x in asked.items() if name not in ("batch_size", "out")},
        }
        images = parts.in_parts(out, num, origin, draw_part, bar.update)
    else:
        images = draw_part(0, num)
    bar.close()
    _write(trained, request, draw, images, noise, columns)
    if long:
        parts.clear(out)
    if request.trace is not None:
        _write_film(trained, draw, num, request.trace)
    print(f"{num} samples of step {trained.step} in {out}", flush=True)


def _guided(trained: Trained, request: Request) -> tuple[Trained, Request, str | None]:
    """Load a classifier, where one is to guide; the last is its digest."""
    if request.classifier is None:
        return trained, request, None
    trained, classes, guide, options = with_classifier(
        trained, request.classifier, request.classifier_scale
    )
    check_label(classes, request.label)
    if trained.experiment.num_classes not in (None, classes):
        raise ConfigError(
            f"--classifier: knows {classes} classes; the model's "
            f"{trained.experiment.num_classes} are needed"
        )
    return trained, request._replace(options={**request.options, **options}), guide


def _write(
    trained: Trained,
    request: Request,
    draw: Draw,
    images: np.ndarray,
    noise: np.ndarray | None,
    columns: int | None,
) -> None:
    out, num = request.out, len(images)
    if out.suffix == ".npz":
        arrays: dict[str, np.ndarray] = {"images": images} | (
            {} if draw.labels is None else {"labels": draw.labels}
        )
        if noise is not None:  # a pair, with all that made it
            arrays |= {"noise": noise, **draw.condition}
        arrays |= {"step": np.asarray(trained.step), "digest": np.array(trained.digest)}
        write_file(out, npz_bytes(arrays))
    else:
        weights = f"step {trained.step}, weights {trained.digest}"
        shown = {n: x for n, x in request.options.items() if not callable(x)}
        origin = {"gen_jax": f"{weights}, seed {request.seed}, {shown}"}
        if draw.given.get("image") is not None:
            images = _beside_originals(draw, images)
            columns = columns or 2 * max(1, round((num / 2) ** 0.5))
        write_file(out, png_bytes(grid(images, columns), origin))


def _digest(draw: Draw) -> str:
    """Name what samples are made of beside the model: a file may change while a job is stopped."""
    sha = hashlib.sha256()
    arrays = {**draw.given, **{f"condition/{name}": x for name, x in draw.condition.items()}}
    for name, x in sorted(arrays.items()):
        sha.update(f"{name} {x.shape} {x.dtype}".encode())
        same = x.strides[0] == 0  # one row, looked at again and again
        sha.update(np.ascontiguousarray(x[:1] if same else x).data)
    return sha.hexdigest()


def _plan(trained: Trained, request: Request) -> tuple[Draw, int, int | None]:
    """Read what is given; how many samples that makes, and how many of them a row has."""
    num, columns = request.num, None
    shape = tuple(trained.config["data"]["shape"])
    steps = request.interpolate
    ends = num + 1 if steps else num
    labels, num_classes = None, trained.experiment.num_classes
    if num_classes is not None:
        labels = np.arange(ends) % num_classes
        labels = np.full(ends, request.label) if request.label is not None else labels
        labels = labels.astype(np.int32)
    condition: dict[str, np.ndarray] = {}
    given: dict[str, np.ndarray] = {}
    if factor := trained.config["model"].get("low_res_factor"):
        assert request.image is not None
        small = (shape[0] // factor, shape[1] // factor, shape[2])
        condition["low_res"] = to_low_res(read_images(request.image, small, ends))
    elif request.image is not None:
        given["image"] = read_images(request.image, shape, ends)
    if request.context is not None:
        dim = trained.config["model"]["context_dim"]
        condition |= read_context(request.context, dim, ends)
    if request.mask is not None:
        given["mask"] = read_mask(request.mask, shape, ends)
    if request.classifier is not None and num_classes is None:
        given["target"] = np.full(ends, request.label, np.int32)  # of the classifier alone
    draw = Draw(request.seed, request.options, labels, condition, given, request.batch_size)
    if not steps:
        return draw, num, columns
    if request.image is not None:
        images = given.pop("image")
        if len(images) > 1 and not (images[0] != images[1]).any():
            raise ConfigError("--interpolate: between images takes an npz with two or more")
        noise = invert_images(
            trained.experiment, trained.params, trained.stats, draw, trained.mesh, images
        )
        draw = draw._replace(options={**draw.options, "clipped": False})
    else:
        noise = draw_noise(trained.experiment, seed=request.seed, num=ends)
    weights = jnp.linspace(0.0, 1.0, steps)
    paths = jax.vmap(lambda a, b: slerp(a, b, weights))(noise[:-1], noise[1:])
    rows = np.repeat(np.arange(num), steps)
    return (
        draw._replace(
            labels=None if labels is None else labels[rows],
            condition={name: x[rows] for name, x in condition.items()},
            given={
                **{name: x[rows] for name, x in given.items()},
                "noise": np.asarray(paths).reshape(-1, *noise.shape[1:]),
            },
        ),
        num * steps,
        steps,
    )


def _beside_originals(draw: Draw, images: np.ndarray) -> np.ndarray:
    """Put each result right of the image that it was made of; unknown pixels of it are grey."""
    originals = draw.given["image"][: len(images)]
    if "mask" in draw.given:
        mask = draw.given["mask"][: len(images)]
        originals = np.where(mask > 0, originals, 128).astype(np.uint8)
    return np.stack([originals, images], axis=1).reshape(-1, *images.shape[1:])


def _write_film(trained: Trained, draw: Draw, num: int, path: Path) -> None:
    """Show how the first samples came about, as a GIF."""
    num = min(num, FILM_IMAGES)
    draw = draw._replace(options={**draw.options, "trace": True})
    arguments = (trained.experiment, trained.params, trained.stats, draw, trained.mesh)
    bar = tqdm(total=num, unit="sample", disable=None, desc="film")
    points = np.concatenate(list(draw_some(*arguments, 0, num, bar)))  # [num, times, H, W, C]
    bar.close()
    moments = np.unique(np.linspace(0, points.shape[1] - 1, FILM_FRAMES).round().astype(int))
    frames = [grid(points[:, moment]) for moment in moments]
    pictures = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[60] * (len(pictures) - 1) + [2000],
        loop=0,
    )
    write_file(path, buffer.getvalue())
    print(f"{len(frames)} moments of {num} samples in {path}", flush=True)
