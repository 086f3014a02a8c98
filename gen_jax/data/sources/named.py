"""Data sets by name, fetched once into the user's cache and checked."""

import contextlib
import gzip
import hashlib
import io
import os
import struct
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from gen_jax.data.sources.source import Source, from_arrays
from gen_jax.errors import DataError

__all__ = ["NAMED", "Named", "cache_folder", "fetch", "open_named"]

Read = Callable[[Mapping[str, bytes], str], tuple[np.ndarray, np.ndarray]]
_TIMEOUT_S = 30.0
_BLOCK = 1 << 18


class Named(NamedTuple):
    """A data set: files with their sha256, by split, where they are, and how they are read."""

    files: Mapping[str, Mapping[str, str]]  # {split: {file: sha256}}
    mirrors: tuple[str, ...]  # addresses of a folder, the first one that answers is taken
    read: Read
    classes: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Return where data sets are kept: ``GEN_JAX_DATA``, or gen_jax/data of the user's cache."""
    if own := os.environ.get("GEN_JAX_DATA"):
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "gen_jax" / "data"


def open_named(name: str, split: str) -> Source:
    """Open a split of a data set of :data:`NAMED`, which is fetched where it is not there yet.

    Raises:
        DataError: if it can be had nowhere; says where a file may be put by hand.
    """
    data, folder = NAMED[name], cache_folder() / name
    files = {
        file: fetch(name, file, digest, folder, data.mirrors)
        for file, digest in data.files[split].items()
    }
    try:
        images, labels = data.read({file: path.read_bytes() for file, path in files.items()}, split)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise DataError(f"{name}: {folder}: cannot be read: {error}") from error
    source = from_arrays(f"{name}/{split}", images, labels.astype(np.int32))
    return source._replace(class_names=data.classes or None)


def fetch(name: str, file: str, digest: str, folder: Path, mirrors: tuple[str, ...]) -> Path:
    """Return where a file of the cache is; fetches and checks it where it is not there yet.

    It appears whole or not at all. ``GEN_JAX_MIRROR``, an address with ``{name}`` and ``{file}``,
    is asked first.

    Raises:
        DataError: naming each place that was asked, and where to put the file by hand.
    """
    path = folder / file
    if path.exists():
        _check(path, digest)
        return path
    places = [f"{mirror}{file}" for mirror in mirrors]
    if own := os.environ.get("GEN_JAX_MIRROR"):
        places.insert(0, own.format(name=name, file=file))
    asked = []
    for place in places:
        try:
            _download(place, path, digest)
        except (OSError, ValueError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            asked.append(f"{place} ({reason})")
        else:
            return path
    raise DataError(
        f"{name}: {file}: could not be fetched from {'; '.join(asked)}; where there is no way out, "
        f"put the file into {folder}, or name another source, as npz:PATH"
    )


def _check(path: Path, digest: str) -> None:
    """Check a file of the cache, once for each time it changed."""
    stamp = path.with_name(f".{path.name}.checked")
    state = f"{digest} {path.stat().st_size} {path.stat().st_mtime_ns}"
    if stamp.exists() and stamp.read_text() == state:
        return
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    if sha.hexdigest() != digest:
        raise DataError(f"{path}: its sha256 is {sha.hexdigest()[:12]}..., {digest[:12]}... is "
                        "required; remove it, and it is fetched anew")  # fmt: skip
    with contextlib.suppress(OSError):  # a cache that others own is checked each time
        stamp.write_text(state)


def _download(place: str, path: Path, digest: str) -> None:
    if not place.startswith(("http://", "https://", "file://")):
        raise ValueError("http, https or file is required")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    sha = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(place, timeout=_TIMEOUT_S) as answer,
            open(temporary, "wb") as file,
            tqdm(
                total=int(answer.headers.get("Content-Length") or 0) or None,
                desc=path.name, unit="B", unit_scale=True, disable=None,
            ) as bar,
        ):  # fmt: skip
            while block := answer.read(_BLOCK):
                file.write(block)
                sha.update(block)
                bar.update(len(block))
        if sha.hexdigest() != digest:
            raise ValueError(f"its sha256 is {sha.hexdigest()[:12]}..., not {digest[:12]}...")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_idx(files: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the format of MNIST."""
    del split
    arrays = []
    for name in sorted(files, key=lambda name: "labels" in name):
        data = gzip.decompress(files[name])
        _, _, kind, dims = struct.unpack(">BBBB", data[:4])
        shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
        if kind != 8:
            raise ValueError(f"{name}: bytes are required")
        arrays.append(np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape))
    images, labels = arrays
    return images, labels


def _read_cifar(files: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the binary version of CIFAR-10 or CIFAR-100, whose fine labels come second."""
    (archive,) = files.values()
    wanted = ("data_batch", "train.bin") if split == "train" else ("test_batch", "test.bin")
    parts = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            base = member.name.rpartition("/")[2]
            if member.isfile() and base.endswith(".bin") and base.startswith(wanted):
                file = tar.extractfile(member)
                assert file is not None
                parts.append(np.frombuffer(file.read(), np.uint8))
                before = 1 if "batch" in base else 2
    rows = np.concatenate(parts).reshape(-1, before + 3072)
    images = rows[:, before:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, before - 1]


def _read_svhn(files: Mapping[str, bytes], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the cropped digits of SVHN; its 10 stands for zero."""
    del split
    from scipy.io import loadmat

    (data,) = files.values()
    found = loadmat(io.BytesIO(data))
    return np.ascontiguousarray(found["X"].transpose(3, 0, 1, 2)), found["y"].ravel() % 10


def _idx(*digests: str) -> dict[str, dict[str, str]]:
    """Name the four files of MNIST's like: images and labels of train, then of test."""
    names = ("images-idx3", "labels-idx1")
    train, test = ([f"{part}-{name}-ubyte.gz" for name in names] for part in ("train", "t10k"))
    return {
        "train": dict(zip(train, digests[:2], strict=True)),
        "test": dict(zip(test, digests[2:], strict=True)),
    }


def _whole(file: str, digest: str) -> dict[str, dict[str, str]]:
    return {"train": {file: digest}, "test": {file: digest}}


_KRIZ = ("https://www.cs.toronto.edu/~kriz/",)
_GARMENTS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
_THINGS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

NAMED: dict[str, Named] = {
    "mnist": Named(
        _idx(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        _read_idx,
    ),
    "fashion_mnist": Named(
        _idx(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        _read_idx,
        _GARMENTS,
    ),
    "kmnist": Named(
        _idx(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        _read_idx,
    ),
    "cifar10": Named(
        _whole(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        _KRIZ,
        _read_cifar,
        _THINGS,
    ),
    "cifar100": Named(
        _whole(
            "cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        _KRIZ,
        _read_cifar,
    ),
    "svhn": Named(
        {
            "train": {
                "train_32x32.mat": (
                    "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"
                )
            },
            "test": {
                "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"
            },
        },
        ("http://ufldl.stanford.edu/housenumbers/",),
        _read_svhn,
    ),
}
"""Sums are those that TFDS publishes."""
