"""Arithmetic on constants is computed where that is cheap and certain, else left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_basisprune.graph.constant_folding import evaluate_node
from onnx_basisprune.graph.normalize import normalize_model

Compare = Callable[..., None]


def build(body: str, opset: int = 17, **arrays: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 3] x) => (float[A, B] y) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def list_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_paddings_as_pytorch_exports_them(assert_equivalent: Compare) -> None:
    model = build(
        """c = Constant <value = int64[4] {0, 1, 0, 2}> ()
        zeros = ConstantOfShape <value = int64[1] {0}> (none)
        all = Concat <axis = 0> (c, zeros)
        pairs = Reshape (all, two)
        back = Slice (pairs, last, lowest, axis, last)
        turned = Transpose <perm = [1, 0]> (back)
        flat = Reshape (turned, minus)
        pads = Cast <to = 7> (flat)
        y = Pad (x, pads, value)""",
        none=np.array([0]), two=np.array([-1, 2]), last=np.array([-1]), lowest=np.array([-(2**63) + 1]),
        axis=np.array([0]), minus=np.array([-1]), value=np.array(0, np.float32),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Pad"]
    assert {tensor.name for tensor in normal.graph.initializer} == {"pads", "value"}
    assert_equivalent(model, normal, {"x": np.ones((2, 3), np.float32)}, 0)


def test_paddings_that_follow_from_the_size(assert_equivalent: Compare) -> None:
    """TensorFlow's SAME as timm's `pad_same` is exported: max((ceil(3 / 2) - 1) · 2 + 3 - 3, 0) = 2, halved."""
    model = build(
        """sizes = Shape (x)
        size = Gather (sizes, one)
        float_size = Cast <to = 1> (size)
        quotient = Div (float_size, two_f)
        count = Ceil (quotient)
        steps = Cast <to = 7> (count)
        last = Sub (steps, one)
        offset = Mul (last, two)
        end = Add (offset, three)
        lacking = Sub (end, size)
        total = Clip (lacking, zero)
        float_total = Cast <to = 1> (total)
        middle = Div (float_total, two_f)
        lower = Floor (middle)
        before = Cast <to = 7> (lower)
        after = Sub (total, before)
        before_1 = Unsqueeze (before, axis)
        after_1 = Unsqueeze (after, axis)
        pads = Concat <axis = 0> (zeros, before_1, zeros, after_1)
        y = Pad (x, pads, value)""",
        one=np.array(1), two=np.array(2), three=np.array(3), zero=np.array(0), two_f=np.array(2, np.float32),
        zeros=np.array([0]), axis=np.array([0]), value=np.array(0, np.float32),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Pad"]
    (pads,) = (numpy_helper.to_array(item) for item in normal.graph.initializer if item.name == "pads")
    assert pads.tolist() == [0, 1, 0, 1]
    assert_equivalent(model, normal, {"x": np.ones((2, 3), np.float32)}, 0)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_every_operator_set(opset: int, assert_equivalent: Compare) -> None:
    slicing = "s = Slice <starts = [1], ends = [3]> (a)" if opset < 10 else "s = Slice (a, one, three)"
    axes = opset < 13
    squeezing = "q = Squeeze <axes = [0]> (u)" if axes else "q = Squeeze (u, zero)"
    unsqueezing = "u = Unsqueeze <axes = [0]> (s)" if axes else "u = Unsqueeze (s, zero)"
    model = build(
        f"a = Add (k, k) {slicing} {unsqueezing} {squeezing} n = Neg (q) d = Div (q, two) m = Sub (n, d)"
        "t = Concat <axis = 0> (m, one_f) y = Mul (x, t)",
        opset=opset, k=np.array([1, 2, 3, 4], np.float32), one=np.array([1]), three=np.array([3]),
        zero=np.array([0]), two=np.array([2], np.float32), one_f=np.ones(1, np.float32),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal) == ["Mul"]
    assert_equivalent(model, normal, {"x": np.ones((2, 3), np.float32)}, 0)


@pytest.mark.parametrize("body", [
    # Read by name, variable, negative quotients, division by zero, overflow, unknown casts, too large.
    "r = RandomNormal <shape = [3]> () y = Add (x, r)",
    "q = Div (minus, two) f = Cast <to = 1> (q) y = Add (x, f)",
    "q = Div (one, zero) f = Cast <to = 1> (q) y = Add (x, f)",
    "q = Mul (huge, huge) y = Add (x, q)",
    "q = Cast <to = 7> (huge) f = Cast <to = 1> (q) y = Add (x, f)",
    "z = ConstantOfShape (large) s = ReduceSum (z) y = Add (x, s)",
    "z = Expand (one, large) c = Cast <to = 1> (z) s = ReduceSum (c) y = Add (x, s)",
])  # fmt: skip
def test_what_is_not_certain_stays(body: str) -> None:
    model = build(
        body, minus=np.array([-7]), two=np.array([2]), one=np.array([1]), zero=np.array([0]),
        huge=np.array([3e38], np.float32), large=np.array([1000, 1000]),
    )  # fmt: skip
    normal = normalize_model(model)
    assert list_ops(normal)[0] == list_ops(model)[0]


def test_large_weights_are_moved_but_never_grow() -> None:
    w = np.ones((70_000, 3), np.float32)
    model = build("t = Transpose (w) m = MatMul (x, t) y = Add (m, m)", w=w)
    assert list_ops(normalize_model(model)) == ["MatMul", "Add"]
    model = build("u = Unsqueeze (w, one) t = Add (w, u) s = ReduceSum (t) y = Add (x, s)", w=w, one=np.array([1]))
    assert list_ops(normalize_model(model)) == ["Add", "ReduceSum", "Add"]
    model = build("t = Transpose (h) c = Cast <to = 1> (t) m = MatMul (x, c) y = Add (m, m)",
                  h=np.ones((200_000, 3), np.float16))  # fmt: skip
    assert list_ops(normalize_model(model)) == ["Cast", "MatMul", "Add"]


@pytest.mark.parametrize(("opset", "body"), [
    (17, "b, m, v = BatchNormalization <training_mode = 1, momentum = 1.0> (w, g, z, z, g) t = Reshape (b, to) "),
    (17, """m = ReduceMean <axes = [0, 2]> (w) d = Sub (w, m) q = Mul (d, d) v = ReduceMean <axes = [0, 2]> (q)
            e = Add (v, small) r = Sqrt (e) t0 = Div (d, r) t = Reshape (t0, to)"""),
    (18, "n = ReduceL2 (w, axes) k = Div (w, n) t = Reshape (k, to) "),
])  # fmt: skip
def test_weights_that_are_normalised_in_the_graph(opset: int, body: str, assert_equivalent: Compare) -> None:
    w = np.random.default_rng(0).standard_normal((1, 5, 3 * 4096)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N, 3, 64, 64] x) => (float[N, 5, 1, 1] y) '
        f"{{ {body} y = Conv (x, t) }}"
    )
    constants = {
        "w": w, "g": np.ones(5, np.float32), "z": np.zeros(5, np.float32), "to": np.array([5, 3, 64, 64]),
        "small": np.float32([1e-6]), "axes": np.array([0, 2]),
    }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    normal = normalize_model(model)
    assert list_ops(normal) == ["Conv"]
    assert_equivalent(model, normal, {"x": x}, 1e-5)


def test_a_result_that_the_graph_gives_out_keeps_its_node() -> None:
    model = build("y = Add (one, one)", one=np.ones((2, 3), np.float32))
    assert list_ops(normalize_model(model)) == ["Add"]


def test_evaluation_of_one_node() -> None:
    node = onnx.helper.make_node("Gather", ["data", "index"], ["y"], axis=0)
    value = evaluate_node(node, {"data": np.array([5, 6, 7]), "index": np.array(1)}, 11)
    assert value is not None
    assert (value.tolist(), value.shape, value.dtype) == (6, (), np.dtype(np.int64))
    assert evaluate_node(node, {"data": np.array([5, 6, 7]), "index": np.array(9)}, 11) is None
