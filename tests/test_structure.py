"""What a network is but for its weights, and what two networks differ in first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.structure import NodeRecord, describe_structure, find_difference

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4, 4] x) => (float[N, 4, 4] y)
<int64[3] shape = {0, 4, 4}, float s = {0.5}>
{
    [turn] a = Reshape (x, shape)
    [leak] b = LeakyRelu <alpha = 0.1> (a)
    [split] c, d = Split <axis = 1> (b)
    [join] e = Concat <axis = 1> (d, c)
    [clip] f = Clip (e, , s)
    [take] y = Gather <axis = 2> (f, order)
}
"""


def describe(text: str = TEXT, order: int = 4) -> tuple[NodeRecord, ...]:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(order) % 4, "order"))
    return describe_structure(read_network(model, (1, 4, 4), ()))


def test_a_record_tells_connections_constants_and_attributes() -> None:
    turn, leak, split, join, clip, take = describe()
    assert turn == NodeRecord("turn", "Reshape", ("input 0", "int64[3] = 0,4,4"), {}, (1, 4, 4))
    assert leak.attributes == {}  # its slope may be trained
    assert split.attributes == {"axis": 1}
    assert join.inputs == ("split output 1", "split")
    assert clip.inputs == ("join", "", "float32[]")
    assert take.inputs == ("clip", "int64[4] = 0,1,2,3")


def test_long_constants_stand_as_a_digest() -> None:
    (source,) = describe(order=100)[-1].inputs[1:]
    assert source.startswith("int64[100] sha256 ")
    assert source != describe(order=101)[-1].inputs[1]


def test_new_weights_are_the_same_structure(named_network: Callable[[str], Network]) -> None:
    network = named_network("branching")
    model = ModelProto()
    model.CopyFrom(network.model)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f":
            tensor.CopyFrom(numpy_helper.from_array(values + np.float32(0.125), tensor.name))
    other = read_network(normalize_model(model), network.input_shape, ())
    assert find_difference(describe_structure(network), describe_structure(other)) is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[leak] b = LeakyRelu <alpha = 0.1>", "[leak] b = LeakyRelu <alpha = 0.3>", None),
        ("[leak]", "[other]", "node 1 is 'other', in the plan it is 'leak'"),
        ("LeakyRelu <alpha = 0.1>", "Relu", "node 'leak' is a Relu, in the plan it is a LeakyRelu"),
        ("(d, c)", "(c, d)", "input 0 of node 'join' is 'split', in the plan it is 'split output 1'"),
        ("(d, c)", "(d, c, c)", "node 'join' has 3 inputs, in the plan 2"),
        ("{0, 4, 4}", "{-1, 4, 4}", "input 1 of node 'turn' is 'int64[3] = -1,4,4', in the plan it is 'int64[3] = 0,"),
        ("Concat <axis = 1>", "Concat <axis = 2>", "attribute 'axis' of node 'join' is '2', in the plan it is '1'"),
        (
            "[take] y =",
            "[late] g = Relu (f)\n    [take] y =",
            "node 5 is 'late', in the plan it is 'take'",
        ),
    ],
)
def test_the_first_difference_is_named(old: str, new: str, expected: str | None) -> None:
    assert old in TEXT
    difference = find_difference(describe(), describe(TEXT.replace(old, new)))
    assert difference is None if expected is None else (difference or "").startswith(expected)


def test_shapes_and_nodes_at_the_end_count_too() -> None:
    nodes = describe()
    wide = (*nodes[:-1], replace(nodes[-1], output_shape=(1, 4, 5)))
    assert find_difference(nodes, wide) == "the output of node 'take' has shape (1, 4, 5), in the plan it has (1, 4, 4)"
    short = find_difference(nodes, nodes[:-1])
    assert short == "the model has 5 nodes, the plan's 6; the first one over is 'take'"
    assert find_difference(nodes[:-1], nodes) == "the model has 6 nodes, the plan's 5; the first one over is 'take'"
