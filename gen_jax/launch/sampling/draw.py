"""Drawing any number of samples from a model, in batches of one shape."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from gen_jax.ops import keys as rng, latents as paths
from gen_jax.ops.rows import each_batch, map_rows
from gen_jax.protocols import Model, Weights
from gen_jax.train.sharding import batch_sharding
from gen_jax.typing import PyTree

__all__ = [
    "Draw",
    "conditions_from_data",
    "decode",
    "draw_prior",
    "draw_samples",
    "draw_some",
    "encode",
    "interpolate",
]


class Draw(NamedTuple):
    """What samples are drawn with: the same for all of a job.

    ``cond`` and ``z`` are host arrays [num, ...], row i for sample i. With ``z`` samples are what
    it decodes to; without, each begins with noise of its own.
    """

    seed: int
    options: Mapping[str, Any]
    cond: Mapping[str, np.ndarray] = {}
    batch_size: int = 128
    z: PyTree = None


def draw_samples(
    model: Model,
    weights: Weights,
    draw: Draw,
    mesh: Mesh,
    num: int,
    *,
    progress: bool = False,
) -> np.ndarray:
    """Draw samples, spread over all devices of a mesh.

    Sample i depends on the seed and on i alone, not on the batches, the devices or the processes;
    all processes of a job get all samples.

    Args:
        model: what to sample from.
        weights: of the model, usually the averaged ones, on the devices of the mesh.
        draw: with what.
        mesh: whose axes ``data`` and ``fsdp`` share the samples out.
        num: how many samples.
        progress: whether to show a bar on a terminal.

    Returns:
        uint8 [num, H, W, C].
    """
    bar = tqdm(total=num, unit="sample", disable=None if progress else True)
    images = list(draw_some(model, weights, draw, mesh, 0, num, bar))
    bar.close()
    return np.concatenate(images)


def draw_some(
    model: Model, weights: Weights, draw: Draw, mesh: Mesh, first: int, end: int, bar: tqdm
) -> Iterator[np.ndarray]:
    """Draw samples ``first`` to ``end - 1`` of a job, a batch at a time."""
    sampler = model.sampler
    assert sampler is not None
    static, traced = _split(model, draw.options, draw.cond)
    sharding = batch_sharding(mesh)
    rows = {"cond": dict(draw.cond), "index": np.broadcast_to(np.int8(0), end)}
    if draw.z is None:
        run = _compiled(sampler.draw, static)

        def make(batch: Mapping[str, Any], index: np.int32) -> jax.Array:
            keys = _key_maker(sharding, len(batch["index"]))(np.uint32(draw.seed), index)
            return run(weights, keys, batch["cond"], **traced)
    else:
        assert model.latents is not None
        decode_z = _compiled(model.latents.decode, static)
        rows["z"] = draw.z

        def make(batch: Mapping[str, Any], index: np.int32) -> jax.Array:
            del index
            return decode_z(weights, batch["z"], batch["cond"], **traced)

    for images in each_batch(make, rows, draw.batch_size, sharding, first, end):
        yield images
        bar.update(len(images))


def _split(
    model: Model, options: Mapping[str, Any], told: Collection[str] | None = None
) -> tuple[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """Tell options that are compiled in from numbers and arrays that are not.

    With ``told``, names of what the model is told, the sampler computes ahead what it can.
    """
    known = model.sampler.options if model.sampler is not None else {}
    if model.sampler is not None and told is not None:
        options = model.sampler.ahead(options, told)
    arrays = (float, np.ndarray, np.generic)
    static = {
        name: value
        for name, value in options.items()
        if (known[name].static if name in known else not isinstance(value, arrays))
    }
    traced = {name: value for name, value in options.items() if name not in static}
    return tuple(sorted(static.items())), traced


@functools.lru_cache(maxsize=16)
def _compiled(
    function: Callable[..., Any], static: tuple[tuple[str, Any], ...]
) -> Callable[..., Any]:
    """Keep the jitted function: a new one for every picture of a run would be compiled anew."""
    return jax.jit(functools.partial(function, **dict(static)))


@functools.lru_cache(maxsize=16)
def _key_maker(rows: NamedSharding, num: int) -> Callable[..., jax.Array]:
    """Make keys on the devices: typed keys cannot be put on those of other processes."""

    def make(seed: jax.Array, first: jax.Array) -> jax.Array:
        return rng.per_example(jax.random.key(seed), first, num)

    return jax.jit(make, out_shardings=rows)


def draw_prior(model: Model, *, seed: int, num: int) -> Any:
    """Draw the latents that samples 0 to ``num - 1`` begin with, on the host, [num, ...]."""
    assert model.latents is not None
    prior = model.latents.prior
    assert prior is not None

    def make(index: np.ndarray, first: np.int32) -> PyTree:
        return _prior(prior, len(index))(np.uint32(seed), first)

    return map_rows(make, np.broadcast_to(np.int8(0), num), 1024)


@functools.lru_cache(maxsize=16)
def _prior(prior: Callable[..., PyTree], num: int) -> Callable[..., PyTree]:
    return jax.jit(lambda seed, first: prior(rng.per_example(jax.random.key(seed), first, num)))


def encode(
    model: Model, weights: Weights, draw: Draw, images: np.ndarray, mesh: Mesh | None = None
) -> Any:
    """Find the latents of images, on the host, [num, ...]; random codes are their means.

    Args:
        model: with latents that can be encoded.
        weights: of the model.
        draw: options and what the model is told of each image.
        images: uint8 [num, H, W, C].
        mesh: whose devices share the images; None for one device.
    """
    assert model.latents is not None
    assert model.latents.encode is not None
    static, traced = _split(model, draw.options)
    run = _compiled(model.latents.encode, static)
    rows = {"image": images, "cond": dict(draw.cond)}

    def make(batch: Mapping[str, Any], _: np.int32) -> PyTree:
        return run(weights, batch["image"], batch["cond"], **traced)

    return map_rows(make, rows, draw.batch_size, None if mesh is None else batch_sharding(mesh))


def decode(model: Model, weights: Weights, draw: Draw) -> np.ndarray:
    """Decode the latents of a draw, uint8 [num, H, W, C]."""
    assert model.latents is not None
    static, traced = _split(model, draw.options, draw.cond)
    run = _compiled(model.latents.decode, static)

    def make(batch: Mapping[str, Any], _: np.int32) -> PyTree:
        return run(weights, batch["z"], batch["cond"], **traced)

    return map_rows(make, {"z": draw.z, "cond": dict(draw.cond)}, draw.batch_size)


def interpolate(
    draw: Draw, begin: np.ndarray, end: np.ndarray, steps: int, path: str = "slerp"
) -> Draw:
    """Lay ways between latents: ``steps`` points from each of ``begin`` to its ``end``.

    Args:
        draw: whose ``cond`` holds a row for each way.
        begin: latents [num, ...].
        end: likewise.
        steps: points of each way, both ends included.
        path: ``"slerp"`` for great circles, on which normal latents stay likely, or ``"lerp"``.

    Returns:
        A draw of ``num * steps`` samples, way after way, each told what its way is.
    """
    go = jax.vmap({"lerp": paths.lerp, "slerp": paths.slerp}[path], in_axes=(0, 0, None))
    points = go(jnp.asarray(begin), jnp.asarray(end), jnp.linspace(0.0, 1.0, steps))
    rows = np.repeat(np.arange(len(begin)), steps)
    return draw._replace(
        cond={name: x[rows] for name, x in draw.cond.items()},
        z=np.asarray(points).reshape(-1, *begin.shape[1:]),
    )


def conditions_from_data(
    model: Model, examples: Mapping[str, Any], *, every_class: bool
) -> dict[str, np.ndarray]:
    """Take what a model is told from examples of its data, or derive it of their images.

    Args:
        model: whose inputs say what that is.
        examples: arrays [num, ...], ``image`` among them.
        every_class: tell all classes in turn, in place of the examples' own.
    """
    cond = {}
    for name, given in model.inputs.items():
        if not given.needed:
            continue
        if given.kind == "label" and every_class:
            assert given.size is not None
            num = len(examples["image"])
            cond[name] = (np.arange(num) % given.size).astype(np.int32)
        elif name in examples:
            cond[name] = np.asarray(examples[name])
        else:
            assert given.derive is not None
            cond[name] = np.asarray(given.derive(jnp.asarray(examples["image"])))
    return cond
