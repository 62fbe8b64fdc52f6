from __future__ import annotations

from typing import Any

import pytest

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.preprocess_options import feed_as_is, resolve_preprocessing
from onnx_basisprune.errors import BasispruneError, ConfigError, ModelError
from onnx_basisprune.planning.types import TensorSpec


def _spec(*shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("input", dtype, shape)


def _resolve(spec: TensorSpec, preset: str = "unit", **options: Any) -> Any:
    return resolve_preprocessing(PreprocessConfig(**options), spec, preset)


@pytest.mark.parametrize(
    ("shape", "options", "resize", "crop"),
    [
        ((None, 3, 32, 32), {}, (32, 32), (32, 32)),
        ((1, 3, 224, 224), {}, (256, 256), (224, 224)),
        ((1, 128, 128, 3), {}, (146, 146), (128, 128)),
        ((1, 3, 48, 192), {}, (48, 192), (48, 192)),
        ((1, 3, 128, 256), {}, (146, 293), (128, 256)),
        ((1, 3, 224, 224), {"resize": 240}, (240, 240), (224, 224)),
        ((1, 3, 224, 224), {"resize": 0}, None, (224, 224)),
        ((1, 3, 224, 224), {"crop": 224}, (256, 256), (224, 224)),
        ((1, 3, 224, 224), {"crop": 0}, None, None),
        ((1, 3, None, None), {}, None, None),
        ((1, 3, None, None), {"resize": 64}, (64, 64), None),
        ((1, 3, None, None), {"crop": 64}, (64, 64), (64, 64)),
        ((1, 3, None, None), {"crop": 224, "resize": 0}, None, (224, 224)),
        ((1, 3, 64, None), {"crop": 64}, (64, 64), (64, 64)),
    ],
)
def test_sizes(shape: tuple[int | None, ...], options: dict[str, int], resize: Any, crop: Any) -> None:
    preprocessing = _resolve(_spec(*shape), **options)
    assert (preprocessing.resize, preprocessing.crop) == (resize, crop)


@pytest.mark.parametrize(
    ("shape", "layout", "color"),
    [
        ((None, 3, 32, 32), "nchw", "rgb"),
        ((None, 32, 32, 3), "nhwc", "rgb"),
        ((None, 1, 28, 28), "nchw", "gray"),
        ((None, 28, 28, 1), "nhwc", "gray"),
        ((None, None, None, None), "nchw", "rgb"),
        ((None, None, None, 3), "nhwc", "rgb"),
        ((1, 224, 224, None), "nhwc", "rgb"),
        ((1, 3, 3, 3), "nchw", "rgb"),
    ],
)
def test_layout_and_colour_of_the_shape(shape: tuple[int | None, ...], layout: str, color: str) -> None:
    preprocessing = _resolve(_spec(*shape))
    assert (preprocessing.layout, preprocessing.color) == (layout, color)


def test_unknown_rank_counts_as_dynamic_images() -> None:
    preprocessing = _resolve(TensorSpec("input", "float32", None), layout="nhwc", crop=32)
    assert (preprocessing.layout, preprocessing.crop) == ("nhwc", (32, 32))


def test_values_follow_the_colour_order() -> None:
    spec = _spec(1, 3, 32, 32)
    assert _resolve(spec, "imagenet").mean == (0.485, 0.456, 0.406)
    assert _resolve(spec, "imagenet", color="bgr").mean == (0.406, 0.456, 0.485)
    caffe = _resolve(spec, "caffe")
    assert (caffe.color, caffe.mean) == ("bgr", (103.939, 116.779, 123.68))
    assert _resolve(spec, "caffe", color="rgb").mean == (123.68, 116.779, 103.939)
    gray = _resolve(_spec(1, 1, 32, 32), "imagenet")
    assert gray.mean == pytest.approx((0.449,), abs=1e-12)
    assert gray.std == pytest.approx((0.226,), abs=1e-12)


def test_options_override_the_preset() -> None:
    preprocessing = _resolve(_spec(1, 3, 8, 8), "imagenet", mean=(0.5,), std=(1, 2, 3), scale=0.25, color="bgr")
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert preprocessing.std == (1.0, 2.0, 3.0)
    assert preprocessing.scale == 0.25


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 3, 8, 8), {"mean": (1.0, 2.0)}, r"--mean has 2 numbers for 3 channels"),
        ((1, 1, 8, 8), {"std": (1.0, 2.0, 3.0)}, r"--std has 3 numbers for 1 channels"),
        ((1, 3, 8, 8), {"std": (1.0, 0.0, 1.0)}, r"expected all over 0"),
        ((1, 3, 8, 8), {"std": (float("nan"),)}, r"expected all over 0"),
        ((1, 3, 8, 8), {"scale": 0.0}, r"--scale is 0"),
        ((1, 3, 8, 8), {"scale": 1e300}, r"make up to [\d.]+e\+30\d of a pixel; expected at most 1e\+30,"),
        ((1, 3, 8, 8), {"std": (1.0, 5e-324, 1.0)}, r"make up to inf of a pixel"),
        ((1, 3, 8, 8), {"mean": (-1e31,)}, r"of a pixel; expected at most"),
        ((1, 3, 8, 8), {"scale": float("inf")}, r"--scale is inf"),
        ((1, 3, 8, 8), {"mean": (float("nan"),)}, r"--mean .*finite"),
        ((1, 3, 8, 8), {"crop": 16}, r"--crop 16 doesn't fit the model's images of 8x8"),
        ((1, 3, 8, 16), {"crop": 8}, r"--crop 8 doesn't fit"),
        ((1, 3, 64, 64), {"resize": 32}, r"--resize 32 makes images smaller than the crop of 64x64"),
        ((1, 3, None, None), {"resize": -1}, r"--resize is -1"),
        ((1, 3, None, None), {"crop": 100_000}, r"--crop is 100000"),
        ((1, 3, 8, 8), {"color": "gray"}, r"--color gray doesn't fit a model of 3 channels"),
        ((1, 1, 8, 8), {"color": "rgb"}, r"--color rgb doesn't fit a model of 1 channels"),
        ((1, 3, 8, 8), {"layout": "nhwc"}, r"--layout nhwc doesn't fit .*expected nchw"),
    ],
)
def test_contradicting_options_are_refused(
    shape: tuple[int | None, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _resolve(_spec(*shape), **options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_spec(1, 10), r"'input' has the shape \[1, 10\]; expected 4 dimensions"),
        (_spec(1, 3, 8, 8, 8), r"expected 4 dimensions"),
        (_spec(1, 4, 8, 8), r"expected images of 1 or 3 channels"),
        (_spec(None, 64, 8, 16), r"\[\?, 64, 8, 16\]; expected images of 1 or 3"),
        (_spec(1, 3, 8, 8, dtype="int64"), r"is int64; expected floats or uint8"),
    ],
)
def test_models_that_take_no_images_are_refused(spec: TensorSpec, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _resolve(spec)


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'torch' isn't known; expected auto, imagenet, unit"):
        _resolve(_spec(1, 3, 8, 8), "torch")


def test_uint8_models_take_raw_pixels_only() -> None:
    spec = _spec(1, 8, 8, 3, dtype="uint8")
    assert _resolve(spec, "raw").dtype == "uint8"
    for preset, options in (("imagenet", {}), ("raw", {"mean": (1.0,)})):
        with pytest.raises(ConfigError, match=r"is uint8"):
            _resolve(spec, preset, **options)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_models_get_float32(dtype: str) -> None:
    assert _resolve(_spec(1, 3, 8, 8, dtype=dtype)).dtype == "float32"


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((None, 64), "nchw"), ((None, 8, 8, 3), "nhwc"), ((None, 7, 8, 8), "nchw"), (None, "nchw")],
)
def test_floats_go_into_models_of_any_rank(shape: tuple[int | None, ...] | None, layout: str) -> None:
    preprocessing = feed_as_is(PreprocessConfig(), TensorSpec("input", "float32", shape))
    assert preprocessing.layout == layout
    assert preprocessing.describe() == {"preset": "none"}


def test_all_refusals_are_one_line() -> None:
    with pytest.raises(BasispruneError) as caught:
        _resolve(TensorSpec("in\nput", "float32", (1, 2)))
    assert "\n" not in str(caught.value)
