"""Channel rules of the operators that move channels without changing values."""

from __future__ import annotations

import numpy as np

from onnx_basisprune.graph.channel_tracer import Tracer, UntraceableError
from onnx_basisprune.planning.channels import FIXED, Labels, fixed_labels, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation

_MOVED = "it changes the channel axis in a way that isn't followed"


def trace_identity(operation: Operation, tracer: Tracer) -> None:
    """The output is the input."""
    tracer.set(operation.outputs[0], tracer.labels(operation.inputs[0]))


def trace_reshape(operation: Operation, tracer: Tracer) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: what happens to the values happens to the labels."""
    labels = tracer.materialize(operation.inputs[0])
    tracer.set(operation.outputs[0], labels.reshape(tracer.shape(operation.outputs[0])))


def trace_transpose(operation: Operation, tracer: Tracer) -> None:
    """Permute the labels' axes."""
    labels = tracer.labels(operation.inputs[0])
    order = operation.attributes.get("perm") or list(range(labels.ndim))[::-1]
    tracer.set(operation.outputs[0], labels.transpose(order))


def trace_expand(operation: Operation, tracer: Tracer) -> None:
    """Expand repeats along axes on which labels don't vary."""
    rank = len(tracer.shape(operation.outputs[0]))
    labels = tracer.labels(operation.inputs[0])
    tracer.set(operation.outputs[0], labels.reshape((1,) * (rank - labels.ndim) + labels.shape))


def trace_tile(operation: Operation, tracer: Tracer) -> None:
    """Tile repeats labels as it repeats values."""
    before, after = tracer.shape(operation.inputs[0]), tracer.shape(operation.outputs[0])
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
        parts = [_along(tracer, name, axis) for name in operation.inputs]
        if any(np.any(part != FIXED) for part in parts):
            shape = [1] * rank
            shape[axis] = -1
            tracer.set(operation.outputs[0], np.concatenate(parts).reshape(shape))
        else:
            tracer.set(operation.outputs[0], fixed_labels(rank))
        return
    if len(others) > 1 or any(axis in varying_axes(tracer.labels(name)) for name in operation.inputs):
        raise UntraceableError(_MOVED)
    tracer.set(operation.outputs[0], _unite_inputs(operation, tracer, others.pop()))


def _along(tracer: Tracer, name: str, axis: int) -> Labels:
    """Return a tensor's labels along one axis at full size."""
    return np.broadcast_to(read_axis(tracer.labels(name), axis), (tracer.shape(name)[axis],))


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
    for name in operation.outputs:
        size = tracer.shape(name)[axis]
        if labels.shape[axis] > 1:
            tracer.set(name, labels.take(range(start, start + size), axis=axis))
        else:
            tracer.set(name, labels)
        start += size


def read_slices(operation: Operation, tracer: Tracer) -> dict[int, slice]:
    """Return what a Slice takes, by axis.

    Raises:
        UntraceableError: It is computed in the graph.
    """
    x = operation.inputs[0]
    rank = len(tracer.shape(x))
    if "starts" in operation.attributes:  # opset 7 to 9
        starts, ends = operation.attributes["starts"], operation.attributes["ends"]
        axes, steps = operation.attributes.get("axes"), None
    else:
        given = [tracer.constant(name) if name else None for name in operation.inputs[1:]]
        if any(value is None and name for value, name in zip(given, operation.inputs[1:], strict=True)):
            raise UntraceableError("what it takes is computed in the graph")
        starts, ends, axes, steps = [None if item is None else item.tolist() for item in (given + [None] * 4)[:4]]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return {axis % rank: slice(*part) for axis, *part in zip(axes, starts, ends, steps, strict=True)}


def trace_slice(operation: Operation, tracer: Tracer) -> None:
    """Slicing in space leaves channels alone; slicing channels takes their labels along."""
    x = operation.inputs[0]
    labels = tracer.labels(x)
    if not tracer.is_traced(x):
        tracer.set(operation.outputs[0], labels)
        return
    (axis,) = varying_axes(labels)
    taken = read_slices(operation, tracer).get(axis, slice(None))
    if taken.step not in (1, None):
        raise UntraceableError("it takes every so many channels")
    size = tracer.shape(x)[axis]
    tracer.set(operation.outputs[0], labels.take(range(*taken.indices(size)), axis=axis))


def read_pads(operation: Operation, tracer: Tracer) -> list[tuple[int, int]]:
    """Return what a Pad adds before and after each axis.

    Raises:
        UntraceableError: It is computed in the graph.
    """
    rank = len(tracer.shape(operation.inputs[0]))
    if len(operation.inputs) < 2:
        pads, axes = operation.attributes["pads"], list(range(rank))
    else:
        values = tracer.constant(operation.inputs[1])
        has_axes = len(operation.inputs) > 3 and bool(operation.inputs[3])
        chosen = tracer.constant(operation.inputs[3]) if has_axes else np.arange(rank)
        if values is None or chosen is None:
            raise UntraceableError("what it adds is computed in the graph")
        pads, axes = values.tolist(), [int(axis) % rank for axis in chosen]
    count = len(pads) // 2
    result = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        result[axis] = (int(pads[position]), int(pads[position + count]))
    return result


def trace_pad(operation: Operation, tracer: Tracer) -> None:
    """Padding in space leaves channels alone; padded channels are new ones that can go like any other."""
    x = operation.inputs[0]
    labels = tracer.labels(x)
    if not tracer.is_traced(x):
        tracer.set(operation.outputs[0], labels)
        return
    (axis,) = varying_axes(labels)
    before, after = read_pads(operation, tracer)[axis]
    if before or after:
        if min(before, after) < 0 or operation.attributes.get("mode", "constant") != "constant":
            raise UntraceableError("it pads channels with other channels, or takes some away")
        parts = [tracer.classes.make(before), read_axis(labels, axis), tracer.classes.make(after)]
        shape = [1] * labels.ndim
        shape[axis] = -1
        labels = np.concatenate(parts).reshape(shape)
    tracer.set(operation.outputs[0], labels)


def trace_gather(operation: Operation, tracer: Tracer) -> None:
    """Taking from an axis without channels: with a scalar index the axis goes, else it changes its size."""
    x, indices = operation.inputs[:2]
    if not tracer.is_traced(x):
        tracer.set(operation.outputs[0], fixed_labels(len(tracer.shape(operation.outputs[0]))))
        return
    axis = int(operation.attributes.get("axis", 0)) % len(tracer.shape(x))
    tracer.require_none(x, [axis], "it picks single channels")
    labels = tracer.labels(x)
    rank = len(tracer.shape(indices))
    shape = labels.shape[:axis] + (1,) * rank + labels.shape[axis + 1 :]
    tracer.set(operation.outputs[0], labels.reshape(shape))


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
        labels = np.tile(labels, int(operation.attributes["blocksize"]) ** 2)
    tracer.set(operation.outputs[0], labels.reshape(1, -1, 1, 1))


SHAPE_RULES = {
    "Cast": trace_identity,
    "CastLike": trace_identity,
    "Concat": trace_concat,
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
