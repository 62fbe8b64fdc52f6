"""Bring every exporter's dialect to one form before anything is measured or planned.

1. Nodes get unique names, so that options and reports can name them.
2. Below IR version 4 initializers must be listed as graph inputs though they are constants: they leave the
   inputs and the IR version becomes 4. From IR 4 on such an input can be overridden at run time: it stays.
3. Constant nodes become initializers; small arithmetic on constants is computed (exporters write paddings so).
4. Identity and Dropout nodes go, where they do nothing.
5. BatchNormalization, Mul, Add, Sub and Div by constants per channel fold into the Conv before them.
6. Convs that share a weight or bias get their own copies: each will be decomposed by its own statistics.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnx_basisprune.graph.constant_folding import fold_constants
from onnx_basisprune.graph.editing import edit_graph, make_unique
from onnx_basisprune.graph.fold_affine import fold_affine_nodes

_FIRST_IR_WITH_OVERRIDABLE_INPUTS = 4


def normalize_model(model: ModelProto) -> ModelProto:
    """Return an equivalent model in the form that the rest of basisprune works on.

    Args:
        model: A checked model; not changed.

    Returns:
        The normalised copy, with the same inputs, outputs, opset and metadata.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    drop_constant_inputs(copy)
    return edit_graph(copy, _normalize_graph)


def list_overridable(model: ModelProto) -> frozenset[str]:
    """Return the initializers that a caller may override, because they are graph inputs too."""
    if model.ir_version < _FIRST_IR_WITH_OVERRIDABLE_INPUTS:
        return frozenset()
    inputs = {value.name for value in model.graph.input}
    return frozenset(tensor.name for tensor in model.graph.initializer if tensor.name in inputs)


def name_nodes(model: ModelProto) -> None:
    """Give every node of the main graph a unique name; names that are unique already stay."""
    taken: set[str] = set()
    given = {node.name for node in model.graph.node}
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = make_unique(node.name or f"{node.op_type}_{position}", taken | given)
        taken.add(node.name)


def drop_constant_inputs(model: ModelProto) -> None:
    """Below IR 4, take initializers off the graph's inputs and raise the IR version to 4."""
    if model.ir_version >= _FIRST_IR_WITH_OVERRIDABLE_INPUTS:
        return
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = _FIRST_IR_WITH_OVERRIDABLE_INPUTS


def _normalize_graph(graph: gs.Graph) -> None:
    """Apply the rules 3 to 6 to a graph-surgeon graph, in place."""
    overridable = {tensor.name for tensor in graph.inputs if isinstance(tensor, gs.Constant)}
    _replace_constant_nodes(graph)
    fold_constants(graph)
    _remove_idle_nodes(graph)
    _separate_shared_weights(graph, overridable)
    fold_affine_nodes(graph, overridable)


def _replace_constant_nodes(graph: gs.Graph) -> None:
    """Turn each Constant node's output into an initializer of the same name."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        if node.op != "Constant" or node.domain not in (None, "", "ai.onnx"):
            continue
        values = read_constant_node(node)
        variable = node.outputs[0]
        # An output of the graph needs a node to produce it.
        if values is None or id(variable) in outputs:
            continue
        constant = gs.Constant(variable.name, values)
        replace_tensor(variable, constant)
        node.outputs.clear()
        graph.nodes.remove(node)


def read_constant_node(node: gs.Node) -> np.ndarray | None:
    """Return a Constant node's value, `None` for strings and sparse tensors, which stay as they are."""
    for name, value in node.attrs.items():
        if name == "value":
            return value.values if isinstance(value, gs.Constant) else np.asarray(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def replace_tensor(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every reader of `old` read `new`."""
    for reader in list(old.outputs):
        for position, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[position] = new


def _remove_idle_nodes(graph: gs.Graph) -> None:
    """Remove Identity and inference-mode Dropout nodes whose output isn't a graph output."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        if not _is_idle(node) or id(node.outputs[0]) in outputs:
            continue
        replace_tensor(node.outputs[0], node.inputs[0])
        node.inputs.clear()
        node.outputs.clear()
        graph.nodes.remove(node)


def _is_idle(node: gs.Node) -> bool:
    """Return whether a node passes its first input on unchanged."""
    if node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None or training.is_empty():
        return True
    return isinstance(training, gs.Constant) and not bool(np.any(training.values))


def _separate_shared_weights(graph: gs.Graph, overridable: set[str]) -> None:
    """Give each Conv its own weight and bias where several nodes read the same initializer."""
    taken = set(graph.tensors())
    for node in graph.nodes:
        if node.op != "Conv":
            continue
        for position in range(1, len(node.inputs)):
            tensor = node.inputs[position]
            if not isinstance(tensor, gs.Constant) or tensor.name in overridable or len(tensor.outputs) < 2:
                continue
            name = make_unique(tensor.name, taken)
            taken.add(name)
            node.inputs[position] = gs.Constant(name, tensor.values)
