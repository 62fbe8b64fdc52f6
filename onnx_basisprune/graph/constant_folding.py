"""Compute what depends on constants only: exporters write paddings and shapes as small arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

# Deterministic and cheap; anything else is left to the runtime, which folds at load time.
_FOLDABLE = frozenset(
    {
        "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Expand", "Gather", "Identity", "Mul", "Neg", "Range",
        "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
_LARGEST_RESULT = 65_536
_LONGEST_AXIS_SPEC = 64


def fold_constants(graph: gs.Graph) -> None:
    """Replace each foldable node whose inputs are all constants by initializers, in place.

    Args:
        graph: In topological order, with Constant nodes already turned into initializers. Initializers
            that are graph inputs too count as variable: a caller may override them.
    """
    overridable = {id(tensor) for tensor in graph.inputs}
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        if node.op not in _FOLDABLE or node.domain not in (None, "", "ai.onnx") or not node.inputs:
            continue
        if any(id(tensor) in outputs for tensor in node.outputs) or len(node.outputs) != 1:
            continue
        if not all(_is_constant(tensor, overridable) for tensor in node.inputs):
            continue
        values = _evaluate(node, graph.opset)
        if values is None or values.size > _LARGEST_RESULT:
            continue
        constant = gs.Constant(node.outputs[0].name, values)
        for reader in list(node.outputs[0].outputs):
            for position, tensor in enumerate(reader.inputs):
                if tensor is node.outputs[0]:
                    reader.inputs[position] = constant
        node.inputs.clear()
        node.outputs.clear()
        graph.nodes.remove(node)


def _is_constant(tensor: gs.Tensor, overridable: set[int]) -> bool:
    """Return whether a node's input has the same, not too large value in every run."""
    if tensor.is_empty():
        return True
    if not isinstance(tensor, gs.Constant) or id(tensor) in overridable:
        return False
    return bool(np.prod(tensor.shape, dtype=np.int64) <= _LARGEST_RESULT)


def _evaluate(node: gs.Node, opset: int) -> np.ndarray | None:
    """Compute one node with ONNX's reference implementation; `None` where it has none for this case."""
    inputs = [tensor for tensor in node.inputs if not tensor.is_empty()]
    # A result too large to keep isn't even computed: its size is written in a small input.
    if node.op in ("ConstantOfShape", "Expand") and inputs[-1].values.size <= _LONGEST_AXIS_SPEC:
        if np.prod(np.abs(inputs[-1].values.astype(np.float64))) > _LARGEST_RESULT:
            return None
    elif node.op == "Range":
        return None
    proto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    feeds = {tensor.name: tensor.values for tensor in inputs}
    undefined = onnx.helper.make_tensor_type_proto(onnx.TensorProto.UNDEFINED, None)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [proto],
            "constant",
            [onnx.helper.make_value_info(name, undefined) for name in feeds],
            [onnx.helper.make_value_info(node.outputs[0].name, undefined)],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    try:
        (values,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # noqa: BLE001 - the reference has gaps of every kind; leaving the node is always right
        return None
    return np.asarray(values)
