"""Multiply-adds by hand-derived formulas; an op is counted, free, or reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_basisprune.graph.cost import FREE_OPS, MAC_COUNTERS, count_pair_weights, measure_cost
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"


def build(text: str, opset: int = 17, **arrays: np.ndarray) -> onnx.ModelProto:
    imports = f'opset_import: ["" : {opset}, "custom" : 1]' if "custom." in text else f'opset_import: ["" : {opset}]'
    model = onnx.parser.parse_model(f"<ir_version: 8, {imports}> {text}")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def count(body: str, signature: str, opset: int = 17, **shapes: tuple[int, ...]) -> int:
    """Count one node's MACs; `shapes` are its weights."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    cost = measure_cost(build(f"g ({signature}) => (float y) {{ {body} }}", opset, **arrays))
    assert cost.uncounted_ops == ()
    return cost.macs


@pytest.mark.parametrize(("body", "weight", "macs"), [
    ("y = Conv (x, w)", (5, 3, 3, 3), 5 * 8 * 8 * 27),
    ("y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)", (5, 3, 3, 3), 5 * 5 * 5 * 27),
    ("y = Conv <dilations = [2, 3]> (x, w)", (5, 3, 3, 3), 5 * 6 * 4 * 27),
    ("y = Conv <auto_pad = \"SAME_UPPER\", strides = [3, 3]> (x, w)", (5, 3, 3, 3), 5 * 4 * 4 * 27),
    ("y = Conv <group = 3> (x, w)", (6, 1, 3, 3), 6 * 8 * 8 * 9),
    ("y = ConvTranspose <strides = [2, 2]> (x, w)", (3, 5, 2, 2), 3 * 10 * 10 * 5 * 4),
    ("y = ConvTranspose <group = 3> (x, w)", (3, 4, 3, 3), 3 * 10 * 10 * 4 * 9),
])  # fmt: skip
def test_convs(body: str, weight: tuple[int, ...], macs: int) -> None:
    assert count(body, "float[N, 3, 10, 10] x", w=weight) == macs


def test_convs_in_one_and_three_dimensions() -> None:
    assert count("y = Conv (x, w)", "float[N, 3, 10] x", w=(5, 3, 3)) == 5 * 8 * 9
    assert count("y = Conv (x, w)", "float[N, 3, 4, 5, 6] x", w=(5, 3, 2, 2, 2)) == 5 * 3 * 4 * 5 * 24


@pytest.mark.parametrize("transposes_b", [False, True])
@pytest.mark.parametrize("transposes_a", [False, True])
def test_gemm(transposes_a: bool, transposes_b: bool) -> None:
    body = f"a = Transpose (x) y = Gemm <transA = {int(transposes_a)}, transB = {int(transposes_b)}> "
    body += "(a, w)" if transposes_a else "(x, w)"
    assert count(body, "float[N, 7] x", w=(4, 7) if transposes_b else (7, 4)) == 28


def test_matmul() -> None:
    assert count("y = MatMul (x, w)", "float[N, 6, 7] x", w=(7, 4)) == 6 * 7 * 4
    assert count("y = MatMul (x, w)", "float[N, 2, 6, 7] x", w=(7,)) == 2 * 6 * 7
    assert count("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", "float[N, 6, 7] x") == 6 * 6 * 7
    assert count("y = MatMul (x, w)", "float[7] x", w=(7,)) == 7


@pytest.mark.parametrize(("equation", "w", "macs"), [
    ("nij,jk->nik", (7, 4), 6 * 7 * 4), ("nij , jk -> nk", (7, 4), 6 * 7 * 4), ("nij,nj->ni", (1, 7), 6 * 7),
    ("nij,ij", (6, 7), 6 * 7),
])  # fmt: skip
def test_einsum(equation: str, w: tuple[int, ...], macs: int) -> None:
    assert count(f'y = Einsum <equation = "{equation}"> (x, w)', "float[N, 6, 7] x", w=w) == macs


def test_einsums_without_a_product_and_with_an_ellipsis() -> None:
    assert count('y = Einsum <equation = "nij->nji"> (x)', "float[N, 6, 7] x") == 0
    model = build(
        'g (float[N, 6, 7] x) => (float y) { y = Einsum <equation = "...j,jk->...k"> (x, w) }',
        w=np.zeros((7, 4), np.float32),
    )  # fmt: skip
    assert measure_cost(model).uncounted_ops == ("Einsum",)


def test_attention() -> None:
    # 2 heads of 4 (values of 3), 5 queries, 6 keys: Q Kᵀ is 5·6·4 a head, times V 5·6·3.
    apart = "float[N, 2, 5, 4] x, float[N, 2, 6, 4] k, float[N, 2, 6, 3] v"
    assert count("y = Attention (x, k, v)", apart, opset=23) == 2 * 5 * 6 * (4 + 3)
    joined = "float[N, 5, 8] x, float[N, 6, 8] k, float[N, 6, 6] v"
    body = "y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, k, v)"
    assert count(body, joined, opset=23) == 2 * 5 * 6 * (4 + 3)


