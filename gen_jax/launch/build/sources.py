"""The data that a config names, and whether it is what its model needs."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gen_jax.errors import DataError

if TYPE_CHECKING:
    from gen_jax.launch.build.experiment import Experiment
    from gen_jax.protocols import Input

__all__ = ["brings_noise", "check_noise", "check_source", "open_split"]


def open_split(config: Mapping[str, Any], split: str) -> Any:
    """Open a split of the config's source.

    Args:
        config: without faults.
        split: ``"train"``, ``"validation"`` (what was held out of it) or ``"test"``.

    Raises:
        DataError: if the source cannot be opened.
    """
    from gen_jax.data import beside, hold_out, named_by, open_source

    data = config["data"]
    name = "train" if split == "validation" else split
    place = data["source"], name, tuple(data["shape"]), data["dir"] or None
    source = open_source(*place, data["max_pixels"], sixteen_bit=data["sixteen_bit"])
    if data["captions"]:
        source = named_by(source, data["captions"])
    if name == "train" and data["holdout"]:
        source = hold_out(source, data["holdout"])[split == "validation"]
    elif split == "validation":
        raise DataError(f"{source.name}: nothing was held out for validation (data.holdout is 0)")
    if not data["other"]:
        return source
    place = (data["other"], *place[1:])
    return beside(source, open_source(*place, data["max_pixels"], sixteen_bit=data["sixteen_bit"]))


def check_source(source: Any, experiment: "Experiment", config: Mapping[str, Any]) -> None:
    """Check that a source brings what a model is told, and what it models.

    Args:
        source: of images, or of a first stage's codes.
        experiment: whose model it is for.
        config: without faults.

    Raises:
        DataError: naming what is missing, or does not fit.
    """
    check_codes(source, experiment.stage1_digest)
    for name, given in experiment.model.inputs.items():
        if not given.needed or given.derive is not None:
            continue
        if given.kind == "label":
            _check_labels(source, given)
        elif given.kind == "tokens" and source.captions is not None:
            continue  # made of its captions, wherever these are
        else:
            whole = {"image": source.image_shape, "mask": (*source.image_shape[:2], 1)}
            shape = given.shape or whole.get(given.kind, ())
            _check_array(source, name, given._replace(shape=shape))
    _check_noise_and_moves(source, config)


def _check_labels(source: Any, given: "Input") -> None:
    wanted = given.size or 0
    if source.num_classes is None:
        raise DataError(f"{source.name}: no classes, but model.num_classes is {wanted}")
    if source.num_classes > wanted:
        raise DataError(
            f"{source.name}: {source.num_classes} classes, but model.num_classes is {wanted}"
            f"{_first_too_large(source, wanted)}"
        )
    if source.num_classes < wanted:
        print(
            f"gen_jax: data: {source.name}: {source.num_classes} classes, but model.num_classes is "
            f"{wanted}: nothing is known of classes {source.num_classes} to {wanted - 1}",
            file=sys.stderr,
            flush=True,
        )


def _check_array(source: Any, name: str, given: "Input") -> None:
    """Check one array that examples must hold beside the image."""
    needed = ", ".join("L" if dim == -1 else str(dim) for dim in given.shape)
    found = None
    if source.in_memory and source.stage1 is None:
        found = source.read(np.zeros(1, np.int64)).get(name)
    if found is None:
        raise DataError(f"{source.name}: no {name}, but this model is told [{needed}]")
    shape = found.shape[1:]
    fits = len(shape) == len(given.shape) and all(
        wanted in (-1, size) for wanted, size in zip(given.shape, shape, strict=True)
    )
    if given.shape and not fits:
        raise DataError(
            f"{source.name}: {name} of {list(shape)}, but this model is told [{needed}]"
        )


def _check_noise_and_moves(source: Any, config: Mapping[str, Any]) -> None:
    moved = config["data"]["flip"] or config["data"]["crop"]
    if moved and brings_noise(source):
        raise DataError(
            f"{source.name}: images with their noise; data.flip, data.crop would move them"
        )


def brings_noise(source: Any) -> bool:
    """Return whether images come with the noise that belongs to each."""
    if not source.in_memory or source.stage1 is not None:
        return False
    return "eps" in source.read(np.zeros(1, np.int64))


def check_codes(source: Any, digest: str | None) -> None:
    """Check that codes made beforehand are those of the first stage at hand.

    Raises:
        DataError: if they are not.
    """
    if source.stage1 in (None, digest):
        return
    if digest is None:
        raise DataError(f"{source.name}: holds codes; --data names images")
    raise DataError(
        f"{source.name}: made by another first stage than stage1: {source.stage1[:12]} instead "
        f"of {digest[:12]}; run `gen-jax encode` with this one"
    )


def check_noise(source: Any, experiment: "Experiment") -> None:
    """Check that noise which images come with is noise of this model.

    Args:
        source: of the training data.
        experiment: whose model it is for.

    Raises:
        DataError: if it is not.
    """
    if not source.in_memory or source.stage1 is not None:
        return
    example = source.read(np.zeros(1, np.int64))
    if "eps" not in example:
        return
    latents = experiment.model.latents
    if latents is None or latents.prior is None or latents.cost == 1:
        raise DataError(f"{source.name}: images with their noise; this family begins with none")
    if experiment.stage1_digest is not None:
        raise DataError(
            f"{source.name}: images with their noise; over a first stage's codes they would not be "
            "pairs: encoding an image does not give back the codes that it was decoded from"
        )
    import jax

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    wanted = jax.eval_shape(latents.prior, keys).shape[1:]
    found = example["eps"].shape[1:]
    if found != wanted:
        raise DataError(
            f"{source.name}: noise: {list(found)}; {list(wanted)} is required, the shape of what "
            "is modeled"
        )


def _first_too_large(source: Any, wanted: int) -> str:
    """Name the first label beyond the classes, where looking for it is quick."""
    for first in range(0, source.size if source.in_memory else 0, 1024):
        rows = np.arange(first, min(first + 1024, source.size))
        labels = source.read(rows)["label"]
        if (labels >= wanted).any():
            index = int(np.argmax(labels >= wanted))
            return f": index {first + index}: label {labels[index]}"
    return ""
