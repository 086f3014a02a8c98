"""Image files to uint8 arrays, refusing whatever is not plainly one picture."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gen_jax.errors import DataError

__all__ = ["decode_image", "fit_image"]

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
# Modes that Pillow gives eight-bit pictures; the others (I, I;16, F) would be clipped silently.
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_image(data: bytes, where: str) -> Image.Image:
    """Decode one PNG, JPEG or WebP still image of eight bits.

    The camera's orientation is applied, and transparency is laid over white.

    Args:
        data: the file's bytes.
        where: what to call it in an error: a path, or a source and an index.

    Returns:
        A picture in mode L or RGB.

    Raises:
        DataError: naming ``where``, for anything else.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS}")
        if getattr(image, "n_frames", 1) != 1:
            raise ValueError("more than one frame; a still image is required")
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"mode {image.mode}; eight bits a channel are required")
        ImageOps.exif_transpose(image, in_place=True)
        if "A" in image.getbands() or "transparency" in image.info:
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


def fit_image(image: Image.Image, shape: tuple[int, int, int], where: str) -> np.ndarray:
    """Crop a picture to the center, resize it, and give it one or three channels.

    Args:
        image: mode L or RGB.
        shape: (height, width, channels) with 1 or 3 channels.
        where: what to call it in an error.

    Returns:
        uint8 [height, width, channels].

    Raises:
        DataError: if the channels asked for are neither 1 nor 3.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise DataError(f"{where}: images have 1 or 3 channels, asked for {channels}")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8).reshape(shape)
