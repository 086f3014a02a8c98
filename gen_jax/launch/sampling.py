"""Drawing any number of samples from a model, in batches of one shape."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from gen_jax.errors import ConfigError
from gen_jax.launch.experiment import Experiment
from gen_jax.ops import keys as rng
from gen_jax.train.sharding import batch_sharding
from gen_jax.typing import PyTree

__all__ = ["check_label", "draw_samples"]


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
        batch_size: samples drawn at once; rounded up to a multiple of the devices.
        progress: whether to show a bar on a terminal.

    Returns:
        uint8 [num, H, W, C].
    """
    known = experiment.model.sample_options
    static = {name: value for name, value in options.items() if known[name].static}
    traced = {name: value for name, value in options.items() if not known[name].static}
    sampler = _compiled(experiment.model.sample, tuple(sorted(static.items())))

    rows = batch_sharding(mesh)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-min(batch_size, num) // parts) * parts
    make_keys = _key_maker(rows, batch_size)
    images = []
    steps = range(0, num, batch_size)
    for first in tqdm(steps, unit="batch", disable=None if progress else True):
        cond = None
        if labels is not None:
            part = labels[np.minimum(np.arange(first, first + batch_size), num - 1)]
            cond = jax.make_array_from_callback(part.shape, rows, part.__getitem__)
        keys = make_keys(np.uint32(seed), np.int32(first))
        batch = sampler(params, stats, keys, experiment.frozen, cond, **traced)
        images.append(multihost_utils.process_allgather(batch, tiled=True)[: num - first])
    return np.concatenate(images)


@functools.lru_cache(maxsize=16)
def _key_maker(rows: jax.sharding.NamedSharding, num: int) -> Callable[..., jax.Array]:
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
