"""F13, F24: images of every kind, and what is none."""

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gen_jax.data.decode import decode_image
from gen_jax.errors import DataError
from tests.reliability.job import record, run_code
from tests.tiers import tries


def encoded(mode="RGB", kind="PNG", size=(8, 6), **options):
    rng = np.random.default_rng(0)
    colors = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 2**16, (size[1], size[0]), np.uint16))
    else:
        picture = colors.convert("RGB").convert(mode) if mode != "RGBA" else colors
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    frames = [Image.new("RGB", (8, 6), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # lay it on its side
    return encoded(kind="JPEG", exif=exif)


def huge(side):
    """A PNG of little more than a header that claims side x side pixels."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def with_text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "a" * 2**24, zip=True)
    return encoded(pnginfo=info)


# What comes in, and what must come out: a mode and a size, or the words of a refusal.
TABLE = {
    "rgb png": (lambda: encoded("RGB"), ("RGB", (8, 6))),
    "gray png": (lambda: encoded("L"), ("L", (8, 6))),
    "black and white png": (lambda: encoded("1"), ("L", (8, 6))),
    "palette png": (lambda: encoded("P"), ("RGB", (8, 6))),
    "gray and alpha": (lambda: encoded("LA"), ("RGB", (8, 6))),
    "rgba png": (lambda: encoded("RGBA"), ("RGB", (8, 6))),
    "palette, transparent": (lambda: encoded("P", transparency=0), ("RGB", (8, 6))),
    "rgb jpeg": (lambda: encoded(kind="JPEG"), ("RGB", (8, 6))),
    "progressive jpeg": (lambda: encoded(kind="JPEG", progressive=True), ("RGB", (8, 6))),
    "gray jpeg": (lambda: encoded("L", "JPEG"), ("L", (8, 6))),
    "cmyk jpeg": (lambda: encoded("CMYK", "JPEG"), ("RGB", (8, 6))),
    "rotated by exif": (rotated, ("RGB", (6, 8))),
    "webp": (lambda: encoded(kind="WEBP"), ("RGB", (8, 6))),
    "webp with alpha": (lambda: encoded("RGBA", "WEBP"), ("RGB", (8, 6))),
    "16 bits": (lambda: encoded("I;16"), "eight bits"),
    "animated webp": (lambda: animated("WEBP"), "more than one frame"),
    "animated png": (lambda: animated("PNG"), "more than one frame"),
    "animated gif": (lambda: animated("GIF"), "more than one frame"),
    "gif": (lambda: encoded("P", kind="GIF"), ("RGB", (8, 6))),
    "tiff": (lambda: encoded(kind="TIFF"), ("RGB", (8, 6))),
    "bmp": (lambda: encoded(kind="BMP"), ("RGB", (8, 6))),
    "eps": (lambda: encoded(kind="EPS"), "none of PNG, JPEG, WEBP"),
    "empty": (lambda: b"", "none of PNG, JPEG, WEBP"),
    "text": (lambda: b"<svg/>", "none of PNG, JPEG, WEBP"),
    "half a png": (lambda: encoded()[:60], ""),
    "half a jpeg": (lambda: encoded(kind="JPEG", size=(64, 64))[:900], ""),
    "64 million pixels": (lambda: huge(8000), "at most 50000000"),
    "200 million pixels": (lambda: huge(14_200), ""),
    "a text chunk of 16 MB": (with_text_bomb, ""),
    "wrong checksum": (lambda: encoded()[:-6] + b"zzzzzz", None),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", TABLE)
def test_every_kind_of_image_is_taken_or_refused(name):
    make, expected = TABLE[name]
    data = make()
    if expected is None:  # either is right
        decode_or_refuse(data)
    elif isinstance(expected, str):
        with pytest.raises(DataError, match=f"here: not a usable image: .*{expected}"):
            decode_image(data, "here")
    else:
        image = decode_image(data, "here")
        assert (image.mode, image.size) == expected


def peak():
    """Give the most memory that this process has used: kB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def decode_or_refuse(data):
    try:
        return decode_image(data, "here")
    except DataError:
        return None


@pytest.mark.slow
def test_whatever_is_no_image_is_one_error():
    """Mutations of good files: an image, or DataError, soon and in little memory."""
    rng = random.Random(0)
    seeds = [make() for make, expected in TABLE.values() if isinstance(expected, tuple)]
    count, longest, taken = tries(20_000, 1_000_000), 0.0, 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    before = peak()
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            how = rng.random()
            if how < 0.7:
                data[rng.randrange(len(data))] = rng.randrange(256)
            elif how < 0.85:
                del data[rng.randint(1, len(data)) :]
            else:
                data[rng.randrange(len(data)) :] = rng.randbytes(rng.randint(1, 64))
        begin = time.thread_time()
        taken += decode_or_refuse(bytes(data)) is not None
        longest = max(longest, time.thread_time() - begin)
    grown = peak() - before
    assert 0 < taken < count
    assert longest <= 1
    assert grown <= 500_000  # kB
    record("F13", mutations=count, taken=taken, other_errors=0, longest_s=round(longest, 3))


@pytest.mark.slow
def test_a_large_transparent_image_takes_no_more_than_it_must(tmp_path):
    """49 million pixels with an alpha channel, the worst that is taken."""
    Image.new("RGBA", (7000, 7000), (1, 2, 3, 4)).save(tmp_path / "x.png")
    code = (
        "import sys\nfrom gen_jax.data.decode import decode_image\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        # Not getrusage(), which knows what the parent took before this began.
        "def peak():\n"
        "    return int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])\n"
        "before = peak()\ndecode_image(data, 'x')\nprint(peak() - before)"
    )
    out = run_code(code, tmp_path / "x.png")
    assert int(out.stdout) < 600_000  # kB beside what Python and its libraries take
