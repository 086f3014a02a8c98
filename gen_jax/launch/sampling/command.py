"""``gen-jax sample``."""

import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen_jax.errors import ConfigError
from gen_jax.files import film_bytes, npz_bytes, png_bytes, write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling import shards as parts
from gen_jax.launch.sampling.draw import Draw, draw_prior, draw_some, encode, interpolate
from gen_jax.launch.sampling.inputs import OF_CLIP, read_input
from gen_jax.launch.sampling.request import Request, check_request
from gen_jax.pictures import film, grid, strips, titled

__all__ = ["run_sampling"]

# Of a film: so many images are shown, and at most so many moments.
FILM_IMAGES, FILM_FRAMES = 64, 60
# Of samples that are films: suffixes, and how long a frame is seen.
FILM_KINDS, FRAME_MS = {".gif": "GIF", ".webp": "WEBP"}, 120


def run_sampling(trained: Trained, request: Request, guide: str | None = None) -> None:
    """Draw samples and write them as a grid (``.png``), as arrays (``.npz``), or films (``.gif``).

    Sample i depends on the seed and on i. Without a label all classes come in turn. The file
    appears whole or not at all; a job for an npz of more than a thousand samples that is stopped
    goes on where it was when it is run again.

    Args:
        trained: a work directory's model.
        request: what is asked for.
        guide: digest of the classifier that guides, if one does.

    Raises:
        ConfigError: if the model has no such class, or does not take what is given.
        DataError: if a file that is given cannot be used.
        StorageError: if the file cannot be written.
    """
    check_request(trained, request)
    films = len(trained.config["data"]["shape"]) == 4
    if request.out.suffix in FILM_KINDS and not films:
        raise ConfigError(f"--out: got {str(request.out)!r}; .png or .npz: samples are no films")
    draw, num, columns = _plan(trained, request)
    model = trained.experiment.model
    noise = draw_prior(model, seed=request.seed, num=num) if request.with_noise else None
    bar = tqdm(total=num, unit="sample", disable=None)

    def draw_part(first: int, end: int) -> np.ndarray:
        arguments = (model, trained.weights, draw, trained.mesh)
        return np.concatenate(list(draw_some(*arguments, first, end, bar)))

    out = request.out
    folder = out.suffix == ""
    long = out.suffix == ".npz" and num > parts.PART
    if long:
        origin = {
            "digest": trained.digest,
            "stage1": trained.experiment.stage1_digest,
            "step": trained.step,
            "guide": guide,
            "given": _digest(draw),
            **{n: x for n, x in request._asdict().items() if n not in ("batch_size", "out")},
        }
        images = parts.in_parts(out, num, origin, draw_part, bar.update)
    else:
        images = draw_part(0, num)
    bar.close()
    if folder:
        _write_pictures(trained, out, images)
    else:
        _write(trained, request, draw, images, noise, columns)
    if long:
        parts.clear(out)
    if request.trace is not None:
        _write_film(trained, draw, num, request.trace)
    print(f"{num} samples of step {trained.step} in {out}", flush=True)


def _write_pictures(trained: Trained, folder: Path, images: np.ndarray) -> None:
    """Write each sample into a file of its own, numbered from 0; films as GIF.

    Raises:
        ConfigError: if samples are no images.
    """
    sampler = trained.experiment.model.sampler
    if sampler is None or sampler.gives != "images":
        raise ConfigError("--out: samples are vectors; FILE.npz is required")
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(6, len(str(len(images))))
    for number, image in enumerate(images):
        name = folder / f"{number:0{digits}}"
        if image.ndim == 4:
            write_file(name.with_suffix(".gif"), film_bytes(list(image), FRAME_MS))
        else:
            write_file(name.with_suffix(".png"), png_bytes(image))


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
        sampler = trained.experiment.model.sampler
        gives = "embeddings" if sampler and sampler.gives == "vectors" else "images"
        gives = "arr_0" if request.arr_0 else gives
        arrays: dict[str, np.ndarray] = {gives: images}
        if "label" in draw.cond:
            arrays["labels"] = draw.cond["label"]
        if "prompt" in draw.cond:
            arrays["prompts"] = np.array(_prompts(trained, draw))
        if noise is not None:  # a pair, with all that made it
            arrays |= {
                "noise": noise,
                **{
                    n: x
                    for n, x in draw.cond.items()
                    if n not in ("label", "prompt", "no_prompt", "source_prompt", *OF_CLIP)
                },
            }
        arrays |= {"step": np.asarray(trained.step), "digest": np.array(trained.digest)}
        write_file(out, npz_bytes(arrays))
    else:
        weights = f"step {trained.step}, weights {trained.digest}"
        origin = {"gen_jax": f"{weights}, seed {request.seed}, {dict(request.options)}"}
        if any(name in draw.cond for name in _ORIGINALS):
            images = _beside_originals(draw, images)
            columns = columns or 2 * max(1, round((num / 2) ** 0.5))
        titles = _prompts(trained, draw)
        if out.suffix in FILM_KINDS:
            frames = film(images, titles if len(titles) == len(images) else ())
            write_file(out, film_bytes(frames, FRAME_MS, FILM_KINDS[out.suffix]))
            return
        if images.ndim == 5:
            write_file(out, png_bytes(strips(images), origin))
            return
        if titles and columns is None and len(images) == len(titles):
            picture = titled(images, titles)
        else:
            picture = grid(images, columns)
        write_file(out, png_bytes(picture, origin))


