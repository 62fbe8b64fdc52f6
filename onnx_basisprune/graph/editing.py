"""Change a graph with onnx-graphsurgeon and lose nothing that it doesn't carry.

graph-surgeon rebuilds every node and drops what it has no field for (doc strings, metadata_props, overloads,
quantization annotations, the model's header), fails on some of what is legal (empty lists, attributes that hold
types, strings that aren't UTF-8), and takes initializers that a caller may override for constants. So it is shown a
skeleton of the model, and what it changed there is carried over to the original:

1. Every node has the name of its original. A node that isn't one of ONNX's own, or has an attribute that
   graph-surgeon can't carry, is an `Opaque` node without attributes: only its connections can be changed.
2. Only initializers of plain numeric types that nobody can override are constants; all others are variables.
3. Tensors that an inner graph (of If, Loop, Scan) reads are outputs of the skeleton: like those of the graph they keep
   their names and their producers, so inner graphs never have to change.
4. There are no types, no recorded shapes and no functions.
5. Constants have no data: graph-surgeon is handed the original's where it asks for values. Copies of all weights would
   take three times their memory. Where the original is without its weights' data, too (see `drop_weights`), they can
   be cut all the same: that changes their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_basisprune.graph.inner_graphs import ONNX_DOMAINS, iterate_graphs, list_outer_names
from onnx_basisprune.graph.lazy_weights import OriginalValues, read_edited
from onnx_basisprune.graph.tensors import copy_without, is_shape_operand, sketch_tensor

# graph-surgeon prints its warnings on stdout, where our results go.
G_LOGGER.severity = G_LOGGER.CRITICAL

_BODY = ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation")
_OPAQUE = "Opaque"
_FIRST_IR_WITH_OVERRIDABLE_INPUTS = 4
_NO_VALUES = np.zeros(0)
_PLAIN_TYPES = frozenset(
    {
        TensorProto.BOOL,
        TensorProto.DOUBLE,
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    }
)


def edit_graph(model: ModelProto, change: Callable[[gs.Graph], None], weights: ModelProto | None = None) -> ModelProto:
    """Return a copy of the model whose graph `change` has edited in place.

    Args:
        model: Not changed. Its nodes must have unique, non-empty names and be in topological order.
        change: Edits the graph-surgeon graph it is given (a skeleton, see above). It must leave the nodes in
            topological order, and the tensors among the graph's outputs with a producer.
        weights: Has the data that `model` is without, see `drop_weights`.

    Returns:
        The edited model, without nodes that nothing reads and without unused initializers.
    """
    skeleton = make_skeleton(model)
    graph = gs.import_onnx(skeleton)
    originals = {tensor.name: tensor for tensor in model.graph.initializer}
    if weights is not None:
        full = {tensor.name: tensor for tensor in weights.graph.initializer if not is_shape_operand(tensor)}
        originals.update((name, full[name]) for name in originals if name in full)
    constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    for tensor in constants:
        tensor.values = OriginalValues(originals[tensor.name])
    change(graph)
    graph.cleanup(recurse_subgraphs=False, recurse_functions=False)
    left = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    edited = {tensor.name: value for tensor in left if (value := read_edited(tensor)) is not None}
    # Nodes and tensors refer to each other, so they stay until a garbage collection; their weights go at once.
    for tensor in (*constants, *left):
        tensor.values = _NO_VALUES
    exported = gs.export_onnx(graph, do_type_check=False).graph
    return _carry_over(model, originals, skeleton.graph, exported, edited)


def list_overridable(model: ModelProto) -> frozenset[str]:
    """Return the initializers that a caller may override, because they are graph inputs too."""
    if model.ir_version < _FIRST_IR_WITH_OVERRIDABLE_INPUTS:
        return frozenset()
    inputs = {value.name for value in model.graph.input}
    return frozenset(tensor.name for tensor in model.graph.initializer if tensor.name in inputs)


def make_skeleton(model: ModelProto) -> ModelProto:
    """Return the model as graph-surgeon is to see it."""
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    overridable = list_overridable(model)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(_sketch_node(node) for node in model.graph.node)
    for tensor in model.graph.initializer:
        if tensor.data_type in _PLAIN_TYPES and tensor.name not in overridable:
            graph.initializer.append(sketch_tensor(tensor))
    graph.input.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.input)
    outputs = dict.fromkeys(value.name for value in model.graph.output) | dict.fromkeys(list_captured(model))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return skeleton


def list_captured(model: ModelProto) -> list[str]:
    """Return the tensors of the main graph that inner graphs read, sorted."""
    known = {name for node in model.graph.node for name in node.output}
    known.update(tensor.name for tensor in model.graph.initializer)
    known.update(value.name for value in model.graph.input)
    mentioned = {name for node in model.graph.node for name in list_outer_names(node)}
    return sorted(mentioned & known)


def list_names(model: ModelProto) -> set[str]:
    """Return every name that a new tensor or node must not take, inner graphs' included."""
    names = set[str]()
    for graph in (model.graph, *iterate_graphs(model.graph.node)):
        names.update(value.name for value in (*graph.input, *graph.output, *graph.value_info))
        names.update(tensor.name for tensor in graph.initializer)
        names.update(sparse.values.name for sparse in graph.sparse_initializer)
        for node in graph.node:
            names.update((node.name, *node.input, *node.output))
    return names


