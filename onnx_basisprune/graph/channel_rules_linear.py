"""Channel rules of the operators that make channels and read them: convolutions and matrix products."""

from __future__ import annotations

import numpy as np

from onnx_basisprune.graph.channel_tracer import CONTRADICTION, Read, Tracer, UntraceableError
from onnx_basisprune.planning.channels import FIXED, Labels, fixed_labels, place, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation

_NOT_CONSTANT = "its weight isn't constant"
_NOT_CHANNELS = "it reads channels along another axis than its own"


def make_labels(tracer: Tracer, count: int) -> Labels:
    """Return new labels for the outputs of a node; a single one can't be removed."""
    return tracer.classes.make(count) if count > 1 else np.full(1, FIXED, dtype=np.int64)


def trace_conv(operation: Operation, tracer: Tracer) -> None:
    """Conv, weight `[C_out, C_in / group, ...]`."""
    W, group = _open_conv(operation, tracer)
    if group == 1:
        tracer.couple(operation, 1, 1, tracer.read(operation, 0, 1, 1, 1))
        labels = make_labels(tracer, W.shape[0])
    elif W.shape[1] == 1 and tracer.is_traced(operation.inputs[0]):
        labels = _follow_depthwise(operation, tracer, W.shape[0] // group)
    else:
        tracer.couple(operation, 1, 1, _unite_groups(operation, tracer, group, weight_axis=1)[: W.shape[1]])
        labels = _make_grouped(tracer, group, W.shape[0] // group)
    tracer.couple(operation, 1, 0, labels)
    tracer.couple(operation, 2, 0, labels)
    tracer.set(operation.outputs[0], place(labels, len(tracer.shape(operation.inputs[0])), 1))


def trace_conv_transpose(operation: Operation, tracer: Tracer) -> None:
    """ConvTranspose, weight `[C_in, C_out / group, ...]`."""
    W, group = _open_conv(operation, tracer)
    if group == 1:
        tracer.couple(operation, 1, 0, tracer.read(operation, 0, 1, 1, 0))
        labels = make_labels(tracer, W.shape[1])
        tracer.couple(operation, 1, 1, labels)
    elif W.shape[0] == group and tracer.is_traced(operation.inputs[0]):
        labels = _follow_depthwise(operation, tracer, W.shape[1])
        tracer.couple(operation, 1, 0, read_axis(tracer.labels(operation.inputs[0]), 1))
    else:
        tracer.couple(operation, 1, 0, _unite_groups(operation, tracer, group, weight_axis=0))
        labels = _make_grouped(tracer, group, W.shape[1])
        tracer.couple(operation, 1, 1, labels[: W.shape[1]])
    tracer.couple(operation, 2, 0, labels)
    tracer.set(operation.outputs[0], place(labels, len(tracer.shape(operation.inputs[0])), 1))


def _open_conv(operation: Operation, tracer: Tracer) -> tuple[np.ndarray, int]:
    """Return the weight of a Conv that reads channels along axis 1, and its groups."""
    W = tracer.constant(operation.inputs[1])
    if W is None:
        raise UntraceableError(_NOT_CONSTANT)
    tracer.require_only(operation.inputs[0], 1, _NOT_CHANNELS)
    group = int(operation.attributes.get("group", 1))
    # Both kinds have their outputs' and inputs' channels on the first two axes, one of them whole, one per group.
    channels = len(read_axis(tracer.labels(operation.inputs[0]), 1))
    if W.ndim != len(tracer.shape(operation.inputs[0])) or group < 1 or W.shape[0] % group:
        raise UntraceableError(CONTRADICTION)
    if channels > 1 and channels not in (W.shape[0], W.shape[1] * group):
        raise UntraceableError(CONTRADICTION)
    return W, group


def _follow_depthwise(operation: Operation, tracer: Tracer, multiplier: int) -> Labels:
    """Return the output's labels of a depthwise Conv: those of the input, each as often as it is used."""
    return np.repeat(read_axis(tracer.labels(operation.inputs[0]), 1), multiplier)


def _unite_groups(operation: Operation, tracer: Tracer, group: int, weight_axis: int) -> Labels:
    """Unite the k-th input channels of all groups of a Conv, so that every group keeps as many; return the labels."""
    labels = read_axis(tracer.labels(operation.inputs[0]), 1)
    if len(labels) > 1:
        if len(labels) % group:
            raise UntraceableError(CONTRADICTION)
        by_group = labels.reshape(group, -1)
        tracer.classes.unite(by_group, by_group[:1], "another group of a grouped Conv keeps its channel")
        tracer.reads.append(Read(operation.name, 0, 1, labels, 1, weight_axis))
    return labels


def _make_grouped(tracer: Tracer, group: int, per_group: int) -> Labels:
    """Return new labels for the outputs of a grouped Conv, the same in each group."""
    labels = make_labels(tracer, per_group)
    return np.tile(labels, group) if len(labels) > 1 else labels


def trace_gemm(operation: Operation, tracer: Tracer) -> None:
    """`alpha A B + beta C` with a constant B: A's columns are read, the output's are new."""
    a, b = operation.inputs[:2]
    B = tracer.constant(b)
    if B is None or operation.attributes.get("transA", 0):
        raise UntraceableError(_NOT_CONSTANT if B is None else "its first input is transposed")
    tracer.require_only(a, 1, _NOT_CHANNELS)
    if len(tracer.shape(a)) != 2 or B.ndim != 2:
        raise UntraceableError(CONTRADICTION)
    inner, outer = (1, 0) if operation.attributes.get("transB", 0) else (0, 1)
    tracer.couple(operation, 1, inner, tracer.read(operation, 0, 1, 1, inner))
    labels = make_labels(tracer, B.shape[outer])
    tracer.couple(operation, 1, outer, labels)
    if len(operation.inputs) > 2 and operation.inputs[2]:
        if tracer.is_traced(operation.inputs[2]):
            raise UntraceableError("its third input isn't constant")
        shape = tracer.shape(operation.inputs[2])
        if shape and shape[-1] > 1:
            tracer.couple(operation, 2, len(shape) - 1, labels)
    tracer.set(operation.outputs[0], place(labels, 2, 1))


def trace_matmul(operation: Operation, tracer: Tracer) -> None:
    """A constant on either side makes new channels; two activations read each other's inner axis."""
    a, b = operation.inputs
    A, B = tracer.constant(a), tracer.constant(b)
    if min(len(tracer.shape(a)), len(tracer.shape(b))) < 2:
        raise UntraceableError("one of its inputs is a vector")
    rank = len(tracer.shape(operation.outputs[0]))
    if B is not None and B.ndim == 2:
        _trace_constant_side(operation, tracer, 0, 1, B.shape[1], rank - 1)
    elif A is not None and A.ndim == 2:
        _trace_constant_side(operation, tracer, 1, 0, A.shape[0], rank - 2)
    elif A is None and B is None:
        _trace_activations(operation, tracer, rank)
    else:
        raise UntraceableError("its weight has more than two axes")


def _trace_constant_side(
    operation: Operation, tracer: Tracer, data: int, weight: int, out_channels: int, out_axis: int
) -> None:
    """One side is a matrix; labels of the other that aren't on the inner axis go on to the output."""
    x = operation.inputs[data]
    rank = len(tracer.shape(x))
    inner, weight_inner, weight_outer = (rank - 1, 0, 1) if weight == 1 else (rank - 2, 1, 0)
    labels = tracer.labels(x)
    if any(axis != inner for axis in varying_axes(labels)):
        # Channels of another axis pass through; the output gets no new ones beside them.
        passed = labels if len(tracer.shape(operation.outputs[0])) == rank else None
        if passed is None:
            raise UntraceableError(_NOT_CHANNELS)
        tracer.set(operation.outputs[0], passed)
        return
    tracer.couple(operation, weight, weight_inner, tracer.read(operation, data, inner, weight, weight_inner))
    new = make_labels(tracer, out_channels)
    tracer.couple(operation, weight, weight_outer, new)
    tracer.set(operation.outputs[0], place(new, len(tracer.shape(operation.outputs[0])), out_axis))


def _trace_activations(operation: Operation, tracer: Tracer, rank: int) -> None:
    """Two activations: their inner axes hold the same channels; one's outer axis goes on where the other has none."""
    a, b = operation.inputs
    inner_a, inner_b = len(tracer.shape(a)) - 1, len(tracer.shape(b)) - 2
    outer_a, outer_b = inner_a - 1, inner_b + 1
    # Weights of an attention times its values, in either order.
    for x, outer, other, out_axis in ((b, outer_b, a, rank - 1), (a, outer_a, b, rank - 2)):
        if varying_axes(tracer.labels(x)) == [outer] and not tracer.is_traced(other):
            tracer.set(operation.outputs[0], place(read_axis(tracer.labels(x), outer), rank, out_axis))
            return
    tracer.require_only(a, inner_a, _NOT_CHANNELS)
    tracer.require_only(b, inner_b, _NOT_CHANNELS)
    labels = tracer.read(operation, 0, inner_a)
    reason = "only one side of a MatMul of activations could go"
    tracer.classes.unite(labels, read_axis(tracer.labels(b), inner_b), reason)
    tracer.set(operation.outputs[0], fixed_labels(rank))


LINEAR_RULES = {
    "Conv": trace_conv,
    "ConvTranspose": trace_conv_transpose,
    "Gemm": trace_gemm,
    "MatMul": trace_matmul,
}
