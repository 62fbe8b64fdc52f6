"""How channels on the inputs and outputs of each op_type couple: one rule an op.

A rule reads the labels of its node's inputs from a `Tracer`, unites or blocks them, says which weight axes follow which
labels, and sets the outputs' labels. It raises `UntraceableError` where the node's channels must stay, with the reason.
An op without a rule blocks what it reads: nothing is guessed to be elementwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_basisprune.graph.channel_rules_einsum import trace_einsum
from onnx_basisprune.graph.channel_rules_linear import LINEAR_RULES
from onnx_basisprune.graph.channel_rules_shape import SHAPE_RULES
from onnx_basisprune.graph.channel_rules_size import follow_sizes, follow_stated_shape
from onnx_basisprune.graph.channel_tracer import Tracer, UntraceableError
from onnx_basisprune.planning.channels import fixed_labels, read_axis, varying_axes
from onnx_basisprune.planning.types import Operation

Rule = Callable[[Operation, Tracer], None]

_FIRST_SOFTMAX_PER_AXIS = 13


def trace_elementwise(operation: Operation, tracer: Tracer) -> None:
    """Inputs that broadcast together: their channels go together, constants follow."""
    rank = len(tracer.shape(operation.outputs[0]))
    names = [name for name in operation.inputs if name]
    shapes = {name: _pad_shape(tracer.shape(name), rank) for name in names}
    traced = [name for name in names if tracer.is_traced(name)]
    if not traced:
        tracer.set(operation.outputs[0], fixed_labels(rank))
        return
    padded = {name: tracer.labels(name).reshape(_pad_shape(tracer.labels(name).shape, rank)) for name in traced}
    axes = {axis for labels in padded.values() for axis in varying_axes(labels)}
    if len(axes) > 1:
        raise UntraceableError("its inputs have their channels on different axes")
    (axis,) = axes
    labels = padded[traced[0]]
    for index, name in enumerate(operation.inputs):
        if not name:
            continue
        if name in padded:
            tracer.classes.unite(labels, padded[name], "it is combined with channels that must stay")
        elif shapes[name][axis] > 1:
            if tracer.constant(name) is None:
                raise UntraceableError("it combines channels with a tensor that isn't pruned")
            own_axis = axis - (rank - len(tracer.shape(name)))
            tracer.couple(operation, index, own_axis, read_axis(labels, axis))
    tracer.set(operation.outputs[0], labels)


def _pad_shape(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Return a shape with leading ones, as broadcasting adds them."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def trace_channel_norm(operation: Operation, tracer: Tracer) -> None:
    """BatchNormalization, InstanceNormalization: one scale, shift and so on per channel of axis 1."""
    x = operation.inputs[0]
    tracer.require_only(x, 1, "it normalises along the pruned axis")
    labels = read_axis(tracer.labels(x), 1)
    for index in range(1, len(operation.inputs)):
        tracer.couple(operation, index, 0, labels)
    tracer.set(operation.outputs[0], tracer.labels(x))


def trace_pool(operation: Operation, tracer: Tracer) -> None:
    """Pooling works on every channel alone."""
    x = operation.inputs[0]
    rank = len(tracer.shape(x))
    tracer.require_none(x, range(2, rank), "it pools along the pruned axis")
    if any(operation.outputs[1:]):
        raise UntraceableError("its second output tells positions among all channels")
    tracer.set(operation.outputs[0], tracer.labels(x))


def trace_reduction(operation: Operation, tracer: Tracer) -> None:
    """Reductions over other axes leave channels alone."""
    x = operation.inputs[0]
    rank = len(tracer.shape(x))
    if not tracer.is_traced(x):
        tracer.set(operation.outputs[0], fixed_labels(len(tracer.shape(operation.outputs[0]))))
        return
    axes = operation.attributes.get("axes")
    if len(operation.inputs) > 1 and operation.inputs[1]:
        values = tracer.constant(operation.inputs[1])
        if values is None:
            raise UntraceableError("its axes are computed in the graph")
        axes = values.tolist()
    if not axes:
        axes = [] if operation.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    tracer.require_none(x, axes, "it reduces over the pruned axis")
    labels = tracer.labels(x)
    if not operation.attributes.get("keepdims", 1):
        labels = np.squeeze(labels, axis=tuple({axis % rank for axis in axes}))
    tracer.set(operation.outputs[0], labels)


def trace_layer_norm(operation: Operation, tracer: Tracer) -> None:
    """LayerNormalization, RMSNormalization over other axes; a scale that has the channels' axis follows them."""
    x = operation.inputs[0]
    _along(_trailing_axes)(operation, tracer)
    rank = len(tracer.shape(x))
    for index, name in enumerate(operation.inputs[1:], start=1):
        for axis in varying_axes(tracer.labels(x)):
            own_axis = axis - rank + len(tracer.shape(name)) if name else -1
            if own_axis >= 0 and tracer.shape(name)[own_axis] > 1:
                tracer.couple(operation, index, own_axis, read_axis(tracer.labels(x), axis))


