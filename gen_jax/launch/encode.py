"""``gen-jax encode``: a first stage's codes of a whole dataset, written once."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gen_jax.data import Source
from gen_jax.data.codes import INDEX, ROWS, read_index, shard_arrays, shard_path
from gen_jax.errors import DataError
from gen_jax.files import npz_bytes, write_file
from gen_jax.launch.stage1 import Stage1
from gen_jax.ops import keys as rng
from gen_jax.train.sharding import batch_sharding, make_mesh, replicated
from gen_jax.typing import PyTree

__all__ = ["run_encoding"]

_BATCH = 256


def run_encoding(stage1: Stage1, sources: Mapping[str, Source], *, seed: int, out: Path) -> None:
    """Write the codes of every example of some splits, from where an earlier run stopped.

    Args:
        stage1: whose codes.
        sources: by split. Their examples keep their order.
        seed: of random codes; example i's depend on the seed and on i alone.
        out: a folder; see :mod:`gen_jax.data.codes`.

    Raises:
        DataError: if the folder holds codes of another first stage, source or seed.
        StorageError: if it cannot be written.
    """
    num_codes = stage1.codec.num_categories
    index = {
        "stage1": stage1.digest,
        "image_shape": list(stage1.image_shape),
        "num_codes": num_codes,
        "seed": seed,
        "rows": ROWS,
        "splits": {
            name: {"size": source.size, "source": source.fingerprint}
            for name, source in sources.items()
        },
    }
    if (out / INDEX).exists():
        before = read_index(out)
        changed = [name for name in index if before.get(name) != index[name]]
        if changed:
            raise DataError(
                f"{out}: begun with another {', '.join(changed)}; choose a new folder, or remove it"
            )
    write_file(out / INDEX, (json.dumps(index, indent=2) + "\n").encode())

    encode, weights = _encoder(stage1)
    todo = [
        (split, number)
        for split, source in sources.items()
        for number in range(-(-source.size // ROWS))
    ]
    missing = [shard for shard in todo if not shard_path(out, *shard).exists()]
    if len(missing) < len(todo):
        print(f"{len(todo) - len(missing)} of {len(todo)} shards are there", flush=True)
    for split, number in tqdm(missing, unit="shard", disable=None):
        source = sources[split]
        indices = np.arange(number * ROWS, min((number + 1) * ROWS, source.size))
        codes, labels = _shard(encode, weights, source, indices, seed)
        arrays = shard_arrays(codes, labels, num_codes)
        write_file(shard_path(out, split, number), npz_bytes(arrays))
    sizes = ", ".join(f"{source.size:,} of {name}" for name, source in sources.items())
    print(f"codes of {sizes} in {out}; use --config.data.source=codes:{out}", flush=True)


def _encoder(stage1: Stage1) -> tuple[Callable[..., PyTree], PyTree]:
    """Compile the encoder once, its batches spread over all devices of this machine."""
    mesh = make_mesh()
    rows = batch_sharding(mesh)

    @functools.partial(jax.jit, in_shardings=(replicated(mesh), rows, None, None))
    def encode(weights: PyTree, image: jax.Array, seed: jax.Array, first: jax.Array) -> PyTree:
        keys = rng.per_example(jax.random.key(seed), first, len(image))
        return stage1.codec.encode(weights, image, keys)

    return encode, jax.device_put(stage1.weights, replicated(mesh))


def _shard(
    encode: Callable[..., PyTree], weights: PyTree, source: Source, indices: np.ndarray, seed: int
) -> tuple[Any, np.ndarray | None]:
    codes, labels = [], []
    size = -(-_BATCH // jax.device_count()) * jax.device_count()
    for begin in range(0, len(indices), size):
        rows = np.minimum(np.arange(begin, begin + size), len(indices) - 1)
        batch = source.read(indices[rows])
        kept = min(size, len(indices) - begin)
        made = encode(weights, batch["image"], np.uint32(seed), np.int32(indices[begin]))
        codes.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], made))
        if "label" in batch:
            labels.append(batch["label"][:kept])
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *codes)
    return whole, np.concatenate(labels) if labels else None
