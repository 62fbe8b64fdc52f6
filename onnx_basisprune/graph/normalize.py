"""Bring every exporter's dialect to one form before anything is measured or planned.

1. Nodes get unique names, so that options and reports can name them.
2. Below IR version 4 initializers must be listed as graph inputs though they are constants: they leave the
   inputs and the IR version becomes 4. From IR 4 on such an input can be overridden at run time: it stays.
3. Constant nodes become initializers; small arithmetic on constants is computed (exporters write paddings so), sizes
   that are the same in every run are constants, and computed zeros that are joined to a tensor are a Pad.
4. Identity and Dropout nodes go, where they do nothing.
5. BatchNormalization, Mul, Add, Sub and Div by constants per channel fold into the Conv before them.
6. Convs that share a weight or bias get their own copies: each will be decomposed by its own statistics.

What the graph's outputs or an inner graph (of If, Loop, Scan) read keeps its name and its producer.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnx_basisprune.graph.constant_folding import fold_constants, read_constant
from onnx_basisprune.graph.editing import bypass_node, edit_graph, list_names, make_unique
from onnx_basisprune.graph.fold_affine import fold_affine_nodes
from onnx_basisprune.graph.fold_fills import pad_instead_of_fills
from onnx_basisprune.graph.fold_sizes import fold_static_sizes
from onnx_basisprune.graph.tensors import drop_weights

_FIRST_IR_WITHOUT_CONSTANT_INPUTS = 4


def normalize_model(model: ModelProto) -> ModelProto:
    """Return an equivalent model in the form that the rest of basisprune works on.

    Args:
        model: A checked model; not changed.

    Returns:
        The normalised copy, with the same inputs, outputs, opset and metadata.
    """
    copy = drop_weights(model)
    name_nodes(copy)
    drop_constant_inputs(copy)
    replace_constant_nodes(copy)
    fold_static_sizes(copy)
    pad_instead_of_fills(copy)
    taken = list_names(copy)
    return edit_graph(copy, lambda graph: _normalize_graph(graph, taken), weights=model)


def name_nodes(model: ModelProto) -> None:
    """Give every node of the main graph a unique name; names that are unique already stay."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = make_unique(node.name or f"{node.op_type}_{position}", taken)
            taken.add(node.name)
        seen.add(node.name)


def drop_constant_inputs(model: ModelProto) -> None:
    """Below IR 4, take initializers off the graph's inputs and raise the IR version to 4."""
    if model.ir_version >= _FIRST_IR_WITHOUT_CONSTANT_INPUTS:
        return
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = _FIRST_IR_WITHOUT_CONSTANT_INPUTS


def replace_constant_nodes(model: ModelProto) -> None:
    """Turn each Constant node of the main graph into an initializer of the same name, in place."""
    outputs = {value.name for value in model.graph.output}
    kept = []
    for node in model.graph.node:
        tensor = read_constant(node)
        # An output of the graph needs a node to produce it.
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _normalize_graph(graph: gs.Graph, taken: set[str]) -> None:
    """Apply the rules 3 to 6 to a skeleton, in place; `taken` are the names in use."""
    fold_constants(graph)
    _remove_idle_nodes(graph)
    _separate_shared_weights(graph, taken)
    fold_affine_nodes(graph, taken)


def _remove_idle_nodes(graph: gs.Graph) -> None:
    """Remove Identity and inference-mode Dropout nodes whose outputs aren't needed by name."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in list(graph.nodes):
        if not _is_idle(node) or any(id(tensor) in outputs for tensor in node.outputs):
            continue
        bypass_node(graph, node, node.inputs[0])


def _is_idle(node: gs.Node) -> bool:
    """Return whether a node passes its first input on unchanged."""
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None or training.is_empty():
        return True
    return isinstance(training, gs.Constant) and not bool(training.values.any())


def _separate_shared_weights(graph: gs.Graph, taken: set[str]) -> None:
    """Give each Conv its own weight and bias where something else reads the same initializer."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op != "Conv":
            continue
        for position in range(1, len(node.inputs)):
            tensor = node.inputs[position]
            if not isinstance(tensor, gs.Constant) or (len(tensor.outputs) < 2 and id(tensor) not in outputs):
                continue
            name = make_unique(tensor.name, taken)
            taken.add(name)
            node.inputs[position] = gs.Constant(name, tensor.values)
