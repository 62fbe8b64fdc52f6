"""A Conv of full rank and its pair compute the same; all else stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.graph.cost import count_pair_weights, measure_cost
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.graph.model_io import load_model, passes_full_check
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import (
    ConvPair,
    PairNames,
    flush_subnormals,
    replace_initializers,
    rewrite_convs,
    set_metadata,
)
from onnx_basisprune.planning.basis import make_pair, make_svd_basis
from onnx_basisprune.planning.types import Basis

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
NAMES = [
    "efficientnet_lite0_imagenet",
    "ppocr_cls",
    "resnet20_cifar10",
    "resnet20_cifar10_dynamo",
    "vgg16_cifar10",
    "vgg16_mnist",
]


def make_basis(W: np.ndarray, center: np.ndarray) -> Basis:
    """Any basis of full rank; one of `W Wᵀ` takes a fraction of the time of an SVD of a large W."""
    if W.shape[0] > W.shape[1]:
        return make_svd_basis(W, center)
    _, Q = np.linalg.eigh(W @ W.T)
    return Basis(Q.T[::-1], Q[:, ::-1], center)


def make_pairs(model: onnx.ModelProto, ranks: Callable[[int], int] = lambda full: full) -> dict[str, ConvPair]:
    """Pairs for all eligible Convs, centred on inputs of mean 1."""
    program, pairs = extract_program(model), {}
    for layer in list_conv_layers(model):
        if layer.reason:
            continue
        weight = program.initializers[layer.weight]
        W = weight.reshape(layer.out_channels, -1).astype(np.float64)
        b = program.initializers[layer.bias].astype(np.float64) if layer.bias else np.zeros(len(W))
        basis = make_basis(W, b + W.sum(axis=1))
        kept = np.arange(min(ranks(layer.full_rank), len(basis.R)))
        filters, scaling, bias = make_pair(W, b, basis, kept)
        pairs[layer.name] = ConvPair(filters.reshape(-1, *weight.shape[1:]), scaling, bias)
    return pairs


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("name", NAMES)
def test_full_rank_equals_the_original_on_real_models(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the shared models aren't beside the repository")
    original = load_model(path)
    normal = normalize_model(original)
    rewritten, names = rewrite_convs(normal, make_pairs(normal))
    assert len(names) > 10
    assert passes_full_check(rewritten) or not passes_full_check(original)
    height, width = {"ppocr_cls": (48, 192), "efficientnet_lite0_imagenet": (224, 224)}.get(name, (32, 32))
    x = np.random.default_rng(0).standard_normal((2, 3, height, width), dtype=np.float32)
    expected = run(original, x)
    np.testing.assert_allclose(run(rewritten, x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    for field in ("ir_version", "opset_import", "metadata_props", "producer_name", "producer_version", "doc_string"):
        assert getattr(rewritten, field) == getattr(original, field)
    assert rewritten.graph.input == original.graph.input
    assert rewritten.graph.output == original.graph.output


@pytest.mark.parametrize("name", ["resnet20_cifar10", "ppocr_cls"])
def test_cost_of_pairs_is_that_of_their_weights(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the shared models aren't beside the repository")
    model = normalize_model(load_model(path))
    shapes = {model.graph.input[0].name: (1, 3, 48, 192)} if name == "ppocr_cls" else {}
    cost = measure_cost(model, shapes)
    rows, weights = {row.name: row for row in cost.nodes}, extract_program(model).initializers
    shapes_of = {layer.name: weights[layer.weight].shape for layer in list_conv_layers(model) if not layer.reason}
    for choose in (lambda _: 1, lambda full: full // 2, lambda full: full):
        pairs = make_pairs(model, choose)
        counted = measure_cost(rewrite_convs(model, pairs)[0], shapes)
        assert pairs.keys() == shapes_of.keys()
        macs, parameters = cost.macs, cost.parameters
        for conv, pair in pairs.items():
            shape, row = shapes_of[conv], rows[conv]
            positions = (row.macs or 0) // int(np.prod(shape))
            macs += positions * count_pair_weights(shape, len(pair.basis)) - (row.macs or 0)
            parameters += count_pair_weights(shape, len(pair.basis)) + shape[0] - row.parameters
        assert (counted.macs, counted.parameters) == (macs, parameters)


@st.composite
def convs(draw: st.DrawFn) -> tuple[onnx.ModelProto, np.ndarray]:
    """One Conv of any geometry, with an input that it fits."""
    rank = draw(st.integers(1, 3))
    per_axis = st.integers(1, 3)
    kernel = [draw(per_axis) for _ in range(rank)]
    strides, dilations = [draw(per_axis) for _ in range(rank)], [draw(st.integers(1, 2)) for _ in range(rank)]
    inputs, outputs = draw(st.integers(1, 6)), draw(st.integers(2, 24))
    attributes: dict[str, object] = {"strides": strides}
    auto_pad = draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad:
        attributes["auto_pad"] = auto_pad
    if not auto_pad.startswith("SAME"):  # onnxruntime has SAME without dilations only
        attributes["dilations"] = dilations
    if auto_pad in ("", "NOTSET"):
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    if draw(st.booleans()):
        attributes["kernel_shape"] = kernel
    if draw(st.booleans()):
        attributes["group"] = 1
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weight = rng.standard_normal((outputs, inputs, *kernel), dtype=np.float32)
    reads = ["x", "w"]
    arrays = {"w": weight}
    bias = draw(st.sampled_from(["none", "empty", "given"]))
    if bias == "given":
        arrays["b"] = rng.standard_normal(outputs, dtype=np.float32)
        reads.append("b")
    elif bias == "empty":
        reads.append("")
    sizes = [draw(st.integers(7, 9)) for _ in range(rank)]
    batch = draw(st.sampled_from(["N", 1, 3]))
    node = helper.make_node("Conv", reads, ["y"], name="n", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs, *sizes])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs, *(f"d{i}" for i in range(rank))])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opset = draw(st.sampled_from([7, 11, 17, 22]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = rng.standard_normal((1 if batch == "N" else batch, inputs, *sizes), dtype=np.float32)
    return model, x


@given(convs())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_full_rank_equals_any_conv(case: tuple[onnx.ModelProto, np.ndarray]) -> None:
    model, x = case
    onnx.checker.check_model(model, full_check=True)
    normal = normalize_model(model)
    (layer,) = list_conv_layers(normal)
    program = extract_program(normal)
    weight = program.initializers["w"]
    W = weight.reshape(len(weight), -1).astype(np.float64)
    b = program.initializers["b"].astype(np.float64) if layer.bias else np.zeros(len(W))
    basis = make_svd_basis(W, b - W.sum(axis=1))  # the mean of y for inputs of mean -1
    filters, scaling, bias = make_pair(W, b, basis, np.arange(len(basis.R)))
    pair = ConvPair(filters.reshape(-1, *weight.shape[1:]), scaling, bias)
    rewritten, names = rewrite_convs(normal, {"n": pair})
    onnx.checker.check_model(rewritten, full_check=True)
    expected = run(model, x)
    # float32 sums of at most 162 products, twice
    np.testing.assert_allclose(run(rewritten, x), expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
    cost, counted = measure_cost(normal), measure_cost(rewritten)
    # The layer may be one that doesn't pay: the price holds all the same.
    positions = cost.macs // weight.size
    assert counted.macs == positions * len(basis.R) * sum(W.shape)
    assert counted.parameters == sum(array.size for array in extract_program(rewritten).initializers.values())
    assert names["n"] == PairNames("w.basis", "w.scaling", "b.scaling" if layer.bias else "w.bias.scaling")


def build(body: str, *extra: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 6, 6] x) => (float[N, 4, H, W] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4)}
    arrays |= {name: rng.standard_normal(4) for name in extra}
    model.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    return model


def test_names_and_attributes() -> None:
    model = build("[conv1] c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b) [act] y = Relu (c)")
    rewritten, names = rewrite_convs(model, make_pairs(model, lambda _: 2))
    assert names == {"conv1": PairNames("w.basis", "w.scaling", "b.scaling")}
    basis, scaling, relu = rewritten.graph.node
    assert (basis.name, list(basis.input), list(basis.output)) == ("conv1.basis", ["x", "w.basis"], ["c.basis"])
    assert list(scaling.input) == ["c.basis", "w.scaling", "b.scaling"]
    assert (scaling.name, list(scaling.output)) == ("conv1.scaling", ["c"])
    original = {attribute.name: attribute for attribute in model.graph.node[0].attribute}
    assert {attribute.name: attribute for attribute in basis.attribute} == original
    assert relu == model.graph.node[1]
    shapes = {tensor.name: list(tensor.dims) for tensor in rewritten.graph.initializer}
    assert shapes == {"w.basis": [2, 3, 3, 3], "w.scaling": [4, 2, 1, 1], "b.scaling": [4]}
    assert {tensor.data_type for tensor in rewritten.graph.initializer} == {TensorProto.FLOAT}


def test_documentation_goes_to_both_nodes() -> None:
    model = build("[conv1] c = Conv (x, w, b) [act] y = Relu (c)")
    model.graph.node[0].doc_string = "the first"
    model.graph.node[0].metadata_props.add(key="namespace", value="net.conv1")
    basis, scaling, relu = rewrite_convs(model, make_pairs(model))[0].graph.node
    for node in (basis, scaling):
        assert node.doc_string == "the first"
        assert node.metadata_props == model.graph.node[0].metadata_props
    assert relu == model.graph.node[1]


def test_names_that_are_taken() -> None:
    model = build("[conv1] t = Conv (x, w, b) [act] y = Relu (t)")
    model.graph.node[1].name = "conv1.basis"
    for name in ("w.basis", "w.scaling"):
        model.graph.node.add(op_type="Identity", name=f"keep {name}", input=["x"], output=[name])
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 6, 6]))
    before = run(model, np.ones((1, 3, 6, 6), np.float32))
    rewritten, names = rewrite_convs(model, make_pairs(model))
    assert names == {"conv1": PairNames("w.basis.1", "w.scaling.1", "b.scaling")}
    assert len({node.name for node in rewritten.graph.node}) == len(rewritten.graph.node)
    onnx.checker.check_model(rewritten, full_check=True)
    np.testing.assert_allclose(run(rewritten, np.ones((1, 3, 6, 6), np.float32)), before, rtol=0, atol=1e-4)


def test_a_conv_that_is_an_output_and_read_by_an_inner_graph() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y, float[N, M, H, W] z) {
        [n] y = Conv (x, w)
        z = If (yes) <then_branch = t () => (float[N, M, H, W] p) { p = Relu (y) },
                      else_branch = e () => (float[N, M, H, W] q) { q = Neg (y) }> }"""
    )
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.True_, "yes")])
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    normal = normalize_model(model)
    rewritten, _ = rewrite_convs(normal, make_pairs(normal))
    assert "w" not in {tensor.name for tensor in rewritten.graph.initializer}
    np.testing.assert_allclose(run(rewritten, x), run(model, x), rtol=0, atol=1e-4)


