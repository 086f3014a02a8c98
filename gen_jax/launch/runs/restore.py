"""What a work directory holds: a model with its averaged weights, or a first stage's codec."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gen_jax.codecs import pretrained
from gen_jax.data.text import Tokenizer
from gen_jax.errors import CheckpointError
from gen_jax.launch.build.experiment import Experiment, Stage, Stage1, abstract_state, build
from gen_jax.launch.config.files import from_json
from gen_jax.launch.config.parts import ADVERSARY
from gen_jax.launch.config.schema import RENAMED, find_faults
from gen_jax.launch.runs.newest import newest_good_beside
from gen_jax.launch.runs.tokens import load_tokenizer
from gen_jax.launch.runs.workdir import STAGE1, checkpoint_steps, stage_places
from gen_jax.protocols import Model, Weights
from gen_jax.train import checkpoint
from gen_jax.train.sharding import make_mesh, replicated

__all__ = [
    "Saved",
    "Trained",
    "check_has_codes",
    "load_codec",
    "load_stage",
    "load_stages",
    "load_trained",
    "load_weights",
]


class Saved(NamedTuple):
    """What a work directory holds, on the host."""

    config: Mapping[str, Any]
    experiment: Experiment
    step: int
    weights: Weights  # the averaged ones
    digest: str  # of the weights


class Trained(NamedTuple):
    """What a work directory holds: enough to sample and to evaluate."""

    config: Mapping[str, Any]
    experiment: Experiment
    step: int
    weights: Weights  # the averaged ones
    digest: str  # of the weights
    mesh: Mesh  # of this machine's devices, on all of which the weights are
    tokenizer: Tokenizer | None = None  # of a model that is told a text
    target_tokenizer: Tokenizer | None = None  # of what guides it toward a text


def load_weights(workdir: Path, *, whole: bool = False) -> Saved:
    """Build the model of a work directory and restore its latest good averaged weights.

    A training job may be running there: what is read is always one whole step, as it was saved.
    With ``whole`` also what only losses need: players that are not averaged, a perceptual network.

    Raises:
        CheckpointError: if there is no config or no checkpoint, or they do not fit.
    """
    config = from_json(workdir / "config.json")
    if not checkpoint_steps(workdir):
        raise CheckpointError(f"{workdir}: no checkpoint yet")
    own = {name: workdir / name for name in stage_places(config)}
    experiment = build(_without_training_faults(config, workdir), *load_stages(own))
    if whole:
        experiment = experiment.with_training_frozen()
    abstract = abstract_state(experiment, tuple(config["data"]["shape"]))
    folder = workdir / "checkpoints"

    def read(step: int) -> Any:
        return checkpoint.restore_weights(folder, step, abstract, whole=whole)

    found = newest_good_beside(workdir, read)
    if found is None:
        raise CheckpointError(f"{workdir}: no checkpoint any more")
    step, (arrays_of, meta) = found
    arrays = sorted(meta["spec"].items())
    kept = (".ema_params", ".stats")
    digests = "".join(x[2] for name, x in arrays if name.startswith(kept))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:16]
    weights = Weights(arrays_of["ema_params"], arrays_of["stats"], experiment.frozen)
    return Saved(config, experiment, step, weights, digest)


# What a run of an earlier version may have been trained with, and what is built in its place: of
# training alone, but that noise depended on the data is remembered.
_BEGINS_OTHERWISE: Mapping[str, Mapping[str, Any]] = {
    "diffusion.pairing": {"pairing": False, "coupled": True},
    "diffusion.weighting": {"weighting": "none"},
    "diffusion.objective": {"pairing": False, "coupled": False},
}


def _without_training_faults(config: Mapping[str, Any], workdir: Path) -> Mapping[str, Any]:
    """Let a run be looked at that today could not begin, and say what is wrong with it."""
    for fault in find_faults(config, new=True):
        if changes := _BEGINS_OTHERWISE.get(fault.field):
            print(f"gen_jax: config: {workdir}: {fault}", file=sys.stderr, flush=True)
            config = {**config, "diffusion": {**config["diffusion"], **changes}}
    return config


def load_trained(workdir: Path, *, whole: bool = False) -> Trained:
    """Load a work directory's model onto all of this machine's devices, as :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    saved = load_weights(workdir, whole=whole)
    mesh = make_mesh()
    weights = jax.device_put(saved.weights, replicated(mesh))
    experiment = saved.experiment._replace(frozen=weights.frozen)
    tokenizer = load_tokenizer(saved.config, workdir)
    return Trained(saved.config, experiment, saved.step, weights, saved.digest, mesh, tokenizer)


def load_stages(places: Mapping[str, Path]) -> tuple[Stage1 | None, dict[str, Stage]]:
    """Load what a model is built over: a first stage's codec, and other frozen stages by name.

    Those that only sampling asks for are looked at by nobody here.

    Args:
        places: work directories, mostly a run's own copies, by the names of stages.

    Raises:
        CheckpointError: naming the stage that is missing or damaged.
    """
    stage1 = load_codec(places[STAGE1]) if STAGE1 in places else None
    return stage1, {name: load_stage(places[name]) for name in _OF_TRAINING if name in places}


_OF_TRAINING = ("text", "clip", "image")


def load_stage(workdir: Path) -> Stage:
    """Load a frozen stage, with what only its losses need left out.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    saved = load_weights(workdir)
    weights = jax.tree.map(np.asarray, saved.weights)
    return Stage(saved.config, saved.experiment.model, weights, saved.digest)


def load_codec(workdir: Path, saved: Saved | None = None) -> Stage1:
    """Rebuild a first stage from its own saved config and its latest averaged weights.

    Args:
        workdir: of its training, or what :func:`gen_jax.launch.runs.stages.take_over` made of it.
        saved: what it holds, where that was read already.

    Raises:
        CheckpointError: if it cannot be read, or is of a family that has no codes.
    """
    saved = load_weights(workdir) if saved is None else saved
    check_has_codes(workdir, saved.config["family"], saved.experiment.model)
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
    # Under the names that fields had at first: the digest of a run must never change.
    old = {new.partition(".")[2]: name.partition(".")[2] for name, new in RENAMED.items()}
    # An adversary is of training alone, and came later; so did quantizers of several scales.
    later = {name.partition(".")[2] for name in ADVERSARY}
    if config["model"].get("quantizer") != "multi_scale":
        later |= {"scales", "num_phi"}
    model = sorted(
        (old.get(name, name), value) for name, value in config["model"].items() if name not in later
    )
    sha = hashlib.sha256(repr((config["family"], model)).encode())
    arrays = {"params": weights.params, "stats": weights.stats}
    for path, x in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        sha.update(f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def check_has_codes(workdir: Path, family: str, model: Model) -> None:
    """Check that a model can be a first stage.

    Raises:
        CheckpointError: if it has no codes, or they need a condition.
    """
    latents = model.latents
    if latents is None or latents.encode is None or latents.cost > 1:
        raise CheckpointError(
            f"{workdir}: {family!r} has no codes to model; an autoencoder, or a tokenizer, has"
        )
    if needed := [name for name, given in model.inputs.items() if given.needed]:
        raise CheckpointError(
            f"{workdir}: its codes need a {needed[0]}, which a second stage has not"
        )
