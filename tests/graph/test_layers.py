"""Which Convs can be decomposed, and what is said of the others."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.graph import layers
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.planning.types import ConvLayer


def build(body: str, **arrays: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8, 9, 9] x) => (float[N, C, H, W] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_an_eligible_conv() -> None:
    model = build("[first] c = Conv (x, w, b) [second] y = Conv (c, v)", w=zeros(16, 8, 3, 3), b=zeros(16),
                  v=zeros(40, 16, 1, 1))  # fmt: skip
    first, second = list_conv_layers(model)
    assert first == ConvLayer("first", "Conv", "w", "b", 16, 72, "")
    assert second == ConvLayer("second", "Conv", "v", "", 40, 16, "")
    assert (first.full_rank, first.break_even_rank) == (16, 13)  # 13·88 < 16·72 ≤ 14·88
    assert (second.full_rank, second.break_even_rank) == (16, 11)


@pytest.mark.parametrize(("body", "weight", "reason"), [
    ("[n] y = Conv <group = 8> (x, w)", zeros(8, 1, 3, 3), "depthwise"),
    ("[n] y = Conv <group = 8> (x, w)", zeros(16, 1, 3, 3), "grouped (8 groups)"),
    ("[n] y = Conv <group = 2> (x, w)", zeros(8, 4, 3, 3), "grouped (2 groups)"),
    ("[n] y = ConvTranspose (x, w)", zeros(8, 4, 3, 3), "ConvTranspose isn't decomposed"),
    ("[n] y = Conv (x, w)", zeros(8, 8, 3, 3, dtype=np.float16),
     "its weight is float16; only float32 is decomposed"),
    ("r = Relu (w) [n] y = Conv (x, r)", zeros(8, 8, 3, 3), "its weight is computed in the graph"),
    ("b = ReduceSum <keepdims = 0> (w, axes) [n] y = Conv (x, w, b)", zeros(8, 8, 3, 3),
     "its bias is computed in the graph"),
    ("[n] y = Conv (x, w)", zeros(1, 8, 3, 3), "no rank below its full rank 1 takes fewer multiply-adds"),
])  # fmt: skip
def test_reasons(body: str, weight: np.ndarray, reason: str) -> None:
    (layer,) = list_conv_layers(build(body, w=weight, axes=np.array([1, 2, 3])))
    assert layer.reason == reason
    assert layer.full_rank == layer.break_even_rank == 0


def test_a_conv_too_wide_for_its_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("[n] y = Conv (x, w)", w=zeros(16, 1, 3, 3))
    monkeypatch.setattr(layers, "_LARGEST_FULL_RANK", 9)
    assert list_conv_layers(model)[0].reason == ""
    monkeypatch.setattr(layers, "_LARGEST_FULL_RANK", 8)
    assert list_conv_layers(model)[0].reason == "its full rank 9 is over 8: too wide for its moments"


def test_a_transposed_grouped_conv_is_described() -> None:
    (layer,) = list_conv_layers(build("[n] y = ConvTranspose <group = 2> (x, w)", w=zeros(8, 5, 3, 3)))
    assert (layer.out_channels, layer.fan_in) == (10, 4 * 9)


def test_excluded_nodes() -> None:
    model = build("c = Conv (x, w) r = Relu (c) y = Conv (r, w)", w=zeros(8, 8, 3, 3))
    for node, name in zip(model.graph.node, ("/a/Conv", "/b/Conv", "/c/Conv"), strict=True):
        node.name = name
    first, second = list_conv_layers(model, exclude=["/c/Conv", "/b/Conv"])
    assert (first.reason, second.reason) == ("", "excluded by --exclude")
    with pytest.raises(ConfigError, match=r"^--exclude '/c/conv': .*did you mean '/[abc]/Conv' or .*inspect") as caught:
        list_conv_layers(model, exclude=["/c/conv"])
    assert "'/c/Conv'" in str(caught.value)
    with pytest.raises(ConfigError, match=r"no node of this name; `basisprune inspect` lists all names\.$"):
        list_conv_layers(model, exclude=["zzz"])


def test_convs_of_other_domains_are_left_out() -> None:
    model = build("y = Relu (x)")
    model.graph.node.add(op_type="Conv", domain="custom", input=["x"], output=["z"])
    model.opset_import.add(domain="custom", version=1)
    assert list_conv_layers(model) == ()
    assert model.graph.node[1].op_type == "Conv"


def test_overridable_below_ir_4_is_constant() -> None:
    model = build("[n] y = Conv (x, w)", w=zeros(8, 8, 3, 3))
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8, 3, 3]))
    (layer,) = list_conv_layers(model)
    assert layer.reason == "its weight is a graph input that a caller may override"
    model.ir_version = 3
    (layer,) = list_conv_layers(model)
    assert layer.reason == ""