def _prompts(trained: Trained, draw: Draw) -> list[str]:
    """Return the text of each sample, if there are any."""
    if trained.tokenizer is None or "prompt" not in draw.cond:
        return []
    return [trained.tokenizer.decode(row) for row in draw.cond["prompt"]]


def _digest(draw: Draw) -> str:
    """Name what samples are made of beside the model: a file may change while a job is stopped."""
    sha = hashlib.sha256()
    arrays = dict(draw.cond) if draw.z is None else {**draw.cond, "z": draw.z}
    for name, x in sorted(arrays.items()):
        sha.update(f"{name} {x.shape} {x.dtype}".encode())
        same = x.strides[0] == 0  # one row, looked at again and again
        sha.update(np.ascontiguousarray(x[:1] if same else x).data)
    return sha.hexdigest()


def _plan(trained: Trained, request: Request) -> tuple[Draw, int, int | None]:
    """Read what is given; how many samples that makes, and how many of them a row has."""
    num, steps = request.num, request.interpolate
    shape = tuple(trained.config["data"]["shape"])
    model, weights = trained.experiment.model, trained.weights
    ends = num + 1 if steps else num
    cond: dict[str, np.ndarray] = {}
    for name, given in model.inputs.items():
        if name in request.inputs:
            value = request.inputs[name]
            known = trained.target_tokenizer if name in OF_CLIP else trained.tokenizer
            cond |= read_input(name, given, value, shape, ends, known)
        elif given.kind == "label" and given.needed:
            assert given.size is not None
            cond[name] = (np.arange(ends) % given.size).astype(np.int32)
    draw = Draw(request.seed, request.options, cond, request.batch_size)
    if not steps:
        return draw, num, None
    if "image" in cond:
        images = cond.pop("image")
        if len(images) > 1 and not (images[0] != images[1]).any():
            raise ConfigError("--interpolate: between images takes an npz with two or more")
        z = encode(model, weights, draw, images, trained.mesh)
        assert model.latents is not None
        draw = draw._replace(options={**draw.options, **model.latents.undo})
    else:
        z = draw_prior(model, seed=request.seed, num=ends)
    draw = draw._replace(cond={name: x[:-1] for name, x in draw.cond.items()})
    return interpolate(draw, z[:-1], z[1:], steps), num * steps, steps


# Images that a result is made of.
_ORIGINALS = ("image", "source", "masked", "like")


def _beside_originals(draw: Draw, images: np.ndarray) -> np.ndarray:
    """Put each result right of the image that it was made of; unknown pixels of it are gray."""
    name = next(name for name in _ORIGINALS if name in draw.cond)
    originals = draw.cond[name][: len(images)]
    if "mask" in draw.cond:
        mask = draw.cond["mask"][: len(images)]
        originals = np.where(mask > 0, originals, 128).astype(np.uint8)
    return np.stack([originals, images], axis=1).reshape(-1, *images.shape[1:])


def _write_film(trained: Trained, draw: Draw, num: int, path: Path) -> None:
    """Show how the first samples came about, as a GIF."""
    num = min(num, FILM_IMAGES)
    draw = draw._replace(options={**draw.options, "trace": True})
    arguments = (trained.experiment.model, trained.weights, draw, trained.mesh)
    bar = tqdm(total=num, unit="sample", disable=None, desc="film")
    points = np.concatenate(list(draw_some(*arguments, 0, num, bar)))  # [num, times, H, W, C]
    bar.close()
    moments = np.unique(np.linspace(0, points.shape[1] - 1, FILM_FRAMES).round().astype(int))
    arrange = strips if points.ndim == 6 else grid
    frames = [arrange(points[:, moment]) for moment in moments]
    times = [60] * (len(frames) - 1) + [2000]
    write_file(path, film_bytes(frames, times))
    print(f"{len(frames)} moments of {num} samples in {path}", flush=True)
