"""gen-jax patches: pictures and films from a file to a file, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from gen_jax.files import film_bytes, png_bytes
from gen_jax.launch.cli.main import main

QUICK = ["--patch=3", "--coarsest=6", "--rounds=1"]


@pytest.fixture
def picture(tmp_path):
    rows, columns = np.indices((12, 16))
    image = np.stack([rows * 20, columns * 15, (rows + columns) * 8], -1).astype(np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(image))
    return path, image


def run(*arguments):
    return main(["patches", *map(str, arguments), *QUICK])


def test_pictures_are_made_and_without_noise_it_is_the_picture(picture, tmp_path, capsys):
    path, image = picture
    assert run("--image", path, "--num", 2, "--out", tmp_path / "two.npz") == 0
    made = np.load(tmp_path / "two.npz")["images"]
    assert made.shape == (2, 12, 16, 3)
    assert (made[0] != made[1]).any()
    assert run("--image", path, "--sigma", 0, "--out", tmp_path / "same.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "same.npz")["images"][0], image)
    wide = tmp_path / "wide.npz"
    assert run("--image", path, "--sigma", 0, "--shape", "12x24", "--out", wide) == 0
    assert np.load(wide)["images"].shape == (1, 12, 24, 3)
    mask = np.full((12, 16, 1), 255, np.uint8)
    mask[4:7, 4:7] = 0
    (tmp_path / "mask.png").write_bytes(png_bytes(mask))
    out = tmp_path / "filled.npz"
    assert run("--image", path, "--mask", tmp_path / "mask.png", "--out", out) == 0
    filled = np.load(out)["images"][0]
    np.testing.assert_array_equal(filled[mask[..., 0] > 0], image[mask[..., 0] > 0])
    assert run("--image", path, "--structure", tmp_path / "mask.png", "--out", out) == 0
    assert np.load(out)["images"].shape == (1, 12, 16, 3)


def test_a_film_becomes_a_film(tmp_path):
    frames = [np.roll(np.eye(12, dtype=np.uint8)[..., None] * 255, i, 1) for i in range(6)]
    (tmp_path / "a.gif").write_bytes(film_bytes(frames, 80))
    out = tmp_path / "b.gif"
    assert run("--image", tmp_path / "a.gif", "--num", 2, "--out", out) == 0
    film = Image.open(out)
    assert film.n_frames == 6
    assert film.width > 1.8 * film.height  # side by side


def test_what_cannot_be_is_said(picture, tmp_path, capsys):
    path, _ = picture
    png = tmp_path / "x.png"
    for arguments, code, words in (
        (["--image", path, "--out", tmp_path / "x.gif"], 2, "of a picture"),
        (["--image", path, "--out", png, "--sigma", 0, "--num", 2], 2, "there is one result"),
        (["--image", path, "--out", png, "--mask", path, "--structure", path], 2, "beside --mask"),
        (["--image", path, "--out", png, "--shape", "12"], 2, "HEIGHTxWIDTH"),
        (["--image", tmp_path / "no.png", "--out", png], 3, "No such file"),
        (["--image", path, "--out", png, "--patch", 30], 3, "at least"),
    ):
        assert main(["patches", *map(str, arguments)]) == code
        assert words in capsys.readouterr().err


def test_a_video_is_read_where_its_extra_is_there(tmp_path, capsys):
    path = tmp_path / "a.mp4"
    try:
        import av
    except ImportError:
        path.write_bytes(b"")
        assert run("--image", path, "--out", tmp_path / "x.gif") == 3
        assert "[video]" in capsys.readouterr().err
        return
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(4):
            frame = np.full((16, 32, 3), 60 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

    from gen_jax.launch.commands.patches import read_picture

    film = read_picture(path, 16)
    assert film.shape == (4, 8, 16, 3)
    np.testing.assert_allclose(film.mean((1, 2, 3)), [0, 60, 120, 180], atol=8)
