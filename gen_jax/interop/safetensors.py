"""Folders as diffusers lays them out: ``config.json`` and one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import CheckpointError, one_line
from gen_jax.files import write_file
from gen_jax.reading import parse_json, read_file

__all__ = ["WEIGHTS", "read_folder", "write_folder"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS = "model.safetensors"
"""What transformers calls the same."""


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a model's config and its arrays, in one file or in several with an index.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    from safetensors.numpy import load_file

    config = read_json(folder / "config.json")
    names = [WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if not index.exists() and not (folder / WEIGHTS).exists():
        names, index = _variant(folder)
        if (folder / TRANSFORMERS).exists():
            names = [TRANSFORMERS]
    if index.exists():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not all(_is_plain(name) for name in files.values()):
            raise CheckpointError(f"{index}: no weight_map of file names")
        names = sorted(set(files.values()))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        path = folder / name
        try:
            tensors |= load_file(path)
        except FileNotFoundError:
            raise CheckpointError(
                f"{path}: not there; weights in pickle files (.bin) are never read: convert them "
                "with safetensors"
            ) from None
        except Exception as error:  # a format's reader raises its own
            raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from error
    for name, x in tensors.items():
        if not np.isfinite(np.asarray(x, np.float32)).all():
            raise CheckpointError(f"{folder}: {name}: not all numbers are finite")
    return config, tensors


def _variant(folder: Path) -> tuple[list[str], Path]:
    """Find weights that are there in a variant only, as ``.fp16.safetensors``."""
    stem = WEIGHTS.removesuffix(".safetensors")
    indices = sorted(folder.glob(f"{WEIGHTS}.index.*.json"))
    alone = sorted(folder.glob(f"{stem}.*.safetensors"))
    alone = [path for path in alone if "-of-" not in path.name]
    if indices or not alone:
        return [WEIGHTS], indices[0] if indices else folder / f"{WEIGHTS}.index.json"
    return [alone[0].name], folder / f"{WEIGHTS}.index.json"


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write a model's config and its arrays, each file whole or not at all.

    Raises:
        StorageError: naming the file and the reason.
    """
    from safetensors.numpy import save

    write_file(folder / WEIGHTS, save(dict(tensors), metadata={"format": "pt"}))
    write_json(folder / "config.json", config)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if it is none.
    """
    try:
        found = parse_json(read_file(path, 2**26), 2**26)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: a JSON object is required")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
