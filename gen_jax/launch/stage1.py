"""A trained first stage as the codec of a second one.

A second stage's work directory is complete: at its start it takes over what it needs of the first
stage's, as ``W/stage1/``, laid out like a work directory, and never looks at the original again.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import CheckpointError, StorageError
from gen_jax.launch.configfile import from_json
from gen_jax.protocols import Codec
from gen_jax.typing import PyTree

__all__ = ["Stage1", "load_codec", "take_over"]

FOLDER = "stage1"


class Stage1(NamedTuple):
    """A frozen map between images and codes, and what it was made of."""

    codec: Codec
    weights: PyTree  # of the codec, on the host
    image_shape: tuple[int, int, int]
    code_shape: tuple[int, ...]
    digest: str  # of config and weights


def load_codec(workdir: Path) -> Stage1:
    """Rebuild a first stage from its own saved config and its latest averaged weights.

    Args:
        workdir: of its training, or what :func:`take_over` made of it.

    Raises:
        CheckpointError: if it cannot be read, or is of a family that has no codes.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gen_jax.codecs import pretrained
    from gen_jax.launch.workdir import load_weights

    saved = load_weights(workdir)
    shape = tuple(saved.config["data"]["shape"])
    if saved.experiment.num_classes:
        raise CheckpointError(f"{workdir}: its codes need a label, which a second stage has not")
    try:
        codec = pretrained(saved.experiment.model)
    except ValueError as error:
        family = saved.config["family"]
        raise CheckpointError(f"{workdir}: {family!r} has no codes to model") from error
    weights = jax.tree.map(np.asarray, {"params": saved.params, "stats": saved.stats})
    code = jax.eval_shape(
        codec.encode,
        weights,
        jax.ShapeDtypeStruct((1, *shape), jnp.uint8),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    )
    digest = _digest(saved.config, weights)
    return Stage1(codec, weights, shape, tuple(code.shape[1:]), digest)


def _digest(config: Mapping[str, Any], weights: PyTree) -> str:
    import jax

    sha = hashlib.sha256(repr((config["family"], sorted(config["model"].items()))).encode())
    for path, x in jax.tree_util.tree_flatten_with_path(weights)[0]:
        sha.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def take_over(source: Path, workdir: Path) -> None:
    """Copy a first stage's config and latest weights to ``workdir/stage1``, whole or not at all.

    Does nothing if they are there already: a run keeps the first stage that it began with.

    Raises:
        CheckpointError: if the source holds no complete checkpoint.
        StorageError: if they cannot be written.
    """
    from gen_jax.train.checkpoint import latest_step, open_checkpoints

    target = workdir / FOLDER
    if target.is_dir():
        return
    from_json(source / "config.json")
    with open_checkpoints(source / "checkpoints", read_only=True) as manager:
        step = latest_step(manager)
    if step is None:
        raise CheckpointError(f"{source}: no complete checkpoint yet")
    temporary = workdir / f".{FOLDER}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        shutil.copy(source / "config.json", temporary / "config.json")
        # The optimiser's state, most of a checkpoint, is not needed.
        shutil.copytree(
            source / "checkpoints" / str(step),
            temporary / "checkpoints" / str(step),
            ignore=shutil.ignore_patterns("training"),
        )
        temporary.replace(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
