"""Copies without data keep all else."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnx_basisprune.graph.tensors import (
    copy_without,
    copy_without_weights,
    drop_weights,
    is_shape_operand,
    iterate_tensors,
)

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "f" : 1], producer_name: "me", producer_version: "3", domain: "here",
 model_version: 7, doc_string: "all of it", metadata_props: ["key": "value"]>
g (float[N, 70] x) => (float[N, 70] y) <float[N, 70] h>
{
    [first] h = MatMul (x, large)
    [second] y = f.F (h)
}
<domain: "f", opset_import: ["" : 17]> F (a) => (b) { b = Relu (a) }
"""


def build() -> ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.doc_string = "the graph"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((70, 70), np.float32), "large"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int64), "small"))
    return model


@pytest.mark.parametrize("fields", [(), ("initializer",), ("node", "value_info"), ("output",)])
def test_copies_lack_only_what_was_named(fields: tuple[str, ...]) -> None:
    model = build()
    expected = build()
    for field in fields:
        expected.graph.ClearField(field)
    assert copy_without(model, fields) == expected
    assert model == build()


def test_large_weights_become_inputs() -> None:
    model = build()
    light = copy_without_weights(model)
    assert model == build()
    assert [tensor.name for tensor in light.graph.initializer] == ["small"]
    assert [value.name for value in light.graph.input] == ["x", "large"]
    kind = light.graph.input[1].type.tensor_type
    assert (kind.elem_type, [dim.dim_value for dim in kind.shape.dim]) == (TensorProto.FLOAT, [70, 70])
    # One that may be overridden is an input already.
    model.graph.input.append(light.graph.input[1])
    assert [value.name for value in copy_without_weights(model).graph.input] == ["x", "large"]


def test_weights_are_dropped_and_small_tensors_stay() -> None:
    model, expected = build(), build()
    expected.graph.initializer[0].ClearField("raw_data")
    assert drop_weights(model) == expected
    assert model == build()


@pytest.mark.parametrize(("shape", "small"), [((), True), ((0, 9999), True), ((4096,), True), ((4097,), False)])
def test_only_small_tensors_take_part_in_shape_arithmetic(shape: tuple[int, ...], *, small: bool) -> None:
    assert is_shape_operand(TensorProto(dims=shape)) == small


def test_tensors_of_functions_and_attributes_are_found() -> None:
    model = build()
    node = model.functions[0].node.add(op_type="Constant", output=["c"])
    node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.ones(2), "inner")))
    assert {tensor.name for tensor in iterate_tensors(model)} - {""} == {"large", "small", "inner"}
