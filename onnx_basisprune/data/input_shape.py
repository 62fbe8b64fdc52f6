"""What a model's input says about its images: layout, channels, height and width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.planning.types import TensorSpec

Layout = Literal["nchw", "nhwc"]

_IMAGE_CHANNELS = (1, 3)
# numpy has no bfloat16 of its own, but the name stands in models.
_FLOAT_DTYPES = frozenset({"float16", "float32", "float64", "bfloat16"})


@dataclass(frozen=True)
class InputShape:
    """The image axes of a model's input; a dynamic dimension is `None`."""

    layout: Layout
    channels: int | None
    height: int | None
    width: int | None


def show_shape(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as text, `?` for each dynamic dimension."""
    return "unknown" if shape is None else f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def choose_layout(shape: tuple[int | None, ...]) -> Layout | None:
    """Return the layout of a 4-D shape by where its 1 or 3 channels are; `None` where nothing fits.

    Unknown channel dimensions count as NCHW, what most exporters write.
    """
    if shape[1] in _IMAGE_CHANNELS:
        return "nchw"
    if shape[3] in _IMAGE_CHANNELS:
        return "nhwc"
    if shape[1] is None:
        return "nchw"
    return "nhwc" if shape[3] is None else None


def read_input_shape(spec: TensorSpec, layout: Layout | None) -> InputShape:
    """Read the image axes of a model's input.

    Args:
        spec: The input; of unknown rank it counts as 4-D with all dimensions dynamic.
        layout: `--layout`, or `None` to find it out.

    Returns:
        Layout, channels, height and width.

    Raises:
        ModelError: The input isn't a batch of images of 1 or 3 channels in floats or uint8.
        ConfigError: `layout` contradicts the shape.
    """
    if spec.dtype not in _FLOAT_DTYPES and spec.dtype != "uint8":
        raise ModelError(
            f"Input {quote(spec.name)} is {spec.dtype}; expected floats or uint8: only image classifiers are taken."
        )
    shape = (None,) * 4 if spec.shape is None else spec.shape
    if len(shape) != 4:
        raise ModelError(
            f"Input {quote(spec.name)} has the shape {show_shape(shape)}; expected 4 dimensions, [N, C, H, "
            "W] or [N, H, W, C]: give ready-made float inputs as .npz."
        )
    chosen = layout or choose_layout(shape)
    channels = None if chosen is None else shape[1] if chosen == "nchw" else shape[3]
    if chosen is None or (channels is not None and channels not in _IMAGE_CHANNELS):
        if layout is not None and choose_layout(shape) is not None:
            raise ConfigError(
                f"--layout {layout} doesn't fit input {quote(spec.name)} of shape {show_shape(shape)}; "
                f"expected {choose_layout(shape)}: leave the option out."
            )
        raise ModelError(
            f"Input {quote(spec.name)} has the shape {show_shape(shape)}; expected images of 1 or 3 "
            "channels: give ready-made float inputs as .npz."
        )
    height, width = shape[2:] if chosen == "nchw" else shape[1:3]
    return InputShape(chosen, channels, height, width)
