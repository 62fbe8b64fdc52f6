"""Count multiply-adds and parameters: an op is counted, explicitly free, or reported, never silently zero.

One multiply-add is 1 MAC. Biases, activations, normalisations, pooling and data movement are free by
convention (they hold under a hundredth of a classifier's arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import ModelProto

from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.shapes import Shape, infer_shapes
from onnx_basisprune.planning.types import Operation, Program

MacCounter = Callable[[Operation, Sequence[Shape], Sequence[Shape]], int]


@dataclass(frozen=True)
class NodeCost:
    """One node's share of the model's cost.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        output_shape: Shape of the first output for one image, `None` where it isn't known.
        macs: Multiply-adds for one image; `None` where they couldn't be counted.
        parameters: Elements of the floating-point initializers that no earlier node reads.
    """

    name: str
    op_type: str
    output_shape: Shape | None
    macs: int | None
    parameters: int


@dataclass(frozen=True)
class ModelCost:
    """What a model costs for one image."""

    macs: int
    parameters: int
    uncounted_ops: tuple[str, ...]
    nodes: tuple[NodeCost, ...]


# Counters share one signature; few need all of it.
# ruff: noqa: ARG001


def _count_conv(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # Every output element takes one multiply-add per weight of its filter.
    return prod(outputs[0]) * prod(inputs[1][1:])


def _count_conv_transpose(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # Every input element is multiplied with each weight of its channel.
    return prod(inputs[0]) * prod(inputs[1][1:])


def _count_gemm(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    inner = inputs[0][0] if operation.attributes.get("transA", 0) else inputs[0][-1]
    return prod(outputs[0]) * inner


def _count_matmul(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    return prod(outputs[0]) * inputs[0][-1]


def _count_einsum(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # The product over all index sizes, as if all operands were multiplied at once; one operand is only summed.
    terms = operation.attributes["equation"].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        if "." in term:
            raise LookupError("ellipsis")
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))  # a size of 1 is broadcast
    return prod(sizes.values()) if len(inputs) > 1 else 0


def _count_attention(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # Q Kᵀ and its product with V; heads side by side ([n, s, heads·d]) or apart ([n, heads, s, d]).
    if any(operation.inputs[4:6]):
        raise LookupError("keys and values of earlier steps")
    queries, keys, values = inputs[:3]
    heads = queries[0] if len(queries) == 3 else queries[0] * queries[1]
    per_key = queries[-1] + outputs[0][-1] if len(queries) == 3 else queries[-1] + values[-1]
    return heads * queries[-2] * keys[-2] * per_key


def _count_lstm(operation: Operation, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    # Every weight of the input and of the state is used once a step, in each direction.
    return prod(inputs[0][:2]) * (prod(inputs[1]) + prod(inputs[2]))


MAC_COUNTERS: dict[str, MacCounter] = {
    "Attention": _count_attention,
    "Conv": _count_conv,
    "ConvTranspose": _count_conv_transpose,
    "Einsum": _count_einsum,
    "Gemm": _count_gemm,
    "LSTM": _count_lstm,
    "MatMul": _count_matmul,
}


# Activations, normalisations, pooling and data movement, free by convention.
FREE_OPS = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "AffineGrid", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan",
        "Atanh", "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "BitwiseNot",
        "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Compress", "Concat",
        "Constant", "ConstantOfShape", "Cos", "Cosh", "CumProd", "CumSum", "DepthToSpace", "Div",
        "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
        "GatherElements", "GatherND", "Gelu", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
        "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish",
        "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LayerNormalization",
        "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "Max",
        "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonZero",
        "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "RMSNormalization", "Range", "Reciprocal",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize",
        "RotaryEmbedding", "Round", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape",
        "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
        "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh",
        "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where",
        "Xor",
    }
)  # fmt: skip


def measure_cost(
    model: ModelProto,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> ModelCost:
    """Count a model's multiply-adds for one image, and its parameters.

    Args:
        model: A checked model.
        input_shapes: Shapes of dynamic inputs, see `infer_shapes`; the first dimension is the batch.

    Returns:
        Totals and a row per node, in graph order. Shapes with a fixed batch are counted per image.
    """
    program = extract_program(model)
    shapes = infer_shapes(model, input_shapes)
    batch = _read_batch(program, shapes)
    rows, uncounted, counted = [], set(), set[str]()
    for operation in program.operations:
        macs = _count_macs(operation, shapes)
        if macs is None:
            uncounted.add(operation.op_type)
        output_shape = shapes.get(operation.outputs[0]) if operation.outputs else None
        rows.append(
            NodeCost(
                operation.name,
                operation.op_type,
                output_shape,
                None if macs is None else macs // batch,
                _count_parameters(operation, program, counted),
            )
        )
    return ModelCost(
        macs=sum(row.macs or 0 for row in rows),
        parameters=sum(row.parameters for row in rows),
        uncounted_ops=tuple(sorted(uncounted)),
        nodes=tuple(rows),
    )


def _read_batch(program: Program, shapes: Mapping[str, Shape]) -> int:
    """Return the batch size that shapes were inferred for."""
    shape = shapes.get(program.inputs[0].name, ()) if program.inputs else ()
    return max(1, shape[0]) if len(shape) > 1 else 1


def _count_macs(operation: Operation, shapes: Mapping[str, Shape]) -> int | None:
    """Return one node's multiply-adds, `None` where its op or its shapes aren't known."""
    if operation.domain != "":
        return None
    counter = MAC_COUNTERS.get(operation.op_type)
    if counter is None:
        return 0 if operation.op_type in FREE_OPS else None
    try:
        inputs = [shapes[name] for name in operation.inputs if name]
        return counter(operation, inputs, [shapes[name] for name in operation.outputs if name])
    except LookupError:
        return None


def _count_parameters(operation: Operation, program: Program, counted: set[str]) -> int:
    """Count a node's floating-point weights once per initializer; scalars are settings, not parameters."""
    arrays = {name: program.initializers[name] for name in operation.inputs if name in program.initializers}
    if operation.op_type == "Constant":
        attributes = operation.attributes
        value = attributes.get("value", np.asarray(attributes.get("value_floats", ()), dtype=np.float32))
        if isinstance(value, np.ndarray):
            arrays[operation.outputs[0]] = value
    total = 0
    for name, values in arrays.items():
        if name not in counted and values.ndim > 0 and values.dtype.kind not in "iubOSU":
            counted.add(name)
            total += values.size
    return total


def count_pair_weights(shape: Sequence[int], rank: int) -> int:
    """Return the weights of the pair that replaces a Conv, `r·(K + C_out)`; each costs one MAC per output position.

    Args:
        shape: Of the Conv's weight, `[C_out, C_in, *kernel]`.
        rank: The pair's rank.
    """
    return rank * (prod(shape[1:]) + shape[0])
