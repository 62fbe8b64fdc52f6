"""Sizes that the graph computes with: a number of channels may only say what shape a tensor takes.

Where it is divided, gathered and joined into the target of a Reshape, it follows a removal by itself. As a number among
values (a scale, a mean, a position) it would change what the model computes: then its channels stay. Most such numbers
are constants already when channels are traced, see `graph.fold_sizes`; this guards the rest.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_basisprune.graph.channel_tracer import CONTRADICTION, Sizes, Tracer, UntraceableError
from onnx_basisprune.planning.channels import Labels, fixed_labels, place
from onnx_basisprune.planning.types import Operation

_SAME = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})
_ARITHMETIC = frozenset({"Abs", "Add", "Div", "Equal", "Max", "Min", "Mod", "Mul", "Neg", "Sub", "Where"})
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
# What states a shape: op_type → inputs.
_STATED_SHAPES = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Reshape": (1,),
    "Resize": (3,),
    "Slice": (1, 2),
    "Tile": (1,),
}
# Those whose output has that very shape.
_SHAPES_OF_OUTPUTS = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Resize": 3}
_NONE: Labels = np.zeros(0, dtype=np.int64)


def follow_sizes(operation: Operation, tracer: Tracer) -> None:
    """Note which channels a node's outputs count, and block those that it uses as a number."""
    if operation.op_type in ("Shape", "Size"):
        counted = _read_shape(operation, tracer)
        tracer.sizes[operation.outputs[0]] = counted if operation.op_type == "Shape" else [_join(counted)]
        return
    if not any(name in tracer.sizes for name in operation.inputs):
        return
    sizes = _compute_sizes(operation, tracer)
    if sizes is not None:
        tracer.sizes[operation.outputs[0]] = sizes
        return
    for index, name in enumerate(operation.inputs):
        if name in tracer.sizes and index not in _STATED_SHAPES.get(operation.op_type, ()):
            reason = f"{operation.op_type} {operation.name} uses their number as a value"
            tracer.classes.block(_join(tracer.sizes[name]), reason)


def follow_stated_shape(operation: Operation, tracer: Tracer) -> None:
    """Let channels that are counted for a shape go with those of the tensor that takes it, once it has its labels."""
    index = _SHAPES_OF_OUTPUTS.get(operation.op_type)
    if index is None or index >= len(operation.inputs) or operation.inputs[index] not in tracer.sizes:
        return
    labels = tracer.labels(operation.outputs[0])
    sizes, find = tracer.sizes[operation.inputs[index]], tracer.classes.find
    # The target of an Expand may leave out the first axes, a Resize names its own.
    axes = operation.attributes.get("axes") or range(labels.ndim - len(sizes), labels.ndim)
    for axis, counted in zip(axes, sizes, strict=False):
        there = labels.reshape(-1) if labels.shape[axis] > 1 else labels.reshape(-1)[:0]
        if not counted.size or np.array_equal(np.unique(find(counted)), np.unique(find(there))):
            continue
        reason = f"{operation.op_type} {operation.name} states a shape with the number of other channels"
        if len(counted) == len(there):
            tracer.classes.unite(counted, there, reason)
        else:
            tracer.classes.block(counted, reason)
            tracer.classes.block(there, reason)


def label_shape(name: str, shape: tuple[int, ...], tracer: Tracer) -> Labels:
    """Return the labels of a tensor that is made in a shape: those of the channels that the shape counts.

    Args:
        name: The vector of sizes.
        shape: The tensor's.
        tracer: What the vector counts.
    """
    sizes = tracer.sizes.get(name, [])
    for axis, counted in enumerate(sizes, start=len(shape) - len(sizes)):
        if len(counted) == shape[axis] > 1:
            return place(counted, len(shape), axis)
    return fixed_labels(len(shape))


def _read_shape(operation: Operation, tracer: Tracer) -> Sizes:
    """Return the channels that each element of a tensor's shape counts."""
    labels = tracer.labels(operation.inputs[0])
    sizes = [labels.reshape(-1) if count > 1 else _NONE for count in labels.shape]
    return sizes[operation.attributes.get("start", 0) : operation.attributes.get("end")]


def _compute_sizes(operation: Operation, tracer: Tracer) -> Sizes | None:
    """Return what each element of the output counts, `None` where the node isn't arithmetic on sizes."""
    x = operation.inputs[0]
    if operation.op_type in _SAME or (operation.op_type == "Cast" and operation.attributes.get("to") in _INTEGERS):
        return tracer.sizes.get(x)
    if operation.op_type == "Gather" and x in tracer.sizes:
        indices = tracer.constant(operation.inputs[1])
        return None if indices is None else [tracer.sizes[x][int(index)] for index in indices.reshape(-1)]
    if operation.op_type == "Slice" and x in tracer.sizes:
        return _slice_sizes(operation, tracer)
    elements = [_list_elements(name, tracer) for name in operation.inputs if name]
    if any(item is None for item in elements):
        return None
    if operation.op_type == "Concat":
        return [label for item in elements if item is not None for label in item]
    if operation.op_type in _ARITHMETIC:
        everything = _join([label for item in elements if item is not None for label in item])
        return [everything] * prod(tracer.shape(operation.outputs[0]))
    return None


def _slice_sizes(operation: Operation, tracer: Tracer) -> Sizes | None:
    """Take the same part of the elements."""
    bounds: list[int | None] = []
    for index, key in ((1, "starts"), (2, "ends"), (4, "steps")):
        if key in operation.attributes:
            value: NDArray[Any] | None = np.asarray(operation.attributes[key])
        elif index < len(operation.inputs) and operation.inputs[index]:
            value = tracer.constant(operation.inputs[index])
        else:
            bounds.append(None)
            continue
        if value is None or value.size != 1 or value.dtype.kind not in "iu":
            return None
        bounds.append(int(value.item()))
    if bounds[-1] == 0:
        raise UntraceableError(CONTRADICTION)
    return tracer.sizes[operation.inputs[0]][slice(*bounds)]


def _list_elements(name: str, tracer: Tracer) -> Sizes | None:
    """Return what the elements of a size or constant count, `None` for other tensors."""
    if name in tracer.sizes:
        return tracer.sizes[name]
    constant = tracer.constant(name)
    return None if constant is None else [_NONE] * constant.size


def _join(sizes: Sizes) -> Labels:
    return np.unique(np.concatenate([_NONE, *sizes]))
