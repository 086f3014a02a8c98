import io

import numpy as np
import pytest
from PIL import Image

from gen_jax.errors import StorageError
from gen_jax.files import npz_bytes, png_bytes, write_file


def test_files_replace_each_other_whole(tmp_path):
    path = tmp_path / "a" / "b.txt"
    for text in (b"one", b"two"):
        write_file(path, text)
        assert path.read_bytes() == text
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    write_file(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="b.txt: cannot be written: No space left"):
        write_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_place_that_is_no_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/x: cannot be written"):
        write_file(tmp_path / "file" / "x", b"x")


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_survive(channels):
    image = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
    decoded = Image.open(io.BytesIO(png_bytes(image, {"gen_jax": "step 3"})))
    np.testing.assert_array_equal(np.asarray(decoded).reshape(image.shape), image)
    assert decoded.text == {"gen_jax": "step 3"}


def test_arrays_survive():
    arrays = {"images": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "labels": np.array([3])}
    with np.load(io.BytesIO(npz_bytes(arrays)), allow_pickle=False) as loaded:
        for name, value in arrays.items():
            np.testing.assert_array_equal(loaded[name], value)
