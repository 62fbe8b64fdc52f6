"""Channel rules of the operators that move channels without changing values."""

from __future__ import annotations

from math import prod

import numpy as np

from onnx_basisprune.graph.channel_rules_linear import make_labels
from onnx_basisprune.graph.channel_rules_size import label_shape
from onnx_basisprune.graph.channel_tracer import CONTRADICTION, Tracer, UntraceableError
from onnx_basisprune.graph.slices_and_pads import read_pads, read_slices
from onnx_basisprune.planning.channels import FIXED, Labels, fixed_labels, place, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation

_MOVED = "it changes the channel axis in a way that isn't followed"


def trace_identity(operation: Operation, tracer: Tracer) -> None:
    """The output is the input."""
    tracer.set(operation.outputs[0], tracer.labels(operation.inputs[0]))


def trace_reshape(operation: Operation, tracer: Tracer) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: what happens to the values happens to the labels."""
    labels, shape = tracer.materialize(operation.inputs[0]), tracer.shape(operation.outputs[0])
    if labels.size != prod(shape):
        raise UntraceableError(CONTRADICTION)
    tracer.set(operation.outputs[0], labels.reshape(shape))


def trace_transpose(operation: Operation, tracer: Tracer) -> None:
    """Permute the labels' axes."""
    labels = tracer.labels(operation.inputs[0])
    order = operation.attributes.get("perm") or list(range(labels.ndim))[::-1]
    if sorted(axis % labels.ndim for axis in order) != list(range(labels.ndim)):
        raise UntraceableError(CONTRADICTION)
    tracer.set(operation.outputs[0], labels.transpose(order))


def trace_expand(operation: Operation, tracer: Tracer) -> None:
    """Expand repeats along axes on which labels don't vary, to as many as other channels where it counts them."""
    x, target = operation.inputs
    shape, labels = tracer.shape(operation.outputs[0]), tracer.labels(x)
    if tracer.is_traced(x):
        tracer.set(operation.outputs[0], labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape))
        return
    made = label_shape(target, shape, tracer)
    before = (1,) * (len(shape) - labels.ndim) + tuple(tracer.shape(x))
    if any(before[axis] > 1 for axis in varying_axes(made)):
        made = fixed_labels(len(shape))
    tracer.set(operation.outputs[0], made)


def trace_constant_of_shape(operation: Operation, tracer: Tracer) -> None:
    """What is filled with a constant has the channels that its shape counts."""
    tracer.set(operation.outputs[0], label_shape(operation.inputs[0], tracer.shape(operation.outputs[0]), tracer))


