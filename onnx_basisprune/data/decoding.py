"""Image files to RGB pixels: the part of the data room that talks to Pillow."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from onnx_basisprune.errors import DataError, quote

# Formats that are images and nothing else. Left out on purpose: EPS (runs Ghostscript), and the stubs of
# FITS, HDF5, GRIB and the like, which Pillow lists without being able to decode them.
_FORMATS_BY_SUFFIX = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".gif": "GIF",
    ".j2k": "JPEG2000",
    ".jfif": "JPEG",
    ".jp2": "JPEG2000",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".mpo": "MPO",
    ".pbm": "PPM",
    ".pcx": "PCX",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tga": "TGA",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
IMAGE_SUFFIXES = frozenset(_FORMATS_BY_SUFFIX)

# Several are decoded at once, each in a few bytes a pixel.
MOST_PIXELS = 2**26

# What Pillow's decoders raise on files that are damaged, truncated or hostile. It warns of some damage, which
# is raised only where the caller's filters turn warnings into errors.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    Warning,
    struct.error,
    zlib.error,
)


@lru_cache(maxsize=1)
def _list_formats() -> tuple[str, ...]:
    """Return the formats above that this build of Pillow can open (older ones lack AVIF)."""
    Image.init()
    return tuple(sorted({name for name in _FORMATS_BY_SUFFIX.values() if name in Image.OPEN}))


def decode_image(path: Path) -> NDArray[np.uint8]:
    """Decode one image file, turned upright, as RGB.

    The orientation tag of EXIF is applied. Palettes are looked up, grey is repeated in three channels, 16
    bits become 8, CMYK is converted, and alpha is dropped without blending, as training pipelines do.

    Args:
        path: The file; its content decides the format, whatever its suffix.

    Returns:
        Pixels, uint8 `[height, width, 3]`.

    Raises:
        DataError: The file is unreadable, damaged, of an unknown kind, or too large to be an honest image.
    """
    if path.exists() and not path.is_file():  # a pipe without a writer would never end
        raise DataError(f"{quote(path)} is no regular file; expected an image: replace or remove it.")
    try:
        with Image.open(path, formats=_list_formats()) as image:
            # Known from the header: nothing is decoded before this.
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{quote(path)} has {image.width} x {image.height} pixels; expected at most {MOST_PIXELS:,}: "
                    "shrink the image or remove it."
                )
            return _convert_to_rgb(ImageOps.exif_transpose(image), str(image.format))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{quote(path)}: {error}; expected an image below Pillow's pixel limit: shrink the image or remove it."
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{quote(path)} isn't an image that can be read; expected a PNG, JPEG or other common format: "
            "replace or remove the file."
        ) from error
    except _DECODING_ERRORS as error:
        raise DataError(f"{quote(path)} can't be decoded ({_tell(error)}): replace or remove the file.") from error


def _tell(error: BaseException) -> str:
    """Return an outside error's text on one line, bounded, without the quotes of `quote`."""
    return quote(str(error) or type(error).__name__)[1:-1]


def _convert_to_rgb(image: Image.Image, file_format: str) -> NDArray[np.uint8]:
    """Return uint8 `[height, width, 3]` of a Pillow image of whatever mode."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and file_format in {"PNG", "PPM"}):
        # Pillow would clip at 255 instead of scaling; mode I of PNG and PPM is 16 bits in older releases.
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode in {"I", "F"}:
        raise ValueError(f"pixels of 32 bits (mode {mode}) have no fixed range; expected 8 or 16 bits")
    if mode == "P":
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def resize_image(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resample an image with Pillow's antialiased bicubic filter.

    Args:
        pixels: uint8 `[h, w, 3]`.
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        uint8 `[height, width, 3]`.
    """
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def convert_to_gray(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the luma (ITU-R 601) of RGB pixels: uint8 `[..., 3]` to `[..., 1]`.

    The integer weights are those of Pillow's mode `L`, so that grey pixels keep their exact value.
    """
    weights: NDArray[Any] = np.array([19595, 38470, 7471], dtype=np.uint32)
    luma: NDArray[np.uint32] = (pixels.astype(np.uint32) @ weights + 0x8000) >> 16
    return np.asarray(luma[..., None], dtype=np.uint8)
