"""Editing through graph-surgeon: only what was changed changes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.graph.editing import edit_graph, list_captured, list_names, make_skeleton, make_unique

MODEL = """<ir_version: 10, opset_import: ["" : 21, "custom" : 1], producer_name: "maker">
g (float[N, 3, 6, 6] x, bool flag) => (float[N, M, H, W] y) {
    [conv] c = Conv <strides = [2, 2]> (x, w)
    [leaky] l = LeakyRelu <alpha = 0.5> (c)
    [odd] o = custom.Odd <graph = inner (float i) => (float j) { j = Relu (i) }> (l)
    [branch] y = If (flag) <
        then_branch = t () => (float[N, M, H, W] p) { hidden = Neg (l) p = Add (hidden, o) },
        else_branch = e () => (float[N, M, H, W] q) { q = Add (o, k) }> }"""


def build() -> onnx.ModelProto:
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"))
    model.graph.initializer.append(helper.make_tensor("k", TensorProto.FLOAT, [1], [2.0]))
    model.graph.initializer[1].doc_string = "kept"
    model.graph.value_info.append(helper.make_tensor_value_info("l", TensorProto.FLOAT, ["N", 4, 3, 3], "described"))
    return model


def test_no_change_changes_nothing() -> None:
    model = build()
    assert edit_graph(model, lambda _: None) == model


def test_weights_that_were_read_are_let_go_at_once() -> None:
    """Without waiting for the garbage collector: graph-surgeon's objects refer to each other."""
    model = build()
    held: list[weakref.ref[np.ndarray]] = []

    def change(graph: gs.Graph) -> None:
        conv = graph.nodes[0]
        held.append(weakref.ref(conv.inputs[1].values))
        conv.inputs[1] = gs.Constant("w2", conv.inputs[1].values * 2)
        held.append(weakref.ref(conv.inputs[1].values))
        assert all(reference() is not None for reference in held)

    gc.disable()
    try:
        edited = edit_graph(model, change)
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()
    assert [tensor.name for tensor in edited.graph.initializer] == ["k", "w2"]
    np.testing.assert_array_equal(numpy_helper.to_array(edited.graph.initializer[1]), 2 * np.ones((4, 3, 1, 1)))


def test_values_that_were_only_read_or_set_again_stay_as_they_are() -> None:
    def read(graph: gs.Graph) -> None:
        weight = graph.nodes[0].inputs[1]
        assert weight.values.shape == (4, 3, 1, 1)

    def set_again(graph: gs.Graph) -> None:
        graph.nodes[0].inputs[1].values = np.ones((4, 3, 1, 1), np.float32)

    model = build()
    model.graph.initializer[0].doc_string = "kept, too"
    assert edit_graph(model, read) == edit_graph(model, set_again) == model


def test_inner_graphs_hold_on_to_what_they_read() -> None:
    assert list_captured(build()) == ["k", "l", "o"]
    assert {"hidden", "p", "i", "conv", "branch", "k", "flag"} <= list_names(build())
    assert [value.name for value in make_skeleton(build()).graph.output] == ["y", "k", "l", "o"]


def test_changed_attributes_and_connections_are_carried_over() -> None:
    def change(graph: gs.Graph) -> None:
        conv, leaky = graph.nodes[:2]
        conv.attrs["strides"] = [1, 1]
        conv.attrs["group"] = 1
        leaky.inputs[0] = graph.inputs[0]
        leaky.attrs.clear()

    model = build()
    model.graph.node[1].doc_string = "leaks"
    edited = edit_graph(model, change)
    assert [node.name for node in edited.graph.node] == ["leaky", "odd", "branch"]  # nothing reads the Conv
    leaky = edited.graph.node[0]
    assert (list(leaky.input), len(leaky.attribute), leaky.doc_string) == (["x"], 0, "leaks")
    assert [tensor.name for tensor in edited.graph.initializer] == ["k"]

    def keep_conv(graph: gs.Graph) -> None:
        change(graph)
        graph.nodes[1].inputs[0] = graph.nodes[0].outputs[0]

    conv = edit_graph(model, keep_conv).graph.node[0]
    assert {item.name: onnx.helper.get_attribute_value(item) for item in conv.attribute} == {
        "strides": [1, 1],
        "group": 1,
    }


def test_changed_weights_replace_the_old_ones_in_place() -> None:
    def change(graph: gs.Graph) -> None:
        weight = graph.nodes[0].inputs[1]
        graph.nodes[0].inputs[1] = gs.Constant(weight.name, weight.values[:2] * 3)

    edited = edit_graph(build(), change)
    assert [tensor.name for tensor in edited.graph.initializer] == ["w", "k"]
    np.testing.assert_array_equal(
        numpy_helper.to_array(edited.graph.initializer[0]), np.full((2, 3, 1, 1), 3, np.float32)
    )
    assert edited.graph.initializer[1] == build().graph.initializer[1]


@pytest.mark.parametrize(("base", "taken", "name"), [
    ("a", set(), "a"), ("a", ["a"], "a.1"), ("a", {"a": 1, "a.1": 2}, "a.2"), ("a", frozenset({"a.1"}), "a"),
])  # fmt: skip
def test_unique_names(base: str, taken: set[str], name: str) -> None:
    assert make_unique(base, taken) == name
