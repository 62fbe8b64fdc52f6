"""What `--preprocess`, the options that override it, and the model's input make of a preset."""

from __future__ import annotations

import numpy as np

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.input_shape import InputShape, choose_layout, read_input_shape
from onnx_basisprune.data.preprocess import PRESETS, Color, Preprocessing, Preset, Size
from onnx_basisprune.errors import ConfigError, quote
from onnx_basisprune.planning.types import TensorSpec

# Of the resized side, the part that the centre crop keeps where a model is evaluated: 224 of 256.
_CROP_FRACTION = 0.875
_SMALLEST_MARGINAL_CROP = 128
_LARGEST_INPUT = 1e30


def feed_as_is(config: PreprocessConfig, spec: TensorSpec) -> Preprocessing:
    """Return the preprocessing of float arrays: none but a check of their shape.

    Args:
        config: Only `layout` counts, for what moves images about later.
        spec: The model's input, of any rank.
    """
    four_d = spec.shape if spec.shape is not None and len(spec.shape) == 4 else None
    layout = config.layout or (None if four_d is None else choose_layout(four_d)) or "nchw"
    return Preprocessing(
        "none", (0.0,), (1.0,), 1.0, None, None, False, "rgb", layout, "float32", input_shape=spec.shape
    )


def resolve_preprocessing(config: PreprocessConfig, spec: TensorSpec, preset: str) -> Preprocessing:
    """Combine a preset, the options that override it, and what the model's input says.

    Without `--resize` and `--crop`, an image that isn't of the model's size is resized to cover it, from 128
    pixels up with the usual margin (256 for 224), and cropped at the centre.

    Args:
        config: The options; `None` where the preset or the model decides.
        spec: The model's input.
        preset: A key of `PRESETS`, whatever `config.preprocess` says.

    Returns:
        The preprocessing.

    Raises:
        ConfigError: An option is out of range or contradicts another or the model.
        ModelError: The input isn't a batch of images.
    """
    if preset not in PRESETS:
        raise ConfigError(f"--preprocess {quote(preset)} isn't known; expected auto, {', '.join(PRESETS)}.")
    shape = read_input_shape(spec, config.layout)
    color = _choose_color(config, shape, preset)
    resize, crop = _choose_sizes(config, shape)
    if spec.dtype == "uint8" and (preset != "raw" or (config.mean, config.std, config.scale) != (None,) * 3):
        raise ConfigError(
            f"Input {quote(spec.name)} is uint8, which takes pixels as they are; expected --preprocess raw "
            "(or auto) without --mean, --std and --scale."
        )
    base, channels = PRESETS[preset], 1 if color == "gray" else 3
    mean = _choose_values("--mean", config.mean, base.mean, base, color, channels)
    std = _choose_values("--std", config.std, base.std, base, color, channels)
    scale = base.scale if config.scale is None else config.scale
    if not (np.isfinite(scale) and scale > 0) or not all(np.isfinite(s) and s > 0 for s in std):
        raise ConfigError(f"--scale is {scale:g} and --std {', '.join(f'{s:g}' for s in std)}; expected all over 0.")
    if not np.isfinite(mean).all():
        raise ConfigError(f"--mean is {', '.join(f'{m:g}' for m in mean)}; expected finite numbers.")
    largest = max((255 * scale + abs(m)) / s for m, s in zip(mean, std, strict=True))
    if largest > _LARGEST_INPUT:
        raise ConfigError(
            f"--scale, --mean and --std make up to {largest:.2g} of a pixel; expected at most {_LARGEST_INPUT:g}, "
            "which leaves float32 room to compute."
        )
    return Preprocessing(
        preset,
        mean,
        std,
        scale,
        resize,
        crop,
        keep_exact=config.resize is None,
        color=color,
        layout=shape.layout,
        dtype="uint8" if spec.dtype == "uint8" else "float32",
        input_shape=spec.shape,
    )


def _choose_color(config: PreprocessConfig, shape: InputShape, preset: str) -> Color:
    """Return the channel order that the options, the model's channels and the preset ask for."""
    color = config.color
    if color is None:
        return "gray" if shape.channels == 1 else PRESETS[preset].color
    if shape.channels is not None and (color == "gray") != (shape.channels == 1):
        expected = "gray" if shape.channels == 1 else "rgb or bgr"
        raise ConfigError(f"--color {color} doesn't fit a model of {shape.channels} channels; expected {expected}.")
    return color


def _choose_values(
    option: str,
    given: tuple[float, ...] | None,
    usual: tuple[float, ...],
    base: Preset,
    color: Color,
    channels: int,
) -> tuple[float, ...]:
    """Return one value per channel of `color`: as given (one number for all), else the preset's."""
    if given is None:
        if color == "gray":
            return (float(np.mean(usual)),)
        return usual if color == base.color else usual[::-1]
    if len(given) not in (1, channels):
        raise ConfigError(f"{option} has {len(given)} numbers for {channels} channels; expected 1 or {channels}.")
    return tuple(float(value) for value in given) * (channels // len(given))


def _choose_sizes(config: PreprocessConfig, shape: InputShape) -> tuple[Size | None, Size | None]:
    """Return the box to cover and the centre crop."""
    for option, side in (("--resize", config.resize), ("--crop", config.crop)):
        if side is not None and not 0 <= side <= 1 << 13:
            raise ConfigError(f"{option} is {side}; expected pixels, at most {1 << 13}, or 0 for none.")
    if config.crop:
        crop: Size | None = (config.crop, config.crop)
        if shape.height not in (None, config.crop) or shape.width not in (None, config.crop):
            raise ConfigError(
                f"--crop {config.crop} doesn't fit the model's images of "
                f"{shape.height or '?'}x{shape.width or '?'}; expected that size: leave the option out."
            )
    elif config.crop is None and shape.height is not None and shape.width is not None:
        crop = (shape.height, shape.width)
    else:
        crop = None
    if config.resize == 0 or (config.resize is None and crop is None):
        return None, crop
    if config.resize is None and crop is not None:
        margin = _CROP_FRACTION if min(crop) >= _SMALLEST_MARGINAL_CROP else 1.0
        return (round(crop[0] / margin), round(crop[1] / margin)), crop
    resize = int(config.resize or 0)
    if crop is not None and resize < min(crop):
        raise ConfigError(
            f"--resize {resize} makes images smaller than the crop of {crop[0]}x{crop[1]}; expected at least "
            f"{min(crop)}."
        )
    return (resize, resize), crop