def _sketch_node(node: NodeProto) -> NodeProto:
    """Return a node's skeleton, opaque where graph-surgeon can't carry it."""
    sketch = NodeProto(op_type=_OPAQUE, name=node.name, input=node.input, output=node.output)
    if node.domain not in ONNX_DOMAINS:
        return sketch
    # An empty list of a Conv is what it takes by default; for other nodes (axes of Squeeze) it makes a difference.
    attributes = [item for item in node.attribute if not (node.op_type == "Conv" and _is_empty_list(item))]
    if all(_is_portable(attribute) for attribute in attributes):
        sketch.op_type = node.op_type
        sketch.attribute.extend(attributes)
    return sketch


def _is_empty_list(attribute: AttributeProto) -> bool:
    """Return whether an attribute is a list of numbers without any."""
    lists = (AttributeProto.INTS, AttributeProto.FLOATS)
    return attribute.type in lists and not attribute.ints and not attribute.floats


def _is_portable(attribute: AttributeProto) -> bool:
    """Return whether graph-surgeon imports and exports an attribute without loss."""
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return not _is_empty_list(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t.data_type in _PLAIN_TYPES
    if attribute.type == AttributeProto.STRING:
        try:
            attribute.s.decode()
        except UnicodeDecodeError:
            return False
        return True
    return attribute.type in (AttributeProto.INT, AttributeProto.FLOAT)


def _carry_over(
    original: ModelProto,
    tensors: Mapping[str, TensorProto],
    before: GraphProto,
    after: GraphProto,
    edited: dict[str, NDArray[Any] | TensorProto],
) -> ModelProto:
    """Return the original with the changes between the skeleton's graph `before` and `after`, and `edited` weights.

    `tensors` are the original's initializers, with their data. `edited` is used up, so that no weight is there twice.
    """
    originals = {node.name: node for node in original.graph.node}
    sketches = {node.name: node for node in before.node}
    result = copy_without(original, _BODY)
    graph = result.graph
    for node in after.node:
        kept = originals.get(node.name)
        graph.node.append(node if kept is None else _update_node(kept, sketches[node.name], node))
    produced = {name for node in graph.node for name in node.output}
    needed = {name for node in graph.node for name in node.input} | set(list_captured(original))
    needed |= {value.name for value in (*graph.input, *graph.output)}
    needed -= produced
    graph.initializer.extend(_choose_initializers(tensors, edited, needed))
    graph.sparse_initializer.extend(s for s in original.graph.sparse_initializer if s.values.name in needed)
    alive = produced | {tensor.name for tensor in graph.initializer}
    graph.value_info.extend(value for value in original.graph.value_info if value.name in alive)
    graph.quantization_annotation.extend(
        annotation for annotation in original.graph.quantization_annotation if annotation.tensor_name in alive
    )
    return result


def _update_node(original: NodeProto, before: NodeProto, after: NodeProto) -> NodeProto:
    """Return a node with the connections and attributes that were changed."""
    node = NodeProto()
    node.CopyFrom(original)
    del node.input[:], node.output[:]
    node.input.extend(after.input)
    node.output.extend(after.output)
    old = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in before.attribute}
    new = {attribute.name: attribute for attribute in after.attribute}
    changed = {
        name
        for name, attribute in new.items()
        if attribute.type != AttributeProto.TENSOR and old.get(name) != onnx.helper.get_attribute_value(attribute)
    }
    stale = changed | (old.keys() - new.keys())
    if stale:
        kept = [attribute for attribute in original.attribute if attribute.name not in stale]
        del node.attribute[:]
        node.attribute.extend([*kept, *(new[name] for name in new if name in changed)])
    return node


def _choose_initializers(
    tensors: Mapping[str, TensorProto], edited: dict[str, NDArray[Any] | TensorProto], needed: set[str]
) -> Iterator[TensorProto]:
    """Go through the initializers that are still read: the changed and new ones, the others verbatim."""
    for name in dict.fromkeys((*tensors, *edited)):
        if name not in needed:
            continue
        values = edited.pop(name, None)
        if isinstance(values, TensorProto):
            yield TensorProto(name=name, data_type=values.data_type, dims=values.dims)
        elif values is None or (name in tensors and _holds_values(tensors[name], values)):
            yield tensors[name]
        else:
            yield onnx.numpy_helper.from_array(values, name)


def _holds_values(tensor: TensorProto, values: NDArray[Any]) -> bool:
    """Return whether a tensor holds the same bits as an array."""
    old = onnx.numpy_helper.to_array(tensor)
    return (old.dtype, old.shape) == (values.dtype, values.shape) and old.tobytes() == values.tobytes()


def bypass_node(graph: gs.Graph, node: gs.Node, tensor: gs.Tensor) -> None:
    """Remove a node, in place; whatever read its first output reads `tensor` instead."""
    old = node.outputs[0]
    for reader in list(old.outputs):
        for position, read in enumerate(reader.inputs):
            if read is old:
                reader.inputs[position] = tensor
    node.inputs.clear()
    node.outputs.clear()
    graph.nodes.remove(node)


def find_only_reader(node: gs.Node, graph: gs.Graph) -> gs.Node | None:
    """Return the one node that reads a node's first output, if nothing else does."""
    output = node.outputs[0]
    if len(output.outputs) != 1 or any(output is tensor for tensor in graph.outputs):
        return None
    return output.outputs[0]


def make_unique(base: str, taken: Iterable[str]) -> str:
    """Return `base`, or `base.1`, `base.2`, … where it is taken."""
    names = taken if isinstance(taken, (set, frozenset, dict)) else set(taken)
    if base not in names:
        return base
    number = 1
    while f"{base}.{number}" in names:
        number += 1
    return f"{base}.{number}"
