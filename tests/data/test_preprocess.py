from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.preprocess import PRESETS, Preprocessing
from onnx_basisprune.data.preprocess_options import resolve_preprocessing
from onnx_basisprune.errors import DataError
from onnx_basisprune.planning.types import TensorSpec


def _resolve(*shape: int | None, preset: str = "raw", dtype: str = "float32", **options: Any) -> Preprocessing:
    return resolve_preprocessing(PreprocessConfig(**options), TensorSpec("input", dtype, shape), preset)


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_values_of_each_preset(preset: str) -> None:
    image = _image(4, 4)
    rgb = image.transpose(2, 0, 1).astype(np.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = {
        "imagenet": (rgb / 255 - mean[:, None, None]) / std[:, None, None],
        "unit": rgb / 255,
        "tf": rgb / 127.5 - 1,
        "raw": rgb,
        "caffe": rgb[::-1] - np.array([103.939, 116.779, 123.68])[:, None, None],
    }[preset]
    batch = _resolve(None, 3, 4, 4, preset=preset).apply([image])
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    # float32 rounding of one multiplication and one addition.
    np.testing.assert_allclose(batch[0], expected, rtol=1e-6, atol=2e-6)


def test_nhwc_is_the_transpose_of_nchw() -> None:
    images = [_image(4, 4, seed) for seed in range(3)]
    nchw = _resolve(None, 3, 4, 4, preset="imagenet").apply(images)
    nhwc = _resolve(None, 4, 4, 3, preset="imagenet").apply(images)
    assert np.array_equal(nhwc, nchw.transpose(0, 2, 3, 1))


def test_one_channel_models_get_luma() -> None:
    image = _image(4, 4)
    batch = _resolve(None, 1, 4, 4).apply([image])
    assert np.array_equal(batch[0, 0], np.asarray(Image.fromarray(image).convert("L"), dtype=np.float32))


def test_uint8_models_get_pixels() -> None:
    image = _image(4, 4)
    batch = _resolve(None, 4, 4, 3, dtype="uint8").apply([image])
    assert batch.dtype == np.uint8
    assert np.array_equal(batch[0], image)


def test_image_of_the_models_size_is_left_alone() -> None:
    image = _image(224, 224)
    assert np.array_equal(_resolve(None, 224, 224, 3).apply([image])[0], image)


def test_short_side_of_the_resize_is_only_cropped() -> None:
    image = _image(256, 301)
    assert np.array_equal(_resolve(None, 224, 224, 3).apply([image])[0], image[16:240, 38:262])


def test_explicit_resize_holds_for_images_of_the_models_size_too() -> None:
    image = _image(32, 32)
    assert not np.array_equal(_resolve(None, 32, 32, 3, resize=40).apply([image])[0], image)


def test_small_images_are_enlarged_as_pillow_does() -> None:
    image = _image(28, 28)
    expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(_resolve(None, 32, 32, 3).apply([image])[0], expected)


def test_the_aspect_ratio_is_kept() -> None:
    # A circle's bounding box stays square after resize and crop.
    yy, xx = np.mgrid[:200, :400]
    image = np.where(((yy - 100) ** 2 + (xx - 200) ** 2 < 60**2)[..., None], 255, 0).astype(np.uint8)
    batch = _resolve(None, 1, 50, 50).apply([np.repeat(image, 3, axis=2)])[0, 0]
    lit = batch > 127
    height, width = np.ptp(np.flatnonzero(lit.any(axis=1))), np.ptp(np.flatnonzero(lit.any(axis=0)))
    assert abs(int(height) - int(width)) <= 1
    assert abs(int(height) - 29) <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_every_image_fits_every_fixed_size(height: int, width: int, to_height: int, to_width: int) -> None:
    batch = _resolve(None, 3, to_height, to_width, layout="nchw").apply([_image(height, width)])
    assert batch.shape == (1, 3, to_height, to_width)


def test_dynamic_size_takes_images_as_they_are_if_they_agree() -> None:
    preprocessing = _resolve(None, 3, None, None)
    assert preprocessing.apply([_image(5, 7), _image(5, 7)]).shape == (2, 3, 5, 7)
    with pytest.raises(DataError, match=r"'b' is 7x5 where 'a' is 5x7.*--resize and --crop"):
        preprocessing.apply([_image(5, 7), _image(7, 5)], ["a", "b"])


def test_resize_without_crop_keeps_the_long_side() -> None:
    assert _resolve(None, 3, None, None, resize=10).apply([_image(20, 31)]).shape == (1, 3, 10, 15)


def test_image_that_cannot_fill_the_crop_is_named() -> None:
    with pytest.raises(DataError, match=r"'a' is 20x40 before the crop to 32x32"):
        _resolve(None, 3, 32, 32, resize=0).apply([_image(20, 40)], ["a"])


def test_size_that_does_not_fit_the_model_is_named() -> None:
    with pytest.raises(DataError, match=r"'a' makes .* \[\?, 3, 20, 40\]; .*\[\?, 3, 32, 32\]"):
        _resolve(None, 3, 32, 32, crop=0).apply([_image(20, 40)], ["a"])
    with pytest.raises(DataError, match=r"expected \[\?, 3, 48, \?\]"):
        _resolve(None, 3, 48, None).apply([_image(20, 40)])


def test_strip_that_would_become_gigabytes_is_refused() -> None:
    with pytest.raises(DataError, match=r"'strip' is 1x4000, too elongated"):
        _resolve(None, 3, 224, 224).apply([_image(1, 4000)], ["strip"])


def test_description_is_ready_for_json() -> None:
    description = _resolve(None, 3, 224, 224, preset="tf").describe()
    assert json.loads(json.dumps(description)) == description
    assert description["preset"] == "tf"
    assert description["resize"] == [256, 256]
