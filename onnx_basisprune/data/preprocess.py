"""From pixels to the model's input: resize, crop, colour order, scale, mean, std, layout; and the presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.data.decoding import convert_to_gray, resize_image
from onnx_basisprune.data.input_shape import Layout, show_shape
from onnx_basisprune.errors import DataError, quote

Color = Literal["rgb", "bgr", "gray"]
Size = tuple[int, int]

# A strip of 1 x 10,000 pixels would become gigabytes when its short side is stretched.
_LARGEST_RESIZED = 1 << 26


@dataclass(frozen=True)
class Preset:
    """A usual way to feed a network: `(pixel * scale - mean) / std` per channel, in the order of `color`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    color: Color = "rgb"


PRESETS = {
    "imagenet": Preset((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255),
    "unit": Preset((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1 / 255),
    "tf": Preset((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 1 / 127.5),
    "raw": Preset((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),
    "caffe": Preset((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 1.0, "bgr"),
}


@dataclass(frozen=True)
class Preprocessing:
    """One model's way from RGB pixels to input values.

    Attributes:
        name: The preset, or `none` for float arrays that go in as they are.
        mean: Subtracted after scaling, per channel in the order of `color`.
        std: Divided by after that.
        scale: Multiplies the 0..255 pixels first.
        resize: Box `(height, width)` that the image is resized to cover, aspect ratio kept (a square box of
            side N is a shorter side of N); `None` for no resize.
        crop: Centre crop `(height, width)`; `None` for none.
        keep_exact: Whether an image that has the crop's size already is left alone.
        color: Channel order.
        layout: Axis order.
        dtype: `float32`, or `uint8` for models that take pixels.
        input_shape: The model's input shape, to check against; `None` where unknown.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    resize: Size | None
    crop: Size | None
    keep_exact: bool
    color: Color
    layout: Layout
    dtype: Literal["float32", "uint8"]
    input_shape: tuple[int | None, ...] | None

    def fit_image(self, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Resize and crop one image.

        Args:
            pixels: RGB, uint8 `[h, w, 3]`.
            name: What to call it in a message.

        Returns:
            RGB, uint8 `[height, width, 3]`.

        Raises:
            DataError: It is smaller than the crop, or too elongated to be resized.
        """
        if self.keep_exact and pixels.shape[:2] == self.crop:
            return pixels
        if self.resize is not None:
            height, width = _cover_box(pixels.shape[0], pixels.shape[1], self.resize)
            if height * width > _LARGEST_RESIZED:
                raise DataError(
                    f"{quote(name)} is {pixels.shape[0]}x{pixels.shape[1]}, too elongated to be resized to "
                    f"cover {self.resize[0]}x{self.resize[1]}: remove or crop it."
                )
            if (height, width) != pixels.shape[:2]:
                pixels = resize_image(pixels, height, width)
        return pixels if self.crop is None else _crop_centre(pixels, self.crop, name)

    def convert_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn fitted images into the model's input.

        Args:
            pixels: RGB, uint8 `[n, height, width, 3]`.

        Returns:
            The input in `layout`, contiguous: float32, or uint8 where the model takes that.
        """
        if self.color == "gray":
            pixels = convert_to_gray(pixels)
        elif self.color == "bgr":
            pixels = pixels[..., ::-1]
        if self.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        if self.dtype == "uint8":
            return np.ascontiguousarray(pixels)
        # (pixel * scale - mean) / std as one multiplication and one addition, the factors in float64 first.
        per_channel = (-1, 1, 1) if self.layout == "nchw" else (-1,)
        std = np.asarray(self.std)
        factor = (self.scale / std).astype(np.float32).reshape(per_channel)
        offset = (-np.asarray(self.mean) / std).astype(np.float32).reshape(per_channel)
        values = np.ascontiguousarray(pixels, dtype=np.float32)
        values *= factor
        values += offset
        return values

    def apply(self, images: Sequence[NDArray[np.uint8]], names: Sequence[str] | None = None) -> NDArray[Any]:
        """Turn images into one batch for the model.

        Args:
            images: RGB, each uint8 `[h, w, 3]`; at least one.
            names: What to call each in a message.

        Returns:
            float32 `[n, C, H, W]` or `[n, H, W, C]` (uint8 where the model takes that).

        Raises:
            DataError: An image can't be fitted, or their sizes differ or don't fit the model.
        """
        if names is None:
            names = [f"image {position}" for position in range(len(images))]
        fitted = [self.fit_image(pixels, name) for pixels, name in zip(images, names, strict=True)]
        return self.stack_fitted(fitted, names)

    def stack_fitted(self, fitted: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> NDArray[Any]:
        """Turn images that `fit_image` returned into one batch; see `apply`."""
        for pixels, name in zip(fitted, names, strict=True):
            if pixels.shape != fitted[0].shape:
                raise DataError(
                    f"{quote(name)} is {pixels.shape[0]}x{pixels.shape[1]} where {quote(names[0])} is "
                    f"{fitted[0].shape[0]}x{fitted[0].shape[1]}; expected one size, as the model states "
                    "none: give --resize and --crop."
                )
        batch = self.convert_pixels(np.stack(fitted))
        self.check_shape(batch.shape, names[0])
        return batch

    def check_shape(self, shape: tuple[int, ...], name: str) -> None:
        """Check a batch's shape, the batch axis aside, against the model's input.

        Raises:
            DataError: They don't fit.
        """
        expected = self.input_shape
        if expected is None:
            return
        if len(shape) != len(expected) or any(
            wanted not in (None, found) for found, wanted in zip(shape[1:], expected[1:], strict=True)
        ):
            raise DataError(
                f"{quote(name)} makes an input of shape {show_shape((None, *shape[1:]))}; the model expected "
                f"{show_shape((None, *expected[1:]))}: give images of that size, or --resize and --crop."
            )

    def describe(self) -> dict[str, object]:
        """Return what was done to the images, ready for JSON."""
        if self.name == "none":
            return {"preset": "none"}
        return {
            "preset": self.name,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": list(self.resize) if self.resize else None,
            "crop": list(self.crop) if self.crop else None,
            "color": self.color,
            "layout": self.layout,
            "dtype": self.dtype,
        }


def _cover_box(height: int, width: int, box: Size) -> Size:
    """Return the smallest size that covers the box and keeps the aspect ratio, the free side rounded down."""
    if width * box[0] >= height * box[1]:
        return box[0], width * box[0] // height
    return height * box[1] // width, box[1]


def _crop_centre(pixels: NDArray[np.uint8], crop: Size, name: str) -> NDArray[np.uint8]:
    """Return the centre of an image."""
    height, width = pixels.shape[:2]
    if height < crop[0] or width < crop[1]:
        raise DataError(
            f"{quote(name)} is {height}x{width} before the crop to {crop[0]}x{crop[1]}; expected at least "
            "that: give a --resize that covers it, or leave --resize out."
        )
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return pixels[top : top + crop[0], left : left + crop[1]]
