"""``gen-jax encode``: a first stage's codes of a whole dataset, written once."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from tqdm import tqdm

from gen_jax.data import Source
from gen_jax.data.codes import (
    INDEX,
    ROWS,
    origin,
    read_index,
    read_shard,
    shard_arrays,
    shard_path,
)
from gen_jax.errors import DataError
from gen_jax.files import npz_bytes, write_file
from gen_jax.launch.build.experiment import Stage1
from gen_jax.ops import keys as rng
from gen_jax.ops.rows import map_rows
from gen_jax.train.sharding import batch_sharding, make_mesh, replicated
from gen_jax.typing import PyTree

__all__ = ["run_encoding"]


def run_encoding(
    stage1: Stage1, sources: Mapping[str, Source], *, seed: int, batch_size: int, out: Path
) -> None:
    """Write the codes of every example of some splits, from where an earlier run stopped.

    Args:
        stage1: whose codes.
        sources: by split. Their examples keep their order.
        seed: of random codes; example i's depend on the seed, the split and i alone.
        batch_size: images at once.
        out: a folder; see :mod:`gen_jax.data.codes`.

    Raises:
        DataError: if the folder holds codes of another first stage, source or seed.
        StorageError: if it cannot be written.
    """
    for source in sources.values():
        if source.stage1 is not None:
            raise DataError(f"{source.name}: holds codes; images are required")
    num_codes = stage1.codec.num_categories
    index: dict[str, Any] = {
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
        index["splits"] = {**before["splits"], **index["splits"]}
        changed = [name for name in index if name != "splits" and before.get(name) != index[name]]
        changed += [f"{name} split" for name in before["splits"] if _moved(before, index, name)]
        if changed:
            raise DataError(
                f"{out}: begun with another {', '.join(changed)}; choose a new folder, or remove "
                "this one with all that is in it"
            )
    write_file(out / INDEX, (json.dumps(index, indent=2) + "\n").encode())

    encode, weights, sharding = _encoder(stage1)
    todo = [
        (split, number)
        for split, source in sources.items()
        for number in range(-(-source.size // ROWS))
    ]
    missing = [shard for shard in todo if not _is_there(out, index, *shard)]
    if len(missing) < len(todo):
        print(f"{len(todo) - len(missing)} of {len(todo)} shards are there", flush=True)
    for split, number in tqdm(missing, unit="shard", disable=None):
        source = sources[split]
        indices = np.arange(number * ROWS, min((number + 1) * ROWS, source.size))
        codes, labels = _shard(
            functools.partial(encode, weights, seed=np.uint32(seed), split=_number(split)),
            source,
            indices,
            batch_size,
            sharding,
        )
        arrays = shard_arrays(codes, labels, num_codes, origin(index, split, number))
        write_file(shard_path(out, split, number), npz_bytes(arrays))
    sizes = ", ".join(f"{source.size:,} of {name}" for name, source in sources.items())
    print(f"codes of {sizes} in {out}; use --config.data.source=codes:{out}", flush=True)


def _moved(before: Mapping[str, Any], index: Mapping[str, Any], split: str) -> bool:
    return bool(before["splits"][split] != index["splits"][split])


def _number(split: str) -> np.int32:
    return np.int32(split == "test")


def _is_there(out: Path, index: Mapping[str, Any], split: str, number: int) -> bool:
    """Check whether a shard is whole and of this run; what is not is written again."""
    try:
        read_shard(out, index, split, number)
    except DataError:
        return False
    return True


def _encoder(stage1: Stage1) -> tuple[Callable[..., PyTree], PyTree, NamedSharding]:
    """Compile the encoder once, its batches spread over all devices of this machine."""
    mesh = make_mesh()

    @jax.jit
    def encode(
        weights: PyTree, image: jax.Array, first: jax.Array, *, seed: jax.Array, split: jax.Array
    ) -> PyTree:
        key = jax.random.fold_in(jax.random.key(seed), split)
        return stage1.codec.encode(weights, image, rng.per_example(key, first, len(image)))

    return encode, jax.device_put(stage1.weights, replicated(mesh)), batch_sharding(mesh)


def _shard(
    encode: Callable[..., PyTree],
    source: Source,
    indices: np.ndarray,
    batch_size: int,
    sharding: NamedSharding,
) -> tuple[Any, np.ndarray | None]:
    examples = source.read(indices)

    def make(image: jax.Array, first: np.int32) -> PyTree:
        return encode(image, np.int32(indices[first]))

    return map_rows(make, examples["image"], batch_size, sharding), examples.get("label")
