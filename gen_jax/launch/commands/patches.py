"""``gen-jax patches``: new images of the patches of one, and films of one film."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from gen_jax.data.decode import decode_image
from gen_jax.data.films import read_frames
from gen_jax.errors import ConfigError, DataError
from gen_jax.files import film_bytes, npz_bytes, png_bytes, write_file
from gen_jax.patches import Settings
from gen_jax.pictures import grid

__all__ = ["Request", "read_picture", "run_patches"]

_MILLISECONDS = 80  # a frame of a film that is written


class Request(NamedTuple):
    """What is to be made of a picture or film.

    ``shape`` are the sides of the result, height and width. ``side`` is the longer side that
    sources are brought to at most. The method is ``"patches"``, or ``"singan"``, which is trained
    for ``steps`` at each scale.
    """

    source: Path
    out: Path
    num: int = 4
    side: int = 128
    shape: tuple[int, int] | None = None
    mask: Path | None = None
    structure: Path | None = None
    seed: int = 0
    settings: Settings = Settings()  # a tuple of numbers
    method: str = "patches"
    steps: int = 500


def run_patches(request: Request) -> np.ndarray:
    """Make pictures, or films, and write them.

    With a mask what is black in it is filled; with a structure it is drawn anew of the source's
    patches; with a shape and a sigma of 0 the source is retargeted.

    Args:
        request: what is asked for.

    Returns:
        uint8 [num, (frames,) height, width, channels].

    Raises:
        ConfigError: if parts of the request exclude one another, or the name of the file is of no
            kind that is written.
        DataError: if a file cannot be read, or is too small.
        StorageError: if the result cannot be written.
    """
    _check(request)
    source = read_picture(request.source, request.side)
    still = source.ndim == 3
    if still and request.out.suffix not in (".png", ".npz"):
        raise ConfigError(f"--out: got {str(request.out)!r}; .png or .npz is required of a picture")
    if not still and request.out.suffix not in (".gif", ".webp", ".npz"):
        raise ConfigError(f"--out: got {str(request.out)!r}; .gif, .webp or .npz of a film")

    if request.method == "singan":
        if not still:
            raise ConfigError("--method: 'singan' is for pictures, and this is a film")
        made = _by_singan(request, source)
        return _written(request, np.stack(made), still)
    made = []
    bar = tqdm(total=request.num, unit="picture" if still else "film", disable=None)
    for number in range(request.num):
        made.append(_one(request, source, number, bar))
        bar.update()
    bar.close()
    return _written(request, np.stack(made), still)


def _written(request: Request, stack: np.ndarray, still: bool) -> np.ndarray:
    if request.out.suffix == ".npz":
        write_file(request.out, npz_bytes({"images": stack}))
    elif still:
        write_file(request.out, png_bytes(grid(stack)))
    else:
        frames = [grid(stack[:, number]) for number in range(stack.shape[1])]
        kind = request.out.suffix[1:].upper()
        write_file(request.out, film_bytes(frames, _MILLISECONDS, kind))
    what = "pictures" if still else "films"
    print(f"{request.num} {what} of {request.source} in {request.out}", flush=True)
    return stack


def _by_singan(request: Request, source: np.ndarray) -> list[np.ndarray]:
    import jax
    import jax.numpy as jnp

    from gen_jax.launch.commands.singan import train_singan

    bar = tqdm(unit="step", disable=None)

    def progress(done: int, of: int, error: float) -> None:
        bar.total = of
        bar.set_postfix_str(f"reconstruction {error:.4f}")
        bar.update(done - bar.n)

    key = jax.random.key(request.seed)
    x = jnp.asarray(source, jnp.float32) / 127.5 - 1
    made = train_singan(key, x, steps=request.steps, progress=progress)
    bar.close()
    draw = jax.jit(made.sample, static_argnums=1)
    keys = [jax.random.fold_in(key, number) for number in range(request.num)]
    images = [np.asarray(draw(key, request.shape)) for key in keys]
    return [np.round(np.clip((x + 1) * 127.5, 0, 255)).astype(np.uint8) for x in images]


def _check(request: Request) -> None:
    if request.method == "singan" and (request.mask or request.structure):
        given = "--mask" if request.mask else "--structure"
        raise ConfigError(f"{given}: has no meaning with --method singan")
    asked = [
        name
        for name, value in (
            ("--mask", request.mask), ("--structure", request.structure), ("--shape", request.shape)
        )
        if value is not None
    ]  # fmt: skip
    if len(asked) > 1:
        raise ConfigError(f"{asked[1]}: has no meaning beside {asked[0]}")
    alone = asked[:1] if asked != ["--shape"] else []
    if request.num > 1 and (alone or not request.settings.sigma):
        why = alone[0] if alone else "--sigma 0"
        raise ConfigError(
            f"--num: got {request.num}; with {why} there is one result: 1 is required"
        )


def _one(request: Request, source: np.ndarray, number: int, bar: Any) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    from gen_jax import patches

    def progress(done: int, of: int) -> None:
        bar.set_postfix_str(f"level {done} of {of}")

    x = jnp.asarray(source, jnp.float32) / 255
    try:
        if request.mask is not None:
            known = _mask(request.mask, source.shape)
            y = patches.inpaint(x, jnp.asarray(known), request.settings, progress)
        elif request.structure is not None:
            structure = read_picture(request.structure, request.side)
            if structure.ndim != source.ndim:
                raise DataError(f"{request.structure}: one is a picture and the other a film")
            given = jnp.asarray(structure, jnp.float32) / 255
            y = patches.analogy(given, x, request.settings, progress)
        else:
            sides = None if request.shape is None else (*source.shape[:-3], *request.shape)
            key = jax.random.fold_in(jax.random.key(request.seed), number)
            y = patches.generate(key, x, request.settings, shape=sides, progress=progress)
    except ValueError as error:
        raise DataError(f"{request.source}: {error}") from error
    return np.round(np.clip(np.asarray(y), 0, 1) * 255).astype(np.uint8)


def read_picture(path: Path, side: int) -> np.ndarray:
    """Read a picture, or an animated GIF or WebP, or a video, no larger than ``side``.

    Returns:
        uint8 [height, width, 3], or with frames before.

    Raises:
        DataError: if it cannot be read.
    """
    from PIL import Image

    frames = read_frames(path)
    factor = min(1.0, side / max(frames[0].size))
    size = (max(1, round(frames[0].width * factor)), max(1, round(frames[0].height * factor)))
    arrays = [np.asarray(x.resize(size, Image.Resampling.LANCZOS)) for x in frames]
    return np.stack(arrays) if len(arrays) > 1 else arrays[0]


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read which pixels are known: the white ones."""
    from PIL import Image

    if len(shape) != 3:
        raise ConfigError("--mask: is for pictures, and this is a film")
    try:
        image = decode_image(path.read_bytes(), str(path)).convert("L")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    size = (shape[1], shape[0])
    return np.asarray(image.resize(size, Image.Resampling.NEAREST)) >= 128
