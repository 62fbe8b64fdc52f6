"""Compute what depends on constants only: paddings and shapes that exporters write as small arithmetic, and weights.

Layouts of weights are changed in the graph, and weights are normalised there (weight standardisation, weight norm):
what the Convs and matrix products read are the same numbers in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator

from onnx_basisprune.graph.editing import bypass_node
from onnx_basisprune.graph.inner_graphs import ONNX_DOMAINS

# Deterministic and cheap; anything else is left to the runtime, which folds at load time.
FOLDABLE_OPS = frozenset(
    {
        "Add", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather",
        "Identity", "Max", "Min", "Mod", "Mul", "Neg", "Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub",
        "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
# In weights, what else is done to them.
_WEIGHT_OPS = frozenset(
    {
        "Abs", "BatchNormalization", "Flatten", "MatMul", "Pow", "Reciprocal", "ReduceL2", "ReduceMean", "ReduceSum",
        "ReduceSumSquare", "Sqrt",
    }
)  # fmt: skip
# In elements; a larger result is kept where one of the node's inputs is at least as large.
_LARGEST_RESULT = 65_536
_WIDEST_ELEMENT = 8  # bytes
_LONGEST_SHAPE = 64


def read_constant(node: NodeProto) -> TensorProto | None:
    """Return a Constant node's value, `None` for other nodes and for sparse tensors, which stay as they are."""
    if node.op_type != "Constant" or node.domain not in ONNX_DOMAINS or len(node.attribute) != 1:
        return None
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    kinds = {
        "value_float": TensorProto.FLOAT,
        "value_int": TensorProto.INT64,
        "value_string": TensorProto.STRING,
    }
    kind = kinds.get(attribute.name.removesuffix("s"))
    if kind is None:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    values = list(value) if attribute.name.endswith("s") else [value]
    shape = [len(values)] if attribute.name.endswith("s") else []
    return onnx.helper.make_tensor("", kind, shape, values)


def fold_constants(graph: gs.Graph) -> None:
    """Replace each foldable node whose inputs are all constants by initializers, in place.

    Args:
        graph: A skeleton in topological order, with Constant nodes already turned into initializers.
    """
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        if node.op not in FOLDABLE_OPS | _WEIGHT_OPS or not node.inputs:
            continue
        if any(id(tensor) in outputs for tensor in node.outputs) or any(item.outputs for item in node.outputs[1:]):
            continue
        if not all(tensor.is_empty() or isinstance(tensor, gs.Constant) for tensor in node.inputs):
            continue
        values = _evaluate(node, graph.opset)
        if values is None:
            continue
        bypass_node(graph, node, gs.Constant(node.outputs[0].name, values))


def _evaluate(node: gs.Node, opset: int) -> np.ndarray | None:
    """Compute a skeleton's node; `None` where that isn't possible or its result is too large to keep."""
    inputs = {tensor.name: tensor.values for tensor in node.inputs if not tensor.is_empty()}
    return evaluate_node(gs.exporters.onnx_exporter.OnnxExporter.export_node(node), inputs, opset)


def evaluate_node(node: NodeProto, inputs: Mapping[str, NDArray[Any]], opset: int) -> NDArray[Any] | None:
    """Compute one node with ONNX's reference implementation.

    Args:
        node: One of `FOLDABLE_OPS`, or an operator on weights.
        inputs: The values that it reads, by name.
        opset: Version of the operator set.

    Returns:
        Its first output; `None` where the reference has none for this case, or the result would be too large.
    """
    # A result too large to keep isn't even computed: its size is written in a small input.
    if node.op_type in ("ConstantOfShape", "Expand"):
        shape = inputs[node.input[-1]].astype(np.float64)
        if shape.size > _LONGEST_SHAPE or np.prod(np.abs(shape)) > _LARGEST_RESULT:
            return None
    if node.op_type == "Range":
        start, limit, delta = (float(inputs[name]) for name in node.input)
        if delta == 0 or not (limit - start) / delta <= _LARGEST_RESULT:
            return None
    # Releases of the reference differ on how a negative quotient is rounded.
    if node.op_type == "Div" and any(values.dtype.kind == "i" and (values < 0).any() for values in inputs.values()):
        return None
    # What is only moved, or reduced, may be as large as a weight is; one in a wider type would be larger on disk.
    largest = max(_LARGEST_RESULT, *(values.size for values in inputs.values()))
    widest = max(_LARGEST_RESULT * _WIDEST_ELEMENT, *(values.nbytes for values in inputs.values()))
    model = _make_model(node, inputs, opset)
    if prod(values.size for values in inputs.values()) > largest and _infer_size(model, inputs) > largest:
        return None
    try:
        # Overflow and the like are left to the runtime, as it does them.
        with np.errstate(all="raise", under="ignore"):
            (values,) = ReferenceEvaluator(model).run(None, dict(inputs))
    except Exception:  # noqa: BLE001 - the reference has gaps of every kind; leaving the node is always right
        return None
    result = np.asarray(values)
    return result if result.size <= largest and result.nbytes <= widest else None


def _make_model(node: NodeProto, inputs: Mapping[str, NDArray[Any]], opset: int) -> ModelProto:
    """Return a model of one node, with its first output."""
    undefined = onnx.helper.make_tensor_type_proto(TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [onnx.helper.make_value_info(node.output[0], undefined)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _infer_size(model: ModelProto, inputs: Mapping[str, NDArray[Any]]) -> float:
    """Return how many elements the output of a model of one node has, infinite where ONNX can't tell."""
    known = ModelProto()
    known.CopyFrom(model)
    known.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in inputs.items() if value.size <= _LONGEST_SHAPE
    )
    try:
        (output,) = onnx.shape_inference.infer_shapes(known).graph.output
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return inf
    shape = output.type.tensor_type.shape
    known_shape = output.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.dim)
    return prod(dim.dim_value for dim in shape.dim) if known_shape else inf
