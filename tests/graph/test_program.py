"""The graph as plain data."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from onnx_basisprune.graph.program import describe_value, extract_program, read_attribute
from onnx_basisprune.planning.types import TensorSpec


def test_a_small_graph() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "custom" : 3]>
        g (float[N, 3] x, float[3] w) => (float[N, 3] y) {
        [mul] m = Mul (x, w) a, b = Split <axis = 1> (m, sizes) y = custom.Join (a, b) }"""
    )
    arrays = {"w": np.arange(3, dtype=np.float32), "sizes": np.array([1, 2])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    program = extract_program(model)
    assert program.inputs == (TensorSpec("x", "float32", (None, 3)),)
    assert program.outputs == (TensorSpec("y", "float32", (None, 3)),)
    assert [(op.name, op.op_type, op.domain, op.version) for op in program.operations] == [
        ("mul", "Mul", "", 17), ("Split_1", "Split", "", 17), ("Join_2", "Join", "custom", 3),
    ]  # fmt: skip
    assert program.operations[1].inputs == ("m", "sizes")
    assert program.operations[1].outputs == ("a", "b")
    assert program.operations[1].attributes == {"axis": 1}
    np.testing.assert_array_equal(program.initializers["w"], [0, 1, 2])


def test_large_initializers_are_not_held() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 5000] x) => (float[N, 5000] y) { y = Mul (x, w) }'
    )
    values = np.arange(5000, dtype=np.float32)
    for name, array in (("w", values), ("s", np.arange(3))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    initializers = extract_program(model).initializers
    assert list(initializers) == ["w", "s"]
    assert len(initializers) == 2
    assert "w" in initializers
    assert "x" not in initializers
    assert initializers["s"] is initializers["s"]
    held = weakref.ref(initializers["w"])
    assert held() is None
    np.testing.assert_array_equal(initializers["w"], values)


def test_the_domain_written_in_full() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 12]> g (float[3] x) => (float[3] y) { y = Relu (x) }'
    )
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"
    (operation,) = extract_program(model).operations
    assert (operation.domain, operation.version) == ("", 12)


def test_attributes_of_every_type() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = onnx.parser.parse_graph("g (float[1] a) => (float[1] b) { b = Relu (a) }")
    values = {"f": 0.5, "i": 3, "s": "text", "fs": [0.5, 1.0], "is": [1, 2], "ss": ["a", "b"]}
    for name, value in values.items():
        assert read_attribute(helper.make_attribute(name, value)) == value
    assert read_attribute(helper.make_attribute("s", b"\xff")) == "\ufffd"
    np.testing.assert_array_equal(read_attribute(helper.make_attribute("t", tensor)), [1, 2])
    (array,) = read_attribute(helper.make_attribute("ts", [tensor]))
    np.testing.assert_array_equal(array, [1, 2])
    assert read_attribute(helper.make_attribute("g", graph)) is None
    assert read_attribute(helper.make_attribute("gs", [graph])) is None
    assert read_attribute(onnx.AttributeProto(name="empty", type=onnx.AttributeProto.INTS)) == []


def test_inputs_of_every_kind() -> None:
    make = helper.make_tensor_value_info
    assert describe_value(make("a", TensorProto.FLOAT16, [])) == TensorSpec("a", "float16", ())
    assert describe_value(make("a", TensorProto.FLOAT, None)) == TensorSpec("a", "float32", None)
    assert describe_value(make("a", TensorProto.UINT8, ["N", 3, None, 0, -1])) == TensorSpec(
        "a", "uint8", (None, 3, None, None, None)
    )
    assert describe_value(make("a", TensorProto.BFLOAT16, [1])) == TensorSpec("a", "bfloat16", (1,))
    assert describe_value(onnx.ValueInfoProto(name="a")) == TensorSpec("a", "", None)
    sequence = helper.make_tensor_sequence_value_info("a", TensorProto.FLOAT, [1])
    assert describe_value(sequence) == TensorSpec("a", "", None)
