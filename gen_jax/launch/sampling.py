"""Drawing any number of samples from a model, in batches of one shape."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from gen_jax.errors import ConfigError
from gen_jax.launch.experiment import Experiment
from gen_jax.ops import keys as rng
from gen_jax.train.sharding import batch_sharding
from gen_jax.typing import PyTree

__all__ = [
    "Draw",
    "check_label",
    "condition_of",
    "draw_noise",
    "draw_samples",
    "draw_some",
    "invert_images",
    "to_low_res",
]


class Draw(NamedTuple):
    """What samples are drawn with: the same for all of a job.

    ``condition`` and ``given`` are host arrays [num, ...], row i for sample i.
    """

    seed: int
    options: Mapping[str, Any]
    labels: np.ndarray | None = None
    condition: Mapping[str, np.ndarray] = {}  # beside the label
    given: Mapping[str, np.ndarray] = {}
    batch_size: int = 128


@functools.lru_cache(maxsize=16)
def _compiled(
    sample: Callable[..., Any], static: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    """Keep the jitted sampler: a new one for every picture of a run would be compiled anew."""
    return jax.jit(functools.partial(sample, **dict(static)))


def draw_samples(
    experiment: Experiment,
    params: PyTree,
    stats: PyTree,
    *,
    num: int,
    seed: int,
    options: Mapping[str, Any],
    mesh: Mesh,
    labels: np.ndarray | None = None,
    condition: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> np.ndarray:
    """Draw samples, spread over all devices of a mesh.

    Sample i depends on the seed and on i alone, not on the batches, the devices or the processes;
    all processes of a job get all samples.

    Args:
        experiment: what to sample from; its frozen weights are on the devices of the mesh.
        params: the averaged parameters, also there.
        stats: of the model, also there.
        num: how many samples.
        seed: in [0, 2**32).
        options: of ``Model.sample``; those left out have their defaults.
        mesh: whose axes ``data`` and ``fsdp`` share the samples out.
        labels: int [num] for a class-conditional model.
        condition: arrays [num, ...] that the model is told beside labels.
        batch_size: samples drawn at once; rounded up to a multiple of the devices.
        progress: whether to show a bar on a terminal.

    Returns:
        uint8 [num, H, W, C].
    """
    draw = Draw(seed, options, labels, condition or {}, batch_size=batch_size)
    bar = tqdm(total=num, unit="sample", disable=None if progress else True)
    images = list(draw_some(experiment, params, stats, draw, mesh, 0, num, bar))
    bar.close()
    return np.concatenate(images)


def draw_some(
    experiment: Experiment,
    params: PyTree,
    stats: PyTree,
    draw: Draw,
    mesh: Mesh,
    first: int,
    end: int,
    bar: tqdm,
) -> Iterator[np.ndarray]:
    """Draw samples ``first`` to ``end - 1`` of a job, a batch at a time."""
    rows = batch_sharding(mesh)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-min(draw.batch_size, end - first) // parts) * parts
    known = experiment.model.sample_options
    # A function, as a classifier, is compiled in like the options that are; numbers are not.
    static = {
        name: x
        for name, x in draw.options.items()
        if (known[name].static if name in known else not isinstance(x, float))
    }
    traced = {name: x for name, x in draw.options.items() if name not in static}
    sampler = _compiled(experiment.model.sample, tuple(sorted(static.items())))
    make_keys = _key_maker(rows, size)
    for begin in range(first, end, size):
        place = functools.partial(_place, rows, np.minimum(np.arange(begin, begin + size), end - 1))
        condition: Any = None if draw.labels is None else place(draw.labels)
        if draw.condition:
            condition = {"label": condition, **{n: place(x) for n, x in draw.condition.items()}}
        if draw.given:
            traced["given"] = {name: place(x) for name, x in draw.given.items()}
        keys = make_keys(np.uint32(draw.seed), np.int32(begin))
        batch = sampler(params, stats, keys, experiment.frozen, condition, **traced)
        kept = min(size, end - begin)
        yield multihost_utils.process_allgather(batch, tiled=True)[:kept]
        bar.update(kept)


def draw_noise(experiment: Experiment, *, seed: int, num: int) -> np.ndarray:
    """Draw the noise that samples 0 to ``num - 1`` begin with, float32 [num, ...]."""
    start_noise = experiment.model.start_noise
    assert start_noise is not None

    @jax.jit
    def draw(seed: jax.Array, first: jax.Array) -> jax.Array:
        return start_noise(rng.per_example(jax.random.key(seed), first, size))

    size = min(num, 1024)
    parts = [draw(np.uint32(seed), np.int32(first)) for first in range(0, num, size)]
    return np.concatenate([np.asarray(part) for part in parts])[:num]


def invert_images(
    experiment: Experiment,
    params: PyTree,
    stats: PyTree,
    draw: Draw,
    mesh: Mesh,
    images: np.ndarray,
) -> np.ndarray:
    """Find the noise of images, float32 [num, ...], spread over all devices of a mesh."""
    noise_of = experiment.model.noise_of
    assert noise_of is not None
    names = ("solver", "steps", "grid")
    options = {name: draw.options[name] for name in names if name in draw.options}
    run = jax.jit(functools.partial(noise_of, **options))
    rows, num = batch_sharding(mesh), len(images)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    size = -(-min(num, draw.batch_size) // parts) * parts
    make_keys = _key_maker(rows, size)
    found = []
    for begin in tqdm(range(0, num, size), unit="batch", disable=None, desc="inverting"):
        place = functools.partial(_place, rows, np.minimum(np.arange(begin, begin + size), num - 1))
        condition: Any = None if draw.labels is None else place(draw.labels)
        if draw.condition:
            extra = {name: place(x) for name, x in draw.condition.items()}
            condition = {"label": condition, **extra}
        keys = make_keys(np.uint32(draw.seed), np.int32(begin))
        noise = run(params, stats, keys, experiment.frozen, place(images), condition)
        found.append(multihost_utils.process_allgather(noise, tiled=True)[: num - begin])
    return np.concatenate(found)


def to_low_res(images: np.ndarray) -> np.ndarray:
    """Bring uint8 images that are to be made larger to [-1, 1], as the codec of pixels does."""
    return images.astype(np.float32) / 127.5 - 1.0


def condition_of(config: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Take what a model is told beside labels from examples of its data."""
    condition = {}
    model = config["model"]
    if model.get("context_dim"):
        condition["context"] = examples["context"]
    if factor := model.get("low_res_factor"):
        x = to_low_res(examples["image"])
        num, height, width, channels = x.shape
        x = x.reshape(num, height // factor, factor, width // factor, factor, channels)
        condition["low_res"] = x.mean(axis=(2, 4))
    return condition


def _place(rows: NamedSharding, indices: np.ndarray, values: np.ndarray) -> jax.Array:
    part = values[indices]
    return jax.make_array_from_callback(part.shape, rows, part.__getitem__)


@functools.lru_cache(maxsize=16)
def _key_maker(rows: NamedSharding, num: int) -> Callable[..., jax.Array]:
    """Make keys on the devices: typed keys cannot be put on those of other processes."""

    def make(seed: jax.Array, first: jax.Array) -> jax.Array:
        return rng.per_example(jax.random.key(seed), first, num)

    return jax.jit(make, out_shardings=rows)


def check_label(num_classes: int | None, label: int | None) -> None:
    """See that a model knows the class that was asked for, if one was.

    Raises:
        ConfigError: if it does not.
    """
    if label is None:
        return
    if num_classes is None:
        raise ConfigError("--label: this model knows no classes (model.num_classes is 0)")
    if not 0 <= label < num_classes:
        raise ConfigError(f"--label: {label}; a class from 0 to {num_classes - 1} is needed")
