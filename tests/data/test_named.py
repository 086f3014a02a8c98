"""Data sets by name: fetched once from a server, checked, and refused in words without one."""

import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading

import numpy as np
import pytest

from gen_jax.data.sources import named, open_source
from gen_jax.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = {
    part: RNG.integers(0, 256, (num, 5, 5), np.uint8) for part, num in (("train", 12), ("t10k", 4))
}
LABELS = {part: (np.arange(len(x)) % 3).astype(np.uint8) for part, x in IMAGES.items()}
COLORS = RNG.integers(0, 256, (10, 32, 32, 3), np.uint8)


def idx(array):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


def cifar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, rows in (("data_batch_1.bin", range(6)), ("data_batch_2.bin", range(6, 8)),
                           ("test_batch.bin", range(8, 10))):  # fmt: skip
            data = b"".join(bytes([i]) + COLORS[i].transpose(2, 0, 1).tobytes() for i in rows)
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve small files of the same formats, and count who asks."""
    root, asked = tmp_path / "served", []
    root.mkdir()
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(IMAGES[part])
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(LABELS[part])
    files["cifar-10-binary.tar.gz"] = cifar()
    sums = {}
    for name, data in files.items():
        (root / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def log_request(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=root)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    mirrors = (f"{address}none/", address)
    small = {
        name: data._replace(
            mirrors=mirrors,
            files={split: {f: sums[f] for f in own} for split, own in data.files.items()},
        )
        for name, data in named.NAMED.items()
        if name in ("mnist", "cifar10")
    }
    monkeypatch.setattr(named, "NAMED", small)
    monkeypatch.setenv("GEN_JAX_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("GEN_JAX_MIRROR", raising=False)
    yield root, asked, address
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_files_are_fetched_once_from_the_first_place_that_has_them(served, tmp_path):
    _, asked, _ = served
    train = open_source("mnist", "train", (5, 5, 1))
    assert len(asked) == 4  # two files, each asked for at two places
    batch = train.read(np.arange(12))
    np.testing.assert_array_equal(batch["image"][..., 0], IMAGES["train"])
    np.testing.assert_array_equal(batch["label"], LABELS["train"])
    again = open_source("mnist", "train", (5, 5, 1))
    assert len(asked) == 4
    assert again.fingerprint == train.fingerprint
    test = open_source("mnist", "test", (5, 5, 1))
    np.testing.assert_array_equal(test.read(np.arange(4))["label"], LABELS["t10k"])
    colored = open_source("cifar10", "train", (32, 32, 3))
    np.testing.assert_array_equal(colored.read(np.arange(8))["image"], COLORS[:8])
    assert colored.read(np.array([7]))["label"] == 7
    assert colored.class_names[3] == "cat"
    held = open_source("cifar10", "test", (32, 32, 3))
    np.testing.assert_array_equal(held.read(np.arange(2))["image"], COLORS[8:])
    assert not list((tmp_path / "cache").rglob("*.tmp*"))


def test_what_is_not_what_it_should_be_is_not_taken(served, tmp_path):
    root, _, _ = served
    file = "train-images-idx3-ubyte.gz"
    good = (root / file).read_bytes()
    (root / file).write_bytes(good[:-1] + b"x")
    with pytest.raises(DataError, match="its sha256 is") as error:
        open_source("mnist", "train", (5, 5, 1))
    assert f"put the file into {tmp_path / 'cache' / 'mnist'}" in str(error.value)
    assert not (tmp_path / "cache" / "mnist" / file).exists()
    (root / file).write_bytes(good)
    open_source("mnist", "train", (5, 5, 1))
    kept = tmp_path / "cache" / "mnist" / file
    kept.write_bytes(good + b"more")  # damaged later
    with pytest.raises(DataError, match="remove it, and it is fetched anew"):
        open_source("mnist", "train", (5, 5, 1))


def test_without_a_way_out_it_says_where_to_put_a_file(served, tmp_path, monkeypatch):
    root, _, address = served
    closed = named.NAMED["mnist"]._replace(mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setattr(named, "NAMED", {"mnist": closed})
    with pytest.raises(DataError, match=r"could not be fetched from http://127.0.0.1:9/train"):
        open_source("mnist", "train", (5, 5, 1))
    monkeypatch.setenv("GEN_JAX_MIRROR", address + "{file}")  # one of one's own
    assert open_source("mnist", "train", (5, 5, 1)).size == 12
    monkeypatch.delenv("GEN_JAX_MIRROR")
    folder = tmp_path / "cache" / "mnist"
    for file in root.glob("t10k*"):  # by hand
        (folder / file.name).write_bytes(file.read_bytes())
    assert open_source("mnist", "test", (5, 5, 1)).size == 4
