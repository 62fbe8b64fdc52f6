"""Which channels form groups, what reads them, and why others stay; removal through classifiers and attention."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from onnx_basisprune.graph.dependency import ChannelMap, map_channels
from onnx_basisprune.graph.normalize import name_nodes, normalize_model
from onnx_basisprune.graph.surgery import find_unfit_groups

STEM = "h = Conv <pads = [1, 1, 1, 1]> (x, W1, b1) "
OUTPUT = "it is an output of the model, y"


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def list_free(channel_map: ChannelMap) -> dict[str, int]:
    return {group.name: len(group.channels) for group in channel_map.groups if not group.blocked_by}


def list_blocked(channel_map: ChannelMap) -> dict[str, str]:
    return {group.name: group.blocked_by for group in channel_map.groups if group.blocked_by}


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = node.output[0]
    return normalize_model(model)


class Case(NamedTuple):
    nodes: str
    free: dict[str, int]
    constants: dict[str, Any]
    x: str = "N, 3, 4, 4"
    blocked: dict[str, str] = {}  # noqa: RUF012 - never changed


CONV = {"W1": (6, 3, 3, 3), "b1": (6,)}
TOKENS = "N, 5, 8"
QKV = {"Q": (8, 6), "K": (8, 6), "V": (8, 7), "O": (7, 4)}
CASES = {
    "flatten": Case(STEM + "f = Flatten (h) y = Gemm (f, W2, b2)", {"h": 6}, CONV | {"W2": (96, 5), "b2": (5,)}),
    "reshape, NHWC": Case(
        STEM + "t = Transpose <perm = [0, 2, 3, 1]> (h) f = Reshape (t, to) y = Gemm <transB = 1> (f, W2)", {"h": 6},
        CONV | {"W2": (5, 96), "to": ints(-1, 96)},
    ),
    "reshape by the batch": Case(
        STEM + "s = Shape (h) n = Slice (s, i0, i1) to = Concat <axis = 0> (n, rest) f = Reshape (h, to) "
        "y = MatMul (f, W2)", {"h": 6}, CONV | {"W2": (96, 5), "i0": ints(0), "i1": ints(1), "rest": ints(96)}),
    "reshape by sizes, all but the channels in the graph": Case(
        STEM + "s = Shape (h) n = Gather (s, i0) n1 = Unsqueeze (n, i0v) to = Concat <axis = 0> (n1, c, rest) "
        "r = Reshape (h, to) m = ReduceMean <axes = [2], keepdims = 0> (r) y = MatMul (m, W2)", {"h": 6},
        CONV | {"W2": (6, 5), "i0": np.int64(0), "i0v": ints(0), "c": ints(6), "rest": ints(-1)}),
    "joined classifier inputs": Case(
        STEM + "a = GlobalAveragePool (h) b = GlobalMaxPool (h) j = Concat <axis = 1> (a, b) f = Flatten (j) "
        "y = Gemm (f, W2)", {"h": 6}, CONV | {"W2": (12, 5)}),
    "hidden units": Case(
        "f = Flatten (x) a = Gemm <transB = 1> (f, A, a0) r = Relu (a) b = Gemm <alpha = 0.5, beta = 2.0> (r, B, b0) "
        "s = Sigmoid (b) c = Gemm (s, C, c0) y = Gemm (c, D, d0)", {"a": 9, "b": 7, "c": 4},
        {"A": (9, 48), "a0": (9,), "B": (9, 7), "b0": (1, 7), "C": (7, 4), "c0": (1,), "D": (4, 5), "d0": ()}),
    "perceptron of a transformer": Case(
        "n = LayerNormalization (x, s) a = MatMul (n, A) b = Add (a0, a) g = Tanh (b) c = MatMul (g, C) "
        "d = Add (c, c0) r = Add (d, x) m = ReduceMean <axes = [1], keepdims = 0> (r) y = MatMul (m, D)", {"a": 12},
        {"s": (8,), "A": (8, 12), "a0": (12,), "C": (12, 8), "c0": (8,), "D": (8, 5)}, TOKENS,
        {"c": "Add r: it combines channels with a tensor that isn't pruned"}),
    "constant on the left": Case(
        "a = MatMul (A, x) r = Relu (a) b = MatMul (B, r) m = ReduceMean <axes = [2], keepdims = 0> (b) "
        "y = MatMul (m, D)", {"a": 9, "b": 7}, {"A": (9, 5), "B": (7, 9), "D": (7, 4)}, TOKENS),
    "attention": Case(
        "q = MatMul (x, Q) k = MatMul (x, K) v = MatMul (x, V) kt = Transpose <perm = [0, 2, 1]> (k) "
        "w = MatMul (q, kt) p = Softmax (w) a = MatMul (p, v) o = MatMul (a, O) "
        "y = ReduceMean <axes = [1], keepdims = 0> (o)",
        {"q": 6, "v": 7}, QKV, TOKENS, {"o": OUTPUT}),
    "attention, tokens last": Case(
        "t = Transpose <perm = [0, 2, 1]> (x) q = MatMul (x, Q) k = MatMul (K, t) v = MatMul (V, t) w = MatMul (q, k) "
        "p = Softmax (w) pt = Transpose <perm = [0, 2, 1]> (p) a = MatMul (v, pt) o = MatMul (O, a) "
        "y = ReduceMean <axes = [2], keepdims = 0> (o)",
        {"q": 6, "v": 7}, {"Q": (8, 6), "K": (6, 8), "V": (7, 8), "O": (4, 7)}, TOKENS, {"o": OUTPUT}),
    "attention of heads": Case(
        "q0 = MatMul (x, Q) q1 = Reshape (q0, heads) q = Transpose <perm = [0, 2, 1, 3]> (q1) "
        "k0 = MatMul (x, K) k1 = Reshape (k0, heads) kt = Transpose <perm = [0, 2, 3, 1]> (k1) "
        "v0 = MatMul (x, V) v1 = Reshape (v0, heads) v = Transpose <perm = [0, 2, 1, 3]> (v1) "
        "w0 = MatMul (q, kt) w = Mul (w0, scale) p = Softmax <axis = -1> (w) a0 = MatMul (p, v) "
        "a1 = Transpose <perm = [0, 2, 1, 3]> (a0) a = Reshape (a1, back) o = MatMul (a, O) "
        "y = ReduceMean <axes = [1], keepdims = 0> (o)", {"q0": 3, "v0": 3},
        {"Q": (8, 6), "K": (8, 6), "V": (8, 6), "O": (6, 4), "heads": ints(0, 5, 2, 3), "back": ints(0, 0, 6),
         "scale": ()}, TOKENS, {"o": OUTPUT}),
    "keys of heads, reshaped by parts": Case(
        "q0 = MatMul (x, Q) q1 = Reshape (q0, heads) q = Transpose <perm = [0, 2, 1, 3]> (q1) "
        "k0 = MatMul (x, K) k1 = Reshape (k0, heads) k2 = Transpose <perm = [0, 2, 1, 3]> (k1) "
        "s = Shape (k2) s2 = Slice (s, i0, i2) k3 = Reshape (k2, flat) k4 = Transpose <perm = [0, 2, 1]> (k3) "
        "to = Concat <axis = 0> (s2, three, five) kt = Reshape (k4, to) w = MatMul (q, kt) "
        "m = ReduceMean <axes = [1, 3], keepdims = 0> (w) y = MatMul (m, O)", {"q0": 3},
        {"Q": (8, 6), "K": (8, 6), "O": (5, 4), "heads": ints(0, 5, 2, 3), "flat": ints(-1, 5, 3), "i0": ints(0),
         "i2": ints(2), "three": ints(3), "five": ints(5)}, TOKENS),
    "a vector": Case(STEM + "f = Flatten (h) v = MatMul (f, W2) y = Unsqueeze (v, i1)", {},
                     CONV | {"W2": (96,), "i1": ints(1)}, blocked={"h": "MatMul v: one of its inputs is a vector"}),
    "transposed product": Case(
        "f = Flatten (x) a = Gemm (f, A) y = Gemm <transA = 1> (a, a)", {}, {"A": (48, 6)},
        blocked={"a": "Gemm y: its weight isn't constant"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_groups_and_removal(build: Any, check_removal: Any, case: Case) -> None:
    model = prepare(build(case.nodes, x=case.x, **case.constants))
    shape = [int(size) for size in case.x.split(",")[1:]]
    channel_map = map_channels(model)
    assert list_free(channel_map) == case.free
    last = {} if case.blocked else {model.graph.node[-1].name: OUTPUT}
    blocked = list_blocked(channel_map)
    assert blocked.items() >= case.blocked.items()
    assert blocked.items() <= (case.blocked | last | {"y": OUTPUT}).items()

    @seed(0)
    @settings(max_examples=4, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1))
    def check(choice: int) -> None:
        check_removal(model, choice, shape=shape)

    if case.free:
        check()


def test_reads_say_where_weights_are(build: Any) -> None:
    nodes = STEM + "c = Conv (h, W2) f = Flatten (c) g = Gemm <transB = 1> (f, W3) r = Relu (g) y = MatMul (r, W4)"
    model = prepare(build(nodes, **CONV, W2=(4, 6, 1, 1), W3=(7, 64 * 4), W4=(7, 5)))
    found = {(r.node, r.input_index, r.axis, r.weight_index, r.weight_axis, len(r.labels)) for r in
             map_channels(model).reads}  # fmt: skip
    assert found == {("c", 0, 1, 1, 1, 6), ("g", 0, 1, 1, 1, 256), ("y", 0, 1, 1, 0, 7)}


def test_the_order_of_channels_is_that_of_the_first_node(build: Any) -> None:
    model = prepare(build(STEM + "f = Flatten (h) y = Gemm (f, W2)", **CONV, W2=(384, 5)))
    channel_map = map_channels(model)
    (group,) = (group for group in channel_map.groups if not group.blocked_by)
    np.testing.assert_array_equal(group.channels, channel_map.labels["h"].reshape(-1))
    coupling = next(c for c in channel_map.couplings if (c.node, c.input_index, c.axis) == ("y", 1, 0))
    np.testing.assert_array_equal(coupling.labels, np.repeat(group.channels, 64))


def test_outputs_stay(build: Any) -> None:
    model = prepare(build(STEM + "y = Relu (h) c = Conv (h, W2)", y="N, 6, 8, 8", **CONV, W2=(4, 6, 1, 1)))
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    assert set(list_blocked(map_channels(prepare(model))).values()) == {OUTPUT}


def test_overridable_weights_stay(build: Any) -> None:
    model = build(STEM + "f = Flatten (h) y = Gemm (f, W2)", **CONV, W2=(384, 5))
    model.graph.input.append(onnx.helper.make_tensor_value_info("W2", onnx.TensorProto.FLOAT, [384, 5]))
    blocked = list_blocked(map_channels(prepare(model)))
    assert blocked == {"h": "Gemm y: its weight isn't constant"}
    model = build(STEM + "f = Flatten (h) y = Gemm (f, W2)", **CONV, W2=(384, 5))
    model.graph.input.append(onnx.helper.make_tensor_value_info("b1", onnx.TensorProto.FLOAT, [6]))
    blocked = list_blocked(map_channels(prepare(model)))
    assert blocked["h"] == "h reads a weight that isn't constant"


def test_unknown_ops_block(build: Any) -> None:
    nodes = STEM + "z = own.Twice (h) c = Conv (h, W2) f = GlobalAveragePool (c) y = Flatten (f)"
    model = build(nodes, domains=', "own": 1', **CONV, W2=(4, 6, 1, 1))
    # Nothing reads `z`, so it would vanish.
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    blocked = list_blocked(map_channels(prepare(model)))
    assert blocked["h"] == "Twice z: it has no channel rule"
    assert blocked["c"] == OUTPUT


BRANCHES = """
    k = Greater (t, t0)
    z = If (k) <
        then_branch = g1 () => (float[N, 6, 8, 8] u) { u = Relu (h) },
        else_branch = g2 () => (float[N, 6, 8, 8] v) { v = Neg (h) }>
    c = Conv (z, W2) r = Relu (c) d = Conv (r, W3) f = GlobalAveragePool (d) y = Flatten (f)
