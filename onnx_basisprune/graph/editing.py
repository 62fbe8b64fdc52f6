"""Change a graph with onnx-graphsurgeon and lose nothing that it doesn't carry.

graph-surgeon rebuilds every node and drops what it has no field for: doc strings, metadata_props, overloads,
attributes of unknown types, quantization annotations, and the model's header. Here only nodes that were really changed
come from its export; all else is the original's, verbatim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, NodeProto
from onnx_graphsurgeon.logger import G_LOGGER

# graph-surgeon prints its warnings on stdout, where our results go.
G_LOGGER.severity = G_LOGGER.CRITICAL


def edit_graph(model: ModelProto, change: Callable[[gs.Graph], None]) -> ModelProto:
    """Return a copy of the model whose graph `change` has edited in place.

    Args:
        model: Not changed. Its nodes must have unique, non-empty names.
        change: Edits the graph-surgeon graph it is given.

    Returns:
        The edited model in topological order, with nodes that nothing reads and unused initializers removed.
    """
    graph = gs.import_onnx(model)
    change(graph)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    edited = gs.export_onnx(graph, do_type_check=False)
    return restore_dropped(model, edited)


def restore_dropped(original: ModelProto, edited: ModelProto) -> ModelProto:
    """Return `edited`'s graph inside `original`'s header, with unchanged nodes verbatim."""
    result = ModelProto()
    result.CopyFrom(_without_tensors(original))
    graph = result.graph
    before = {node.name: node for node in original.graph.node}
    for node in edited.graph.node:
        known = before.get(node.name)
        graph.node.append(known if known is not None and _is_same(known, node) else node)
    graph.initializer.extend(edited.graph.initializer)
    graph.sparse_initializer.extend(edited.graph.sparse_initializer)
    graph.value_info.extend(edited.graph.value_info)
    names = {tensor.name for tensor in edited.graph.initializer} | {
        name for node in edited.graph.node for name in node.output
    }
    for annotation in original.graph.quantization_annotation:
        if annotation.tensor_name in names:
            graph.quantization_annotation.append(annotation)
    return result


def _without_tensors(model: ModelProto) -> ModelProto:
    """Copy the header, inputs, outputs and functions, without the heavy parts of the graph."""
    header = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(header, field.name, value)
    for field, value in model.graph.ListFields():
        heavy = ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation")
        if field.name not in heavy:
            _copy_field(header.graph, field.name, value)
    return header


def _copy_field(target: ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    """Copy one protobuf field, whether scalar or repeated."""
    if isinstance(value, (str, int, bytes)):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def _is_same(before: NodeProto, after: NodeProto) -> bool:
    """Return whether graph-surgeon's node is the original one, as far as graph-surgeon can tell."""
    if (before.op_type, before.domain) != (after.op_type, after.domain):
        return False
    if list(before.input) != list(after.input) or list(before.output) != list(after.output):
        return False
    attributes = {attribute.name: attribute for attribute in after.attribute}
    return all(
        # What graph-surgeon doesn't know it leaves out: such an attribute wasn't changed.
        attribute.name not in attributes or _is_same_attribute(attribute, attributes[attribute.name])
        for attribute in before.attribute
    ) and len(attributes) <= len(before.attribute)


def _is_same_attribute(before: onnx.AttributeProto, after: onnx.AttributeProto) -> bool:
    """Compare attribute values; tensors and graphs are never changed by our edits."""
    if before.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
        return True
    return bool(onnx.helper.get_attribute_value(before) == onnx.helper.get_attribute_value(after))


def make_unique(base: str, taken: Iterable[str]) -> str:
    """Return `base`, or `base.1`, `base.2`, … where it is taken."""
    names = taken if isinstance(taken, (set, frozenset, dict)) else set(taken)
    if base not in names:
        return base
    number = 1
    while f"{base}.{number}" in names:
        number += 1
    return f"{base}.{number}"
