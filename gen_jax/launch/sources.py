"""The data that a config names, seen to be what its model needs."""

from collections.abc import Mapping
from typing import Any

from gen_jax.errors import DataError

__all__ = ["check_codes", "open_checked"]


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
    if wanted and (source.num_classes is None or source.num_classes > wanted):
        raise DataError(
            f"{source.name}: {source.num_classes or 'no'} classes, but model.num_classes is "
            f"{wanted}"
        )
    return source


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
