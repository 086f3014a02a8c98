"""Systems of several stages: what sampling draws with beside the model itself."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from gen_jax.errors import CheckpointError
from gen_jax.launch.config.files import from_json
from gen_jax.launch.runs.restore import Trained, load_trained
from gen_jax.launch.runs.tokens import digest_of, load_tokenizer
from gen_jax.launch.runs.workdir import stage_places
from gen_jax.models.stages import with_base, with_prior
from gen_jax.protocols import Model

__all__ = ["with_stages"]

_JOIN: dict[str, Callable[[Model, Model], Model]] = {"base": with_base, "prior": with_prior}


def with_stages(trained: Trained, workdir: Path) -> Trained:
    """Let a model draw with the stages that its work directory holds for that.

    Args:
        trained: of the work directory.
        workdir: with a copy of each stage, which may have stages of its own.

    Returns:
        One model, told what all are told; its digest is of all their weights.

    Raises:
        CheckpointError: naming the stage that is damaged, or whose texts are other tokens.
    """
    places = stage_places(trained.config)
    if "clip" in places:
        clip = workdir / "clip"
        config = from_json(clip / "config.json")
        trained = trained._replace(target_tokenizer=load_tokenizer(config, clip))
    for name, join in _JOIN.items():
        if name not in places:
            continue
        other = with_stages(load_trained(workdir / name), workdir / name)
        _check(name, trained, other)
        frozen = {**trained.weights.frozen, name: other.weights}
        model = join(trained.experiment.model, other.experiment.model)
        both = hashlib.sha256(f"{trained.digest} {other.digest}".encode()).hexdigest()[:16]
        trained = trained._replace(
            experiment=trained.experiment._replace(model=model, frozen=frozen),
            weights=trained.weights._replace(frozen=frozen),
            tokenizer=trained.tokenizer or other.tokenizer,
            digest=both,
        )
    return trained


def _check(name: str, trained: Trained, other: Trained) -> None:
    """Check that what both are told is the same."""
    ours, theirs = (digest_of(x.tokenizer) for x in (trained, other))
    if ours is not None and theirs is not None and ours != theirs:
        raise CheckpointError(
            f"stages.{name}: its texts are other tokens than this model's; both need one "
            "vocabulary, as of one frozen stage"
        )
    labels = [x.experiment.num_classes for x in (trained, other)]
    if None not in labels and labels[0] != labels[1]:
        raise CheckpointError(f"stages.{name}: has {labels[1]} classes, this model {labels[0]}")
