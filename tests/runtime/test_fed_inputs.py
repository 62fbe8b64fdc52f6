"""What inputs beside the images are fed: numbers from the command line, in each input's type and shape."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.runtime.cold_start import measure_cold_start
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.session import Session

IMAGE = TensorSpec("x", "float32", (None, 3, 8, 8))


def resolve(text: str, dtype: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
    (item,) = resolve_feeds([f"t={text}"], (TensorSpec("t", dtype, shape), IMAGE))
    return item.make_batch(2)


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "expected"),
    [
        ("0.5", "float32", (), np.float32(0.5)),
        ("0.5", "float32", None, np.float32(0.5)),
        ("true", "bool", (), np.bool_(True)),
        ("False", "bool", (1,), np.array([False])),
        ("1", "bool", (), np.bool_(True)),
        ("3", "float16", (1, 1, 2, 2), np.full((1, 1, 2, 2), 3, np.float16)),
        ("8, 9", "int64", (2,), np.array([8, 9])),
        ("8,9", "int64", (2, 2), np.array([[8, 9], [8, 9]])),
        ("8,9", "int64", (None, 2), np.array([[8, 9], [8, 9]])),
        ("7", "uint8", (None,), np.array([7, 7], np.uint8)),
        ("9223372036854775807", "int64", (), np.int64(2**63 - 1)),
        ("1e-3", "float64", (), np.float64(1e-3)),
    ],
)
def test_numbers_take_the_type_and_shape_of_the_input(
    text: str, dtype: str, shape: tuple[int | None, ...] | None, expected: np.ndarray
) -> None:
    value = resolve(text, dtype, shape)
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "message"),
    [
        ("", "float32", (), "expected numbers"),
        ("one", "float32", (), "expected numbers"),
        ("1,,2", "float32", (3,), "expected numbers"),
        ("1.5", "int64", (), "int64, which doesn't hold"),
        ("300", "uint8", (), "uint8, which doesn't hold"),
        ("nan", "int32", (), "int32, which doesn't hold|expected numbers"),
        ("9" * 400, "int64", (), "expected numbers"),
        ("2", "bool", (), "bool, which doesn't hold"),
        ("1,2,3", "float32", (2,), r"3 numbers; expected 1, or 2 for the shape \[2\]"),
        ("1,2", "float32", (), r"2 numbers; expected 1"),
        ("1", "seq(tensor(float))", (), "takes numbers"),
        ("1", "map(int64,tensor(float))", (), "takes numbers"),
        ("1", "str", (), "takes numbers"),
        ("1", "", (), "takes numbers"),
        ("1", "bfloat16x", (), "takes numbers"),
        ("1", "float32", (None, 1, None, 8), r"shape \[\?, 1, \?, 8\]; expected fixed sizes"),
        ("1", "float32", (2**20, 2**20), "at most 67,108,864 elements"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_what_does_not_fit_is_refused(text: str, dtype: str, shape: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(text, dtype, shape)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["t"], "expected NAME=VALUE"),
        (["=1"], "expected NAME=VALUE"),
        (["q=1"], "no input of this name without a default: 't', 'x'"),
        (["t=1", "t=2"], "'t' twice"),
    ],
)
def test_names_must_be_known_and_given_once(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_feeds(texts, (TensorSpec("t", "float32", ()), IMAGE))


def test_names_may_hold_the_sign() -> None:
    (item,) = resolve_feeds(["a=b=1"], (TensorSpec("a=b", "float32", ()), IMAGE))
    assert item.name == "a=b"
    assert list_free((TensorSpec("a=b", "float32", ()), IMAGE), (item,)) == (IMAGE,)


MODEL = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1] gain, float[N, 2] x, float[N] bias) => (float[N, 2] y) {
        m = Mul (x, gain) a = Constant <value_ints = [1]> () b = Unsqueeze (bias, a) y = Add (m, b) }"""


def test_sessions_feed_it_in_every_run_of_any_batch() -> None:
    model = onnx.parser.parse_model(MODEL).SerializeToString()
    session = Session(model, threads=1, feed=["gain=3", "bias=0.5"])
    assert [spec.name for spec in session.inputs] == ["x"]
    for count in (1, 4):
        x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
        np.testing.assert_array_equal(session.predict(x), 3 * x + 0.5)
    with pytest.raises(ModelError, match=r"2 inputs .* --feed"):
        Session(model, threads=1, feed=["gain=3"]).predict(np.zeros((1, 2), np.float32))
    assert measure_cold_start(model, threads=1, feed=["gain=3", "bias=0.5"]).first_run_ms > 0
