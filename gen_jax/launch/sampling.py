"""Drawing any number of samples from a model, in batches of one shape."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gen_jax.launch.experiment import Experiment
from gen_jax.ops import keys as rng
from gen_jax.train.sharding import batch_sharding, make_mesh, replicated
from gen_jax.typing import PyTree

__all__ = ["draw_samples"]


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
    labels: np.ndarray | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> np.ndarray:
    """Draw samples, spread over all devices.

    Sample i depends on the seed and on i alone, not on the batches or the devices.

    Args:
        experiment: what to sample from.
        params: the averaged parameters.
        stats: of the model.
        num: how many samples.
        seed: in [0, 2**32).
        options: of ``Model.sample``; those left out have their defaults.
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

    mesh = make_mesh()
    rows = batch_sharding(mesh)
    params, stats, frozen = jax.device_put((params, stats, experiment.frozen), replicated(mesh))
    devices = jax.device_count()
    batch_size = -(-min(batch_size, num) // devices) * devices
    key = jax.random.key(seed)
    images = []
    steps = range(0, num, batch_size)
    for first in tqdm(steps, unit="batch", disable=None if progress else True):
        keys = jax.device_put(rng.per_example(key, first, batch_size), rows)
        cond = None
        if labels is not None:
            part = labels[np.minimum(np.arange(first, first + batch_size), num - 1)]
            cond = jax.device_put(jnp.asarray(part), rows)
        batch = sampler(params, stats, keys, frozen, cond, **traced)
        images.append(np.asarray(batch)[: num - first])
    return np.concatenate(images)
