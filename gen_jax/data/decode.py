"""Image files to uint8 arrays, refusing whatever is not plainly one picture."""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from gen_jax.errors import DataError

__all__ = ["FORMATS", "MAX_PIXELS", "SUFFIXES", "decode_image", "fit_image", "to_eight_bits"]

# Of what Pillow reads, pictures of one frame; a camera's JPEG of several (MPO) is its first.
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "PPM", "TGA")
    if name in Image.registered_extensions().values()
)
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")
)
MAX_PIXELS = 50_000_000
# Modes that Pillow gives eight-bit pictures; the others (I, I;16, F) would be clipped silently.
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_image(
    data: bytes,
    where: str,
    max_pixels: int = MAX_PIXELS,
    *,
    sixteen_bit: bool = False,
    alpha: bool = False,
    at_least: int | None = None,
) -> Image.Image:
    """Decode one still image of eight bits, of any of :data:`FORMATS`.

    The camera's orientation is applied, colors are brought from the picture's own profile to sRGB,
    and transparency is laid over white.

    Args:
        data: the file's bytes.
        where: what to call it in an error: a path, or a source and an index.
        max_pixels: largest number of them, against files that would fill the memory.
        sixteen_bit: take gray pictures of 16 bits too, brought to eight: 65,535 is 255.
        alpha: keep transparency as a fourth channel, in place of white.
        at_least: side that will be asked for: a JPEG is then read at a half, a quarter or an eighth
            where that is still twice as large, which takes a tenth of the time at 12 megapixels.

    Returns:
        A picture in mode L or RGB, or, with ``alpha``, RGBA.

    Raises:
        DataError: naming ``where``, for anything else.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            what = f"{image.width} x {image.height} pixels; at most {max_pixels} are taken"
            raise ValueError(f"{what} (data.max_pixels)")
        if at_least is not None and image.format == "JPEG":
            image.draft(image.mode, (2 * at_least, 2 * at_least))
        if getattr(image, "n_frames", 1) != 1 and image.format != "MPO":
            raise ValueError("more than one frame; a still image is required")
        if image.mode in _SIXTEEN_BIT_MODES and sixteen_bit:
            image = _in_eight_bits(image)
        if image.mode not in _EIGHT_BIT_MODES:
            more = " (data.sixteen_bit takes gray ones of 16)" * (image.mode in _SIXTEEN_BIT_MODES)
            raise ValueError(f"mode {image.mode}; eight bits a channel are required{more}")
        ImageOps.exif_transpose(image, in_place=True)
        image = _in_srgb(image)
        if alpha:
            image = image.convert("RGBA")
        elif "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image.getchannel("A"))
            image = white
        elif image.mode not in ("L", "RGB"):
            image = image.convert("L" if image.mode == "1" else "RGB")
        image.load()
        return image
    except UnidentifiedImageError:  # whose text names an object in memory
        raise DataError(f"{where}: not a usable image: none of {', '.join(FORMATS)}") from None
    # Decoders raise many types, SyntaxError among them; a bad picture must never end a run unnamed.
    except Exception as error:
        raise DataError(f"{where}: not a usable image: {error}") from error


def to_eight_bits(levels: np.ndarray) -> np.ndarray:
    """Bring levels from 0 to 65,535 to uint8 from 0 to 255, to the nearest."""
    return ((levels.astype(np.int64) * 255 + 32_767) // 65_535).astype(np.uint8)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Bring a gray picture of 16 bits to eight."""
    levels = np.asarray(image, np.int64)
    low, high = int(np.min(levels)), int(np.max(levels))
    if low < 0 or high > 65_535:
        raise ValueError(f"gray levels of {low} to {high}; 0 to 65535 is required")
    made = Image.fromarray(to_eight_bits(levels))
    made.info = dict(image.info)
    made.getexif().update(image.getexif())
    return made


def _in_srgb(image: Image.Image) -> Image.Image:
    """Bring colors from the picture's own profile to sRGB; a broken profile is none."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        made = ImageCms.profileToProfile(
            image, own, ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except ImageCms.PyCMSError:
        return image
    assert made is not None
    return made


_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def fit_image(image: Image.Image, shape: tuple[int, int, int], where: str) -> np.ndarray:
    """Crop a picture to the center, resize it, and give it as many channels as are asked for.

    Args:
        image: mode L, RGB or RGBA.
        shape: (height, width, channels) with 1, 3 or 4 channels, the fourth for opacity.
        where: what to call it in an error.

    Returns:
        uint8 [height, width, channels].

    Raises:
        DataError: for another number of channels.
    """
    height, width, channels = shape
    if channels not in _MODES:
        raise DataError(f"{where}: images have 1, 3 or 4 channels, asked for {channels}")
    image = image.convert(_MODES[channels])
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).reshape(shape)
