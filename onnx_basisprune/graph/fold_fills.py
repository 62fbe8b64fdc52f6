"""Write a Concat that joins one tensor with computed constants as a Pad: then the channels that it adds can go.

Shortcuts that widen by zeros are written so: `concat(x, zeros)`, the zeros filled into a shape that has the batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_basisprune.graph.editing import list_names, list_overridable, make_unique
from onnx_basisprune.graph.inner_graphs import ONNX_DOMAINS
from onnx_basisprune.graph.model_io import read_opset
from onnx_basisprune.graph.shapes import infer_dimensions

_FIRST_PAD_WITH_INPUTS = 11
_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_ZERO = np.zeros(1, dtype=np.float32)

Fills = dict[str, NDArray[np.floating]]


def pad_instead_of_fills(model: ModelProto) -> None:
    """Turn each Concat of one tensor with equal fills into a Pad, in place.

    Args:
        model: Nodes in topological order, with Constant nodes already turned into initializers.
    """
    fills = _find_fills(model)
    joins = [
        node for node in model.graph.node if node.op_type == "Concat" and any(name in fills for name in node.input)
    ]
    if not joins or read_opset(model) < _FIRST_PAD_WITH_INPUTS:
        return
    dimensions, taken = infer_dimensions(model), list_names(model)
    for node in joins:
        pads = _measure_pads(node, fills, dimensions)
        if node.domain not in ONNX_DOMAINS or pads is None:
            continue
        value = next(fills[name] for name in node.input if name in fills)
        names = []
        for what, values in (("pads", pads), ("value", value.reshape(()))):
            names.append(make_unique(f"{node.output[0]}.{what}", taken))
            taken.add(names[-1])
            model.graph.initializer.append(numpy_helper.from_array(values, names[-1]))
        (x,) = (name for name in node.input if name not in fills)
        node.CopyFrom(helper.make_node("Pad", [x, *names], node.output, name=node.name, doc_string=node.doc_string))


def _find_fills(model: ModelProto) -> Fills:
    """Return the tensors all of whose elements have the same known value, with that value, `[1]`."""
    overridable = list_overridable(model)
    single = {
        tensor.name: numpy_helper.to_array(tensor).reshape(-1)
        for tensor in model.graph.initializer
        if tensor.data_type in _TYPES and set(tensor.dims) <= {1} and tensor.name not in overridable
    }
    fills: Fills = {}
    for node in model.graph.node:
        if node.op_type == "Expand" and node.input[0] in single:
            fills[node.output[0]] = single[node.input[0]]
        elif node.op_type == "ConstantOfShape":
            given = [numpy_helper.to_array(item.t) for item in node.attribute if item.name == "value"]
            value = given[0] if given else _ZERO
            if value.dtype.kind == "f":
                fills[node.output[0]] = value
    return fills


def _measure_pads(
    node: NodeProto, fills: Fills, dimensions: dict[str, tuple[int | None, ...]]
) -> NDArray[np.int64] | None:
    """Return what a Concat's fills add before and after its other input, `[2·rank]`, `None` where that isn't known."""
    others = [name for name in node.input if name not in fills]
    values = {fills[name].tobytes() for name in node.input if name in fills}
    shape = dimensions.get(others[0]) if len(others) == 1 else None
    if shape is None or len(shape) < 2 or len(values) > 1:
        return None
    axis = helper.get_node_attr_value(node, "axis") % len(shape)
    pads, side = np.zeros((2, len(shape)), dtype=np.int64), 0
    for name in node.input:
        if name in fills:
            size = dimensions[name][axis] if name in dimensions else None
            if size is None:
                return None
            pads[side, axis] += size
        else:
            side = 1
    return pads.reshape(-1)
