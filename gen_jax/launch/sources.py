"""The data that a config names, seen to be what its model needs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gen_jax.errors import DataError

__all__ = ["check_codes", "check_noise", "open_checked"]


def open_checked(config: Mapping[str, Any], split: str) -> Any:
    """Open the config's source, and see that its labels are those the model is conditioned on.

    Args:
        config: without faults.
        split: ``"train"``, ``"validation"`` (what was held out of it) or ``"test"``.

    Raises:
        DataError: if the source cannot be opened, or has no labels, or too many.
    """
    from gen_jax.data import hold_out, open_source

    data = config["data"]
    name = "train" if split == "validation" else split
    source = open_source(data["source"], name, tuple(data["shape"]), data["dir"] or None)
    if name == "train" and data["holdout"]:
        source = hold_out(source, data["holdout"])[split == "validation"]
    elif split == "validation":
        raise DataError(f"{source.name}: nothing was held out for validation (data.holdout is 0)")
    wanted = config["model"].get("num_classes", 0)
    if wanted and source.num_classes is None:
        raise DataError(f"{source.name}: no classes, but model.num_classes is {wanted}")
    if wanted and source.num_classes > wanted:
        raise DataError(
            f"{source.name}: {source.num_classes} classes, but model.num_classes is {wanted}"
            f"{_first_too_large(source, wanted)}"
        )
    _check_extras(source, config)
    return source


def _check_extras(source: Any, config: Mapping[str, Any]) -> None:
    """See that a source has the sequences that a model looks at, and what noise it brings."""
    dim = config["model"].get("context_dim", 0)
    if not source.in_memory or source.stage1 is not None:
        if dim:
            raise DataError(f"{source.name}: no context, but model.context_dim is {dim}")
        return
    example = source.read(np.zeros(1, np.int64))
    context = example.get("context")
    if dim and (context is None or context.ndim != 3 or context.shape[-1] != dim):
        what = "no context" if context is None else f"context of {list(context.shape[1:])}"
        raise DataError(f"{source.name}: {what}, but model.context_dim is {dim}")
    if "eps" in example and (config["data"]["flip"] or config["data"]["crop"]):
        raise DataError(
            f"{source.name}: images with their noise; data.flip, data.crop would move them"
        )


def check_codes(source: Any, digest: str | None) -> None:
    """See that codes made beforehand are those of the first stage at hand.

    Raises:
        DataError: if they are not.
    """
    if source.stage1 is not None and source.stage1 != digest:
        raise DataError(
            f"{source.name}: made by another first stage than stage1: {source.stage1[:12]} instead "
            f"of {digest[:12] if digest else 'none'}; run `gen-jax encode` with this one"
        )


def check_noise(source: Any, start_noise: Any, of_codes: bool = False) -> None:
    """See that noise which images come with is noise of this model.

    Args:
        source: of the training data.
        start_noise: the model's.
        of_codes: whether it models a first stage's codes.

    Raises:
        DataError: if it is not.
    """
    if not source.in_memory or source.stage1 is not None:
        return
    example = source.read(np.zeros(1, np.int64))
    if "eps" not in example:
        return
    if start_noise is None:
        raise DataError(f"{source.name}: images with their noise; this family begins with none")
    if of_codes:
        raise DataError(
            f"{source.name}: images with their noise; over a first stage's codes they would not be "
            "pairs: encoding an image does not give back the codes that it was decoded from"
        )
    import jax

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    wanted = jax.eval_shape(start_noise, keys).shape[1:]
    found = example["eps"].shape[1:]
    if found != wanted:
        raise DataError(
            f"{source.name}: noise: {list(found)}; {list(wanted)} is needed, the shape of what is "
            "modelled"
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