def trace_tile(operation: Operation, tracer: Tracer) -> None:
    """Tile repeats labels as it repeats values."""
    before, after = tracer.shape(operation.inputs[0]), tracer.shape(operation.outputs[0])
    tracer.limit(prod(after))
    repeats = [new // old if old else 1 for old, new in zip(before, after, strict=True)]
    labels = tracer.labels(operation.inputs[0])
    varying = varying_axes(labels)
    tracer.set(
        operation.outputs[0],
        np.tile(labels, [count if axis in varying else 1 for axis, count in enumerate(repeats)]),
    )


def trace_concat(operation: Operation, tracer: Tracer) -> None:
    """Labels are joined as values are; on other axes, what is joined must go together."""
    rank = len(tracer.shape(operation.outputs[0]))
    axis = int(operation.attributes["axis"]) % rank
    others = {item for name in operation.inputs for item in varying_axes(tracer.labels(name)) if item != axis}
    if not others:
        labels = fixed_labels(rank)
        if any(np.any(tracer.labels(name) != FIXED) for name in operation.inputs):
            labels = place(_join_parts(operation, tracer, axis), rank, axis)
        tracer.set(operation.outputs[0], labels)
        return
    if len(others) > 1 or any(axis in varying_axes(tracer.labels(name)) for name in operation.inputs):
        raise UntraceableError(_MOVED)
    tracer.set(operation.outputs[0], _unite_inputs(operation, tracer, others.pop()))


def _join_parts(operation: Operation, tracer: Tracer, axis: int) -> Labels:
    """Return the labels of what a Concat joins, one part after the other; a constant's channels are its own."""
    parts = []
    for index, name in enumerate(operation.inputs):
        labels, size = read_axis(tracer.labels(name), axis), tracer.shape(name)[axis]
        if tracer.constant(name) is not None:
            labels = make_labels(tracer, size)
            tracer.couple(operation, index, axis, labels)
        parts.append(np.broadcast_to(labels, (size,)))
    return np.concatenate(parts)


def _unite_inputs(operation: Operation, tracer: Tracer, axis: int) -> Labels:
    """Unite the labels of all inputs of a Concat along an axis that it doesn't join; constants follow."""
    traced = [name for name in operation.inputs if tracer.is_traced(name)]
    labels = tracer.labels(traced[0])
    for index, name in enumerate(operation.inputs):
        if name in traced:
            tracer.classes.unite(labels, tracer.labels(name), "it is joined with channels that must stay")
        elif tracer.constant(name) is not None:
            tracer.couple(operation, index, axis, read_axis(labels, axis))
        else:
            tracer.classes.block(labels, f"Concat {operation.name} joins it with a tensor that isn't pruned")
    return labels


def trace_split(operation: Operation, tracer: Tracer) -> None:
    """Each output has its part of the labels."""
    x = operation.inputs[0]
    axis = int(operation.attributes.get("axis", 0)) % len(tracer.shape(x))
    labels, start = tracer.labels(x), 0
    if labels.shape[axis] > 1:
        _read_settings(operation, tracer)
    for name in operation.outputs:
        size = tracer.shape(name)[axis]
        if labels.shape[axis] > 1:
            tracer.set(name, labels.take(range(start, start + size), axis=axis))
        else:
            tracer.set(name, labels)
        start += size


def _read_settings(operation: Operation, tracer: Tracer) -> list[np.ndarray | None]:
    """Return a node's inputs from the second on, `None` where one is omitted.

    Raises:
        UntraceableError: One is computed in the graph.
    """
    settings = [tracer.constant(name) if name else None for name in operation.inputs[1:]]
    if any(value is None and name for value, name in zip(settings, operation.inputs[1:], strict=True)):
        raise UntraceableError("how it does so is computed in the graph")
    return settings


def trace_slice(operation: Operation, tracer: Tracer) -> None:
    """Slicing in space leaves channels alone; slicing channels takes their labels along."""
    x = operation.inputs[0]
    labels = tracer.labels(x)
    if tracer.is_traced(x):
        (axis,) = varying_axes(labels)
        slices = read_slices(operation.attributes, _read_settings(operation, tracer), labels.ndim)
        taken = slices.get(axis, slice(None))
        if taken.step not in (1, None) and len(slices) > 1:
            raise UntraceableError("it takes every so many channels, and slices other axes too")
        labels = labels.take(range(labels.shape[axis])[taken], axis=axis)
    tracer.set(operation.outputs[0], labels)


def trace_pad(operation: Operation, tracer: Tracer) -> None:
    """Padding in space leaves channels alone; padded channels are new ones that can go like any other."""
    x = operation.inputs[0]
    labels = tracer.labels(x)
    if tracer.is_traced(x):
        (axis,) = varying_axes(labels)
        pads = read_pads(operation.attributes, _read_settings(operation, tracer), labels.ndim)
        before, after = pads.get(axis, (0, 0))
        if (before or after) and operation.attributes.get("mode", "constant") != "constant":
            raise UntraceableError("it pads channels with other channels")
        tracer.limit(1 + max(before, 0) + max(after, 0))
        size = labels.shape[axis]
        kept = read_axis(labels, axis)[max(-before, 0) : size - max(-after, 0)]
        parts = [tracer.classes.make(max(before, 0)), kept, tracer.classes.make(max(after, 0))]
        labels = place(np.concatenate(parts), labels.ndim, axis)
    tracer.set(operation.outputs[0], labels)


def trace_gather(operation: Operation, tracer: Tracer) -> None:
    """Taking from an axis takes its labels along; a scalar index drops the axis."""
    x, indices = operation.inputs[:2]
    if not tracer.is_traced(x):
        tracer.set(operation.outputs[0], fixed_labels(len(tracer.shape(operation.outputs[0]))))
        return
    labels = tracer.labels(x)
    axis = int(operation.attributes.get("axis", 0)) % labels.ndim
    picked = np.zeros((1,) * len(tracer.shape(indices)), dtype=np.int64)
    if labels.shape[axis] > 1:
        constant = tracer.constant(indices)
        if constant is None:
            raise UntraceableError("which channels it picks is computed in the graph")
        size = labels.shape[axis]
        if constant.dtype.kind not in "iu" or ((constant < -size) | (constant >= size)).any():
            raise UntraceableError(CONTRADICTION)
        picked = constant
    tracer.set(operation.outputs[0], labels.take(picked, axis=axis))


def trace_resize(operation: Operation, tracer: Tracer) -> None:
    """Resize and Upsample in space leave channels alone."""
    before, after = tracer.shape(operation.inputs[0]), tracer.shape(operation.outputs[0])
    changed = [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    tracer.require_none(operation.inputs[0], changed, "it resizes the channel axis")
    tracer.set(operation.outputs[0], tracer.labels(operation.inputs[0]))


def trace_depth_to_space(operation: Operation, tracer: Tracer) -> None:
    """The b·b channels that become one pixel block go together."""
    x = operation.inputs[0]
    tracer.require_only(x, 1, _MOVED)
    labels = read_axis(tracer.labels(x), 1)
    if len(labels) > 1:
        blocks = int(operation.attributes["blocksize"]) ** 2
        if not blocks or len(labels) % blocks:
            raise UntraceableError(CONTRADICTION)
        is_dcr = operation.attributes.get("mode", "DCR") == "DCR"
        by_block = labels.reshape(blocks, -1) if is_dcr else labels.reshape(-1, blocks).T
        tracer.classes.unite(by_block, by_block[:1], "it shares pixels with channels that must stay")
        labels = by_block[0]
    tracer.set(operation.outputs[0], labels.reshape(1, -1, 1, 1))


def trace_space_to_depth(operation: Operation, tracer: Tracer) -> None:
    """Each channel becomes b·b of them."""
    x = operation.inputs[0]
    tracer.require_only(x, 1, _MOVED)
    labels = read_axis(tracer.labels(x), 1)
    if len(labels) > 1:
        copies = int(operation.attributes["blocksize"]) ** 2
        tracer.limit(len(labels) * copies)
        labels = np.tile(labels, copies)
    tracer.set(operation.outputs[0], labels.reshape(1, -1, 1, 1))


SHAPE_RULES = {
    "Cast": trace_identity,
    "CastLike": trace_identity,
    "Concat": trace_concat,
    "ConstantOfShape": trace_constant_of_shape,
    "DepthToSpace": trace_depth_to_space,
    "Dropout": trace_identity,
    "Expand": trace_expand,
    "Flatten": trace_reshape,
    "Gather": trace_gather,
    "Identity": trace_identity,
    "Pad": trace_pad,
    "Reshape": trace_reshape,
    "Resize": trace_resize,
    "Slice": trace_slice,
    "SpaceToDepth": trace_space_to_depth,
    "Split": trace_split,
    "Squeeze": trace_reshape,
    "Tile": trace_tile,
    "Transpose": trace_transpose,
    "Unsqueeze": trace_reshape,
    "Upsample": trace_resize,
}
