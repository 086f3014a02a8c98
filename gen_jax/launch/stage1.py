"""A trained first stage as the codec of a second one.

A second stage's work directory is complete: at its start it takes over what it needs of the first
stage's, as ``W/stage1/``, laid out like a work directory, and never looks at the original again.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import CheckpointError, StorageError
from gen_jax.launch.resume import checkpoint_steps
from gen_jax.protocols import Codec, Model, Weights

__all__ = ["FOLDER", "Stage1", "load_codec", "see_that_it_is_there", "take_over"]

FOLDER = "stage1"


class Stage1(NamedTuple):
    """A frozen map between images and codes, and what it was made of."""

    codec: Codec
    weights: Weights  # of the codec, on the host
    image_shape: tuple[int, int, int]
    code_shape: Any  # a tuple, or tuples by name of several grids
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
    _check_codes(workdir, saved.config["family"], saved.experiment.model)
    shape = tuple(saved.config["data"]["shape"])
    codec = pretrained(saved.experiment.model)
    weights = jax.tree.map(np.asarray, saved.weights)
    code = jax.eval_shape(
        codec.encode,
        weights,
        jax.ShapeDtypeStruct((1, *shape), jnp.uint8),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    )
    shapes = jax.tree.map(lambda x: tuple(x.shape[1:]), code)
    return Stage1(codec, weights, shape, shapes, _digest(saved.config, weights))


def _digest(config: Mapping[str, Any], weights: Weights) -> str:
    import jax

    sha = hashlib.sha256(repr((config["family"], sorted(config["model"].items()))).encode())
    arrays = {"params": weights.params, "stats": weights.stats}
    for path, x in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        sha.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def take_over(source: Path, workdir: Path) -> None:
    """Copy a first stage's config and latest weights to ``workdir/stage1``, whole or not at all.

    Does nothing where a run has checkpoints: it keeps the first stage that it began with. Speaks to
    no other process.

    Raises:
        CheckpointError: if the source is of a family without codes, or has no complete checkpoint.
        StorageError: if they cannot be written.
    """
    from gen_jax.launch.workdir import load_weights

    target = workdir / FOLDER
    if target.is_dir() and checkpoint_steps(workdir):
        return
    for attempt in reversed(range(3)):
        saved = load_weights(source)  # the newest that is what was saved
        _check_codes(source, saved.config["family"], saved.experiment.model)
        try:
            _copy(source, saved.step, workdir)
        except CheckpointError:  # a running job has deleted it meanwhile
            if not attempt:
                raise
        else:
            return


def _copy(source: Path, step: int, workdir: Path) -> None:
    target, temporary = workdir / FOLDER, workdir / f".{FOLDER}.tmp"
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
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except (shutil.Error, FileNotFoundError) as error:  # mostly because training removed them
        raise CheckpointError(
            f"{source}: step {step} could not be copied; try again, or after its training"
        ) from error
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def see_that_it_is_there(workdir: Path, patience_s: float = 10.0) -> None:
    """Wait until what the first process took over is seen here too, over a network's file system.

    Raises:
        CheckpointError: if it does not come.
    """
    end = time.monotonic() + patience_s
    while not checkpoint_steps(workdir / FOLDER):
        if time.monotonic() > end:
            raise CheckpointError(f"{workdir / FOLDER}: not there, or without a checkpoint")
        time.sleep(0.2)


def _check_codes(workdir: Path, family: str, model: Model) -> None:
    latents = model.latents
    if latents is None or latents.encode is None or latents.cost > 1:
        raise CheckpointError(
            f"{workdir}: {family!r} has no codes to model; an autoencoder or a tokenizer is needed"
        )
    if needed := [name for name, given in model.inputs.items() if given.needed]:
        raise CheckpointError(
            f"{workdir}: its codes need a {needed[0]}, which a second stage has not"
        )
