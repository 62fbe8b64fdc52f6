"""Models of a single image, without an axis for a batch: computed with one, written back without.

The input `x [C, H, W]` becomes `x [1, C, H, W]`, and a Squeeze in front of all that reads it takes the axis away again.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from onnx_basisprune.graph.inner_graphs import iterate_graphs
from onnx_basisprune.graph.model_io import read_opset
from onnx_basisprune.graph.tensors import copy_without
from onnx_basisprune.planning.types import Program

_IMAGE_CHANNELS = (1, 3)
_FIRST_OPSET_WITH_AXES_AS_INPUT = 13
_SINGLE, _AXES = ".without_batch", ".batch_axis"


def lacks_batch_axis(program: Program) -> bool:
    """Return whether a model takes one image at a time, without a batch axis.

    It does where its input has an axis less than its first Conv reads, and 1 or 3 channels on its first or last axis.

    Args:
        program: The graph as plain data.
    """
    weights = program.initializers
    conv = next((item for item in program.operations if item.op_type == "Conv" and item.inputs[1] in weights), None)
    shape = program.inputs[0].shape if len(program.inputs) == 1 else None
    if conv is None or not shape or shape[0] is None:
        return False
    has_channels = shape[0] in _IMAGE_CHANNELS or shape[-1] in _IMAGE_CHANNELS
    return has_channels and len(shape) == weights[conv.inputs[1]].ndim - 1


def add_batch_axis(model: ModelProto, name: str) -> ModelProto:
    """Return a copy of a model that takes a batch of 1.

    Args:
        model: Not changed.
        name: Its image input, without a batch axis.
    """
    result = copy_without(model, ("node", "input"))
    for value in model.graph.input:
        result.graph.input.append(_add_axis(value) if value.name == name else value)
    squeeze = helper.make_node("Squeeze", [name], [name + _SINGLE], name + _SINGLE)
    if read_opset(model) < _FIRST_OPSET_WITH_AXES_AS_INPUT:
        squeeze.attribute.append(helper.make_attribute("axes", [0]))
    else:
        squeeze.input.append(name + _AXES)
        result.graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.int64), name + _AXES))
    result.graph.node.append(squeeze)
    result.graph.node.extend(model.graph.node)
    rename_reads(result, name, name + _SINGLE, start=1)
    return result


def remove_batch_axis(model: ModelProto, original: ModelProto, name: str) -> ModelProto:
    """Return a copy of a model as it was before `add_batch_axis`.

    Args:
        model: Made from what `add_batch_axis` returned; not changed.
        original: What that was made from.
        name: The image input.
    """
    result = copy_without(model, ("node", "input", "initializer", "value_info"))
    result.graph.input.extend(original.graph.input)
    result.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name != name + _AXES)
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name != name + _SINGLE)
    result.graph.node.extend(node for node in model.graph.node if name + _SINGLE not in node.output)
    rename_reads(result, name + _SINGLE, name)
    return result


def _add_axis(value: ValueInfoProto) -> ValueInfoProto:
    """Return an input with a batch of 1 before its other dimensions."""
    result = ValueInfoProto()
    result.CopyFrom(value)
    shape = result.type.tensor_type.shape
    del shape.dim[:]
    shape.dim.add().dim_value = 1
    shape.dim.extend(value.type.tensor_type.shape.dim)
    return result


def rename_reads(model: ModelProto, old: str, new: str, start: int = 0) -> None:
    """Let all nodes from a position on, and what is in them, read another tensor, in place."""
    nodes = model.graph.node[start:]
    for node in (*nodes, *(node for graph in iterate_graphs(nodes) for node in graph.node)):
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