def test_lstm() -> None:
    body = """t = Transpose <perm = [1, 0, 2]> (x)
        y = LSTM <hidden_size = 5, direction = "bidirectional"> (t, w, r)"""
    assert count(body, "float[N, 6, 7] x", w=(2, 20, 7), r=(2, 20, 5)) == 6 * 2 * 20 * (7 + 5)


def test_counts_are_for_one_image() -> None:
    fixed = build("g (float[4, 3, 10, 10] x) => (float[4, 5, 8, 8] y) { y = Conv (x, w) }",
                  w=np.zeros((5, 3, 3, 3), np.float32))  # fmt: skip
    assert measure_cost(fixed).macs == 5 * 64 * 27
    assert measure_cost(fixed, {"x": (1, 3, 10, 10)}).macs == 5 * 64 * 27


def test_what_cannot_be_counted_is_reported() -> None:
    model = build(
        """g (float[N, 3, H, W] x) => (float y, float z, float r, float s) {
        y = Conv (x, w) z = custom.Conv (x) r, rh, rc = LSTM <hidden_size = 2> (x, lw, lr) s = Relu (x) }""",
        w=np.zeros((5, 3, 3, 3), np.float32), lw=np.zeros((1, 8, 3), np.float32), lr=np.zeros((1, 8, 2), np.float32),
    )  # fmt: skip
    cost = measure_cost(model)
    assert cost.uncounted_ops == ("Conv", "LSTM")
    assert [node.macs for node in cost.nodes] == [None, None, None, 0]
    assert cost.macs == 0
    assert measure_cost(model, {"x": (1, 3, 10, 10)}).nodes[0].macs == 5 * 64 * 27


def test_parameters_are_counted_once_and_only_weights() -> None:
    model = build(
        """g (float[N, 4, 5, 5] x) => (float[N, K] y) {
        a = Conv (x, w, b) c = Conv (a, w, b) n = BatchNormalization (c, b, b, m, v) s = Mul (n, scalar)
        k = Constant <value = float[4, 1, 1] {1, 2, 3, 4}> () t = Add (s, k) u = Add (t, k)
        e = Constant <value_floats = [1.0]> () f = Add (u, e) y = Reshape (f, shape) }""",
        w=np.zeros((4, 4, 1, 1), np.float32), b=np.zeros(4, np.float32), m=np.zeros(4, np.float32),
        v=np.ones(4, np.float32), scalar=np.array(2, np.float32), shape=np.array([1, -1]),
        unused=np.zeros(99, np.float32),
    )  # fmt: skip
    cost = measure_cost(model)
    assert cost.parameters == 16 + 3 * 4 + 4 + 1
    assert [node.parameters for node in cost.nodes if node.parameters] == [20, 8, 4, 1]
    assert sum(node.parameters for node in cost.nodes) == cost.parameters


@pytest.mark.parametrize(("name", "macs", "parameters"), [
    # stem and 3 stages of 3 blocks of two 3×3 convs, classifier 64 × 10
    ("resnet20_cifar10", 442_368 + 6 * 2_359_296 + 1_179_648 + 5 * 2_359_296 + 1_179_648 + 5 * 2_359_296 + 640, None),
    ("resnet20_cifar10_dynamo", 40_551_040, None),
    ("vgg16_cifar10", 313_201_664, 14_719_818),
    ("vgg16_mnist", 313_201_664, 14_719_818),
    ("efficientnet_lite0_imagenet", 385_187_552, None),
])  # fmt: skip
def test_known_totals(name: str, macs: int, parameters: int | None) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the shared models aren't beside the repository")
    model = load_model(path)
    for form in (model, normalize_model(model)):
        cost = measure_cost(form)
        assert (cost.macs, cost.uncounted_ops) == (macs, ())
        assert parameters is None or cost.parameters == parameters
        assert all(node.output_shape is not None for node in cost.nodes)


def test_shapes_computed_at_opset_11_do_not_stop_the_count() -> None:
    path = MODELS / "ppocr_cls.onnx"
    if not path.exists():
        pytest.skip("the shared models aren't beside the repository")
    model = load_model(path)
    before, after = (measure_cost(form, {"x": (1, 3, 48, 192)}) for form in (model, normalize_model(model)))
    assert before.uncounted_ops == after.uncounted_ops == ()
    assert before.macs == after.macs > 0


@pytest.mark.parametrize(("shape", "rank", "weights"), [((5, 3, 3, 3), 2, 2 * 32), ((8, 4), 3, 3 * 12)])
def test_weights_of_a_pair(shape: tuple[int, ...], rank: int, weights: int) -> None:
    assert count_pair_weights(shape, rank) == weights


def test_an_op_is_either_counted_or_free() -> None:
    assert not FREE_OPS & MAC_COUNTERS.keys()
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= MAC_COUNTERS.keys()
