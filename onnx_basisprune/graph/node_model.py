"""A model of a single node, to have it run by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_basisprune.planning.types import Operation

# Of ONNX's own operators there are none in such a model; a version must be stated all the same.
_OPSET, _IR_VERSION = 17, 8


def make_node_model(operation: Operation, inputs: Sequence[NDArray[np.generic] | None]) -> bytes:
    """Return a model of a node of a domain of its own, ready to be run.

    Args:
        operation: The node.
        inputs: What it will be fed, or the like: types and numbers of dimensions count. `None` where it is omitted.

    Returns:
        The serialized model; its inputs are named as the node's, its outputs too.
    """
    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in operation.attributes.items()
    }
    node = helper.make_node(
        operation.op_type, operation.inputs, operation.outputs, operation.name, domain=operation.domain, **attributes
    )
    specs = {
        name: helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in zip(operation.inputs, inputs, strict=True)
        if name and array is not None
    }
    graph = helper.make_graph(
        [node], "node", list(specs.values()), [onnx.ValueInfoProto(name=name) for name in operation.outputs if name]
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(operation.domain, operation.version)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())