def _along(choose_axes: Callable[[Operation, int], list[int]]) -> Rule:
    """Return the rule of an op that mixes along some axes and keeps the shape."""

    def trace(operation: Operation, tracer: Tracer) -> None:
        x = operation.inputs[0]
        axes = choose_axes(operation, len(tracer.shape(x)))
        tracer.require_none(x, axes, "it works across the pruned axis")
        tracer.set(operation.outputs[0], tracer.labels(x))

    return trace


def _softmax_axes(operation: Operation, rank: int) -> list[int]:
    if operation.version >= _FIRST_SOFTMAX_PER_AXIS:
        return [int(operation.attributes.get("axis", -1))]
    return list(range(int(operation.attributes.get("axis", 1)) % rank, rank))


def _trailing_axes(operation: Operation, rank: int) -> list[int]:
    return list(range(int(operation.attributes.get("axis", -1)) % rank, rank))


def _all_but_batch(operation: Operation, rank: int) -> list[int]:  # noqa: ARG001 - rules share one signature
    return list(range(1, rank))


def _own_axis(operation: Operation, rank: int) -> list[int]:  # noqa: ARG001
    return [int(operation.attributes.get("axis", -1))]


def _channel_axis(operation: Operation, rank: int) -> list[int]:  # noqa: ARG001
    return [1]


def trace_shape(operation: Operation, tracer: Tracer) -> None:
    """Shape and Size: numbers that follow by themselves, or block what they count, see `follow_sizes`."""
    tracer.set(operation.outputs[0], fixed_labels(len(tracer.shape(operation.outputs[0]))))


def trace_nothing(operation: Operation, tracer: Tracer) -> None:  # noqa: ARG001
    """Refuse: the op's channels aren't followed."""
    raise UntraceableError("its channels aren't followed")


_ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
# Those whose rules look at the channels of every input.
_OF_EQUAL_INPUTS = frozenset({*_ELEMENTWISE, "Concat", "Einsum", "Gemm", "MatMul"})
# Known ops whose channels stay: rare in classifiers, or mixing channels by nature.
_NOT_FOLLOWED = (
    "AffineGrid", "ArgMax", "ArgMin", "Attention", "Compress", "Constant", "CumProd", "CumSum",
    "EyeLike", "GatherElements", "GatherND", "GridSample", "LSTM", "MeanVarianceNormalization", "NonZero", "OneHot",
    "Range", "RotaryEmbedding", "Scatter", "ScatterElements", "ScatterND", "TopK", "Trilu",
)  # fmt: skip

CHANNEL_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, trace_elementwise),
    **dict.fromkeys(_POOLS, trace_pool),
    **dict.fromkeys(_REDUCTIONS, trace_reduction),
    **dict.fromkeys(_NOT_FOLLOWED, trace_nothing),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), trace_channel_norm),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _along(_softmax_axes)),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), trace_layer_norm),
    **dict.fromkeys(("Shape", "Size"), trace_shape),
    "GroupNormalization": _along(_all_but_batch),
    "LRN": _along(_channel_axis),
    "LpNormalization": _along(_own_axis),
    "Einsum": trace_einsum,
    **LINEAR_RULES,
    **SHAPE_RULES,
}


def trace_operation(operation: Operation, tracer: Tracer) -> None:
    """Trace one node; where that isn't possible, its inputs' channels stay and its outputs have none."""
    rule = CHANNEL_RULES.get(operation.op_type, refuse_unknown) if operation.domain == "" else refuse_unknown
    known = len(tracer.couplings)
    try:
        follow_sizes(operation, tracer)
        if rule is not refuse_unknown and operation.op_type not in _OF_EQUAL_INPUTS:
            _refuse_parameters(operation, tracer)
        rule(operation, tracer)
        follow_stated_shape(operation, tracer)
    except UntraceableError as error:
        label = f"{operation.op_type} {operation.name}: {error}"
        for name in operation.inputs:
            for labels in (tracer.traced.get(name), *tracer.sizes.get(name, ())):
                if labels is not None:
                    tracer.classes.block(labels, label)
        # What the rule had found before it gave up must stay, too: nothing says how it goes on.
        for coupling in tracer.couplings[known:]:
            tracer.classes.block(coupling.labels, label)


def _refuse_parameters(operation: Operation, tracer: Tracer) -> None:
    """Refuse a node whose scale, bias or the like has channels: of most ops only the first input's are followed."""
    if any(map(tracer.is_traced, operation.inputs[1:])):
        raise UntraceableError("it takes pruned channels for its parameters")


def refuse_unknown(operation: Operation, tracer: Tracer) -> None:  # noqa: ARG001
    """Refuse: nothing is known of the op."""
    raise UntraceableError("it has no channel rule")