def test_no_pairs_change_nothing() -> None:
    model = build("[conv1] y = Conv (x, w, b)")
    assert rewrite_convs(model, {}) == (model, {})


def test_subnormals_are_flushed() -> None:
    values = np.array([1e-39, -1e-39, 1e-38, 2e-38, 0.0, 1.0, -3.0])
    np.testing.assert_array_equal(
        flush_subnormals(values, np.dtype(np.float32)), np.array([0, 0, 0, 2e-38, 0, 1, -3], np.float32)
    )
    assert flush_subnormals(np.array([1e-6, 1.0]), np.dtype(np.float16)).tolist() == [0.0, 1.0]
    model = build("[conv1] y = Conv (x, w, b)")
    pair = ConvPair(np.full((1, 3, 3, 3), 1e-40), np.full((4, 1), 1e-40), np.full(4, 1e-40))
    for tensor in rewrite_convs(model, {"conv1": pair})[0].graph.initializer:
        assert not numpy_helper.to_array(tensor).any()


def test_metadata_is_added_and_replaced() -> None:
    model = build("y = Conv (x, w, b)")
    model.metadata_props.add(key="author", value="someone")
    set_metadata(model, {"a": "1", "b": "2"})
    set_metadata(model, {"b": "3"})
    assert {entry.key: entry.value for entry in model.metadata_props} == {"author": "someone", "a": "1", "b": "3"}
    assert len(model.metadata_props) == 3


def test_initializers_are_replaced_on_a_copy() -> None:
    model = build("y = Conv (x, w, b)", "unused")
    before = model.SerializeToString()
    changed = replace_initializers(model, {"b": np.array([1.0, 1e-40, 2.0, 3.0])})
    assert model.SerializeToString() == before
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    np.testing.assert_array_equal(arrays["b"], np.array([1, 0, 2, 3], np.float32))
    assert [tensor.name for tensor in changed.graph.initializer] == ["w", "b", "unused"]
    np.testing.assert_array_equal(arrays["w"], numpy_helper.to_array(model.graph.initializer[0]))
