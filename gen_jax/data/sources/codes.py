"""Codes of a first stage."""

from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.data.codes import read_split
from gen_jax.data.sources.source import Examples, Source

__all__ = ["open_codes"]


def open_codes(path: Path, split: str) -> Source:
    """Open a split of codes that ``gen-jax encode`` wrote."""
    index, examples, fingerprint = read_split(path, split)
    codes, labels = examples["codes"], examples.get("label")

    def take(codes: np.ndarray, indices: np.ndarray) -> np.ndarray:
        chosen = codes[indices]
        return chosen.astype(np.int32) if chosen.dtype.kind == "u" else chosen

    def read(indices: np.ndarray) -> Examples:
        if isinstance(codes, dict):
            chosen: Any = {name: take(part, indices) for name, part in codes.items()}
        else:
            chosen = take(codes, indices)
        return {"codes": chosen} | ({} if labels is None else {"label": labels[indices]})

    return Source(
        name=f"codes:{path}/{split}",
        size=int(index["splits"][split]["size"]),
        image_shape=tuple(index["image_shape"]),
        num_classes=None if labels is None else int(labels.max(initial=-1)) + 1,
        in_memory=True,
        fingerprint=fingerprint,
        read=read,
        stage1=index["stage1"],
    )