"""


def test_what_inner_graphs_read_stays(build: Any) -> None:
    constants = CONV | {"W2": (4, 6, 1, 1), "W3": (5, 4, 1, 1), "t0": ()}
    model = prepare(build(STEM + "t = ReduceMax <keepdims = 0> (x)" + BRANCHES, **constants))
    blocked = list_blocked(map_channels(model))
    assert blocked["h"] == "If z: it has no channel rule"
    assert blocked["d"] == OUTPUT


def test_the_number_of_channels_as_a_value_blocks(build: Any) -> None:
    nodes = (
        STEM + "s = Shape (h) c = Gather (s, i1) f = Cast <to = 1> (c) q = Sqrt (f) z = Div (h, q) g = Conv (z, W2) "
        "n = Gather (s, i0) w = Cast <to = 1> (n) v = Mul (g, w) p = GlobalAveragePool (v) e = Conv (p, W3) "
        "y = Flatten (e)"
    )
    constants = CONV | {"W2": (4, 6, 1, 1), "W3": (5, 4, 1, 1), "i1": np.int64(1), "i0": np.int64(0)}
    model = build(nodes, **constants)
    for node in model.graph.node:
        node.name = node.output[0]
    channel_map = map_channels(model)  # not normalised: sizes are still computed
    assert list_blocked(channel_map)["h"] == "Cast f uses their number as a value"
    assert list_free(channel_map) == {"g": 4}  # the batch is not a number of channels
    assert list_free(map_channels(normalize_model(model))) == {"h": 6, "g": 4}


def test_normalised_sizes_keep_their_value(build: Any, check_removal: Any) -> None:
    nodes = (
        STEM + "s = Shape (h) c = Gather (s, i1) f = Cast <to = 1> (c) q = Sqrt (f) z = Div (h, q) g = Conv (z, W2) "
        "p = GlobalAveragePool (g) y = Flatten (p)"
    )
    model = prepare(build(nodes, **CONV, W2=(4, 6, 1, 1), i1=np.int64(1)))
    for choice in range(3):
        check_removal(model, choice)


def test_a_tensor_keeps_a_channel_where_all_would_go_together(build: Any) -> None:
    nodes = STEM + "d = DepthToSpace <blocksize = 2> (h) c = Conv (d, W2) f = GlobalAveragePool (c) y = Flatten (f)"
    model = prepare(build(nodes, W1=(4, 3, 3, 3), b1=(4,), W2=(5, 1, 1, 1)))
    assert list_blocked(map_channels(model))["h"] == "all channels of a tensor would go at once"


def test_halves_that_are_used_apart_are_groups_apart(build: Any) -> None:
    nodes = STEM + "a, b = Split <axis = 1> (h) p = GlobalMaxPool (a) q = GlobalAveragePool (b) "
    nodes += "z = Concat <axis = 1> (p, q) c = Conv (z, W2) y = Flatten (c)"
    channel_map = map_channels(prepare(build(nodes, **CONV, W2=(5, 6, 1, 1))))
    assert list_free(channel_map) == {"h": 3, "h.1": 3}


def test_unnamed_nodes_are_traced_by_their_position(build: Any) -> None:
    model = build(STEM + "f = Flatten (h) y = Gemm (f, W2)", **CONV, W2=(384, 5))
    name_nodes(model)
    channel_map = map_channels(model)
    assert list_free(channel_map) == {"Conv_0": 6}
    assert find_unfit_groups(model, channel_map) == {}
