"""Compute the sizes that are the same in every run: exporters ask for them with Shape, and calculate.

A Shape node gives a vector of which some elements are known, such as the number of channels, and others depend on the
run, such as the batch. Nodes that only move elements keep what is known of them; arithmetic needs all of them. What is
known in full becomes an initializer. So a number of channels that the graph divides, compares or takes the root of is a
plain constant before channels are followed, and a shape that is joined from parts has it as a literal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnx_basisprune.graph.constant_folding import FOLDABLE_OPS, evaluate_node
from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.inner_graphs import ONNX_DOMAINS
from onnx_basisprune.graph.model_io import read_opset
from onnx_basisprune.graph.shapes import SHAPE_TYPES, infer_dimensions
from onnx_basisprune.graph.tensors import is_shape_operand

_UNKNOWN = np.iinfo(np.int64).min
_MOVING_OPS = frozenset({"Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"})

Values = NDArray[Any]


def fold_static_sizes(model: ModelProto) -> None:
    """Turn nodes that give the same sizes in every run into initializers of the same name, in place.

    Args:
        model: Nodes in topological order, with Constant nodes already turned into initializers.
    """
    while _fold_once(model):  # each time shape inference gets further
        pass


def _fold_once(model: ModelProto) -> bool:
    """Fold what can be told with the shapes that can be inferred now, and return whether that was anything."""
    if not any(node.op_type == "Shape" for node in model.graph.node):
        return False
    dimensions = infer_dimensions(model)
    overridable = list_overridable(model)
    constants = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.name not in overridable and is_shape_operand(tensor) and tensor.data_type in SHAPE_TYPES
    }
    outputs = {value.name for value in model.graph.output}
    opset, sizes, kept, folded = read_opset(model), dict[str, Values](), [], False
    for node in model.graph.node:
        value = _evaluate(node, dimensions, sizes, constants, opset)
        if value is not None:
            sizes[node.output[0]] = value
        if value is None or _is_unknown(value) or node.output[0] in outputs:
            kept.append(node)
            continue
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        folded = True
    if folded:
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return folded


def _evaluate(
    node: NodeProto,
    dimensions: dict[str, tuple[int | None, ...]],
    sizes: dict[str, Values],
    constants: dict[str, TensorProto],
    opset: int,
) -> Values | None:
    """Return a node's output as far as it is known, `None` where it isn't a size or nothing is known."""
    if node.domain not in ONNX_DOMAINS or len(node.output) != 1:
        return None
    if node.op_type == "Shape" and node.input[0] in dimensions:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        shape = dimensions[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
        return np.array([_UNKNOWN if size is None else size for size in shape], dtype=np.int64)
    if node.op_type not in FOLDABLE_OPS or not any(name in sizes for name in node.input):
        return None
    inputs: dict[str, Values] = {}
    for name in filter(None, node.input):
        if name in sizes:
            inputs[name] = sizes[name]
        elif name in constants:
            inputs[name] = numpy_helper.to_array(constants[name])
        elif node.op_type == "Concat" and len(dimensions.get(name, ())) == 1 and dimensions[name][0] is not None:
            inputs[name] = np.full(dimensions[name][0], _UNKNOWN)  # type: ignore[arg-type]
        else:
            return None
    moved = {node.input[0]} if node.op_type in ("Gather", "Slice", "Squeeze", "Unsqueeze") else set(inputs)
    if any(
        _is_unknown(value) and (node.op_type not in _MOVING_OPS or name not in moved) for name, value in inputs.items()
    ):
        return None
    return evaluate_node(node, inputs, opset)


def _is_unknown(value: Values) -> bool:
    """Return whether some element depends on the run."""
    return value.dtype == np.int64 and bool((value == _UNKNOWN).any())
