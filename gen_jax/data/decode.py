"""Image files to uint8 arrays, refusing whatever is not plainly one picture."""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from gen_jax.errors import DataError

__all__ = ["FORMATS", "MAX_PIXELS", "SUFFIXES", "decode_image", "fit_image"]

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
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_image(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one still image of eight bits, of any of :data:`FORMATS`.

    The camera's orientation is applied, colors are brought from the picture's own profile to sRGB,
    and transparency is laid over white.

    Args:
        data: the file's bytes.
        where: what to call it in an error: a path, or a source and an index.
        max_pixels: largest number of them, against files that would fill the memory.

    Returns:
        A picture in mode L or RGB.

    Raises:
        DataError: naming ``where``, for anything else.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            what = f"{image.width} x {image.height} pixels; at most {max_pixels} are taken"
            raise ValueError(f"{what} (data.max_pixels)")
        if getattr(image, "n_frames", 1) != 1 and image.format != "MPO":
            raise ValueError("more than one frame; a still image is required")
        if image.mode not in _EIGHT_BIT_MODES:
            raise ValueError(f"mode {image.mode}; eight bits a channel are required")
        ImageOps.exif_transpose(image, in_place=True)
        image = _in_srgb(image)
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
