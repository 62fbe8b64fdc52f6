"""Arrays `x` and `y` of an `.npz`, never unpickled."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.errors import DataError, quote

_IMAGE_CHANNELS = (1, 3, 4)
# In bytes, unpacked: all of it is in memory for the whole run.
LARGEST_ARRAYS = 2**35

# What numpy and zipfile raise on files that are damaged, pickled, encrypted or claim absurd sizes.
_READING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # of an array's header, up to Python 3.11
)


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Read images or model inputs, and labels.

    Args:
        path: An `.npz` with `x` (uint8 `[N, H, W]` or `[N, H, W, C]`: images; float `[N, ...]`: fed to the
            model as it is) and optionally `y` (integers `[N]` or `[N, 1]`, or one-hot `[N, classes]`).

    Returns:
        `x`, and the class indices or `None`.

    Raises:
        DataError: The file or an array can't be read or has the wrong type or shape.
    """
    if path.exists() and not path.is_file():  # a pipe without a writer would never end
        raise DataError(f"{quote(path)} is no regular file; expected an .npz: write it with numpy.savez.")
    try:
        # Opened here, because np.load leaves a damaged file open.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{quote(path)} is a bare .npy; expected an .npz with 'x': write it with numpy.savez.")
            _check_size(path, stream)
            arrays = {name: archive[name] for name in ("x", "y") if name in archive}
    except _READING_ERRORS as error:
        raise DataError(
            f"{quote(path)} can't be read as .npz ({quote(error)}); expected plain arrays, no pickled "
            "objects: write it with numpy.savez."
        ) from error
    if "x" not in arrays:
        raise DataError(f"{quote(path)} has no array 'x'; expected 'x' (images) and optionally 'y' (labels).")
    x = arrays["x"]
    _check_inputs(path, x)
    return x, _read_classes(path, arrays["y"], len(x)) if "y" in arrays else None


def _check_size(path: Path, stream: BinaryIO) -> None:
    """Refuse arrays that are far larger unpacked than any data set: a few bytes can declare them.

    Raises:
        DataError: They are.
    """
    with zipfile.ZipFile(stream) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_ARRAYS:
        raise DataError(
            f"{quote(path)} takes {size:,} bytes unpacked; expected at most {LARGEST_ARRAYS // 2**30} GiB: give fewer "
            "images, or a folder of them."
        )


def _check_inputs(path: Path, x: NDArray[Any]) -> None:
    """Check type and shape of `x`."""
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"{quote(path)}: x has the shape {list(x.shape)}; expected at least one image.")
    if np.issubdtype(x.dtype, np.floating):
        if x.ndim < 2:
            raise DataError(f"{quote(path)}: x has the shape {list(x.shape)}; expected [N, ...] model inputs.")
        return
    if x.dtype != np.uint8:
        raise DataError(
            f"{quote(path)}: x is {quote(x.dtype)}; expected uint8 images, or floats that are fed to the "
            "model as they are: convert it."
        )
    if x.ndim != 3 and not (x.ndim == 4 and x.shape[3] in _IMAGE_CHANNELS):
        raise DataError(
            f"{quote(path)}: x has the shape {list(x.shape)}; expected images as [N, H, W] or [N, H, W, C] "
            "with 1, 3 or 4 channels last: transpose it."
        )


def _read_classes(path: Path, y: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return `y` as class indices, int64 `[count]`."""
    if y.shape[:1] != (count,):
        raise DataError(f"{quote(path)}: y has the shape {list(y.shape)} for {count} images; expected one label each.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] and (np.issubdtype(y.dtype, np.number) or y.dtype == np.bool_):
        unclear = np.flatnonzero((y == y.max(axis=1, keepdims=True)).sum(axis=1) != 1)
        if len(unclear):
            raise DataError(
                f"{quote(path)}: y[{unclear[0]}] marks no one class; expected one-hot rows or class indices."
            )
        return np.asarray(y.argmax(axis=1), dtype=np.int64)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{quote(path)}: y is {quote(y.dtype)} {list(y.shape)}; expected integer class indices [N] or one-hot rows."
        )
    wrong = np.flatnonzero((y < 0) | (y >= 2**31))
    if len(wrong):
        raise DataError(f"{quote(path)}: y[{wrong[0]}] is {y[wrong[0]]}; expected a class index of 0 or more.")
    return np.asarray(y, dtype=np.int64)
