"""Random batches: shapes resolved, types kept, values seeded, everything else refused."""

import numpy as np
import pytest

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.runtime.random_input import draw_input


def draw(
    declared: tuple[int | None, ...] | None,
    batch_size: int | None = None,
    image_shape: tuple[int, ...] | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> np.ndarray:
    return draw_input([TensorSpec("x", dtype, declared)], batch_size, image_shape, seed)["x"]


@pytest.mark.parametrize(
    ("declared", "batch_size", "image_shape", "shape"),
    [
        ((None, 3, 8, 8), None, None, (1, 3, 8, 8)),
        ((None, 3, 8, 8), 5, None, (5, 3, 8, 8)),
        ((4, 3, 8, 8), None, None, (4, 3, 8, 8)),
        ((4, 3, 8, 8), 4, (3, 8, 8), (4, 3, 8, 8)),
        ((None, 3, None, None), 2, (3, 6, 7), (2, 3, 6, 7)),
        ((None, None, None, 3), None, (6, 7, 3), (1, 6, 7, 3)),
        (None, 2, (3, 4), (2, 3, 4)),
    ],
)
def test_open_dimensions_are_filled_in(
    declared: tuple[int | None, ...] | None,
    batch_size: int | None,
    image_shape: tuple[int, ...] | None,
    shape: tuple[int, ...],
) -> None:
    assert draw(declared, batch_size, image_shape).shape == shape


@pytest.mark.parametrize(
    ("declared", "batch_size", "image_shape", "message"),
    [
        ((4, 3), 2, None, "fixed batch of 4, but the batch size asked for is 2"),
        ((None, 3, None), None, None, r"shape \[3, \?\], but the shape asked for is none"),
        ((None, 3, None), None, (1, 8), r"asked for is \[1, 8\]"),
        ((None, 3, None), None, (3, 8, 8), r"asked for is \[3, 8, 8\]"),
        ((None, 3, None), None, (3, 0), r"asked for is \[3, 0\]"),
        (None, None, None, "doesn't state its shape"),
    ],
)
def test_refuses_shapes_that_do_not_fit(
    declared: tuple[int | None, ...] | None,
    batch_size: int | None,
    image_shape: tuple[int, ...] | None,
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(declared, batch_size, image_shape)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "int64"])
def test_values_have_the_inputs_type_and_vary(dtype: str) -> None:
    x = draw((None, 1000), dtype=dtype)
    assert x.dtype == dtype
    assert np.isfinite(x).all()
    assert len(np.unique(x)) > 50
    if x.dtype.kind != "f":
        assert x.min() >= 0
        assert x.max() == (127 if dtype == "int8" else 255)
    np.testing.assert_array_equal(x, draw((None, 1000), dtype=dtype))
    assert (x != draw((None, 1000), dtype=dtype, seed=1)).any()


@pytest.mark.parametrize("dtype", ["str", "bool", "bfloat16", "seq(tensor(float))"])
def test_refuses_other_types(dtype: str) -> None:
    with pytest.raises(ModelError, match="expected floating-point or whole numbers"):
        draw((None, 3), dtype=dtype)


def test_refuses_several_inputs() -> None:
    specs = [TensorSpec("x", "float32", (None, 3)), TensorSpec("q", "float32", (None, 3))]
    with pytest.raises(ModelError, match="2 inputs \\('x', 'q'\\)"):
        draw_input(specs, 1, None, 0)


def test_a_model_without_a_batch_axis_gets_one_image() -> None:
    assert draw((3, None, None), None, (3, 8, 6)).shape == (3, 8, 6)
    assert draw((3, 8, 6), 1, (3, 8, 6)).shape == (3, 8, 6)
    with pytest.raises(ConfigError, match=r"fixed batch of 1, but the batch size asked for is 4"):
        draw((3, 8, 6), 4, (3, 8, 6))
    with pytest.raises(ConfigError, match=r"images of shape \[3, 8, 6\], but the shape asked for is \[3, 8, 7\]"):
        draw((3, 8, 6), None, (3, 8, 7))
