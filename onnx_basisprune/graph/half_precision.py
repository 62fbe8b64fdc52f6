"""Models in float16: computed in float32 from the moment that they are read, written back in the types they came in.

`widen_model` makes every float16 float32: weights, inputs, outputs, and what nodes are told to cast to. `narrow_model`
takes that back: a tensor that has the name of one of the original's has its type again; a new one (of a pair that
replaced a Conv) has the type of what its node reads. A weight that was only stored as float16, behind a Cast, is stored
so again, as is what was made from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnx_basisprune.graph.editing import list_names, make_unique
from onnx_basisprune.graph.inner_graphs import iterate_graphs, iterate_nodes
from onnx_basisprune.graph.shapes import infer_types
from onnx_basisprune.graph.tensors import iterate_tensors

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
_LARGEST = float(np.finfo(np.float16).max)
# Attributes that say what type a node gives.
_TYPE_ATTRIBUTES = ("to", "dtype")
# What no step changes: graphs, and the tensors of Constant and ConstantOfShape.
_BODY_ATTRIBUTES = (AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.TENSOR)


def has_half(model: ModelProto) -> bool:
    """Return whether anything in a model is float16."""
    values = (*model.graph.input, *model.graph.output)
    return (
        any(value.type.tensor_type.elem_type == _HALF for value in values)
        or any(tensor.data_type == _HALF for tensor in iterate_tensors(model))
        or any(True for _ in _find_type_attributes(iterate_nodes(model), _HALF))
    )


def widen_model(model: ModelProto) -> ModelProto:
    """Return a model with float32 wherever it has float16.

    Args:
        model: Not changed.

    Returns:
        The model itself where it has no float16, else a copy.
    """
    if not has_half(model):
        return model
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in iterate_tensors(wide):
        if tensor.data_type == _HALF:
            _convert_tensor(tensor, _FLOAT)
    for value in _iterate_values(wide):
        if value.type.tensor_type.elem_type == _HALF:
            value.type.tensor_type.elem_type = _FLOAT
    for attribute in _find_type_attributes(iterate_nodes(wide), _HALF):
        attribute.i = _FLOAT
    return wide


def narrow_model(model: ModelProto, original: ModelProto) -> ModelProto:
    """Return a model in the types of the one that it was made from.

    Args:
        model: Made from the widened original; not changed.
        original: As it was read; the data of its weights aren't needed.

    Returns:
        The model itself where the original has no float16, else a copy.
    """
    if not has_half(original):
        return model
    narrow = ModelProto()
    narrow.CopyFrom(model)
    types = _complete_types(narrow.graph, infer_types(original))
    for tensor in narrow.graph.initializer:
        if tensor.data_type == _FLOAT and types.get(tensor.name) == _HALF:
            _convert_tensor(tensor, _HALF)
    for value in (*narrow.graph.input, *narrow.graph.output, *narrow.graph.value_info):
        if value.type.tensor_type.elem_type == _FLOAT and types.get(value.name) == _HALF:
            value.type.tensor_type.elem_type = _HALF
    for node in narrow.graph.node:
        if node.output and types.get(node.output[0]) == _HALF:
            for attribute in _find_type_attributes([node], _FLOAT):
                attribute.i = _HALF
    _restore_bodies(narrow, original)
    _store_as_half(narrow, _list_stored(original))
    return narrow


def _list_stored(model: ModelProto) -> tuple[str, ...]:
    """Return the weights of a model that are stored as float16 and computed with as float32, behind a Cast."""
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == _HALF}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in halves]
    return tuple(node.output[0] for node in casts if any(_find_type_attributes([node], _FLOAT)))


def _store_as_half(model: ModelProto, stored: Collection[str]) -> None:
    """Store weights that came from float16 ones as such again, behind a Cast, in place.

    What is made from a weight has its name and an ending.
    """
    taken, casts = list_names(model), []
    for tensor in model.graph.initializer:
        if tensor.data_type == _FLOAT and any(
            tensor.name == name or tensor.name.startswith(f"{name}.") for name in stored
        ):
            name, half = tensor.name, make_unique(f"{tensor.name}.half", taken)
            taken.add(half)
            _convert_tensor(tensor, _HALF)
            tensor.name = half
            casts.append(onnx.helper.make_node("Cast", [half], [name], half, to=_FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _complete_types(graph: GraphProto, types: Mapping[str, int]) -> dict[str, int]:
    """Return the types that a graph's tensors are to have: new ones follow what their node reads."""
    known = dict(types)
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        read = [name for name in node.input if name in known and known[name] in (_HALF, _FLOAT)]
        data = [name for name in read if name not in weights] or read
        if not data:
            continue
        for name in (*node.input, *node.output):
            if name and weights.get(name, _FLOAT) == _FLOAT:
                known.setdefault(name, known[data[0]])
    return known


def _restore_bodies(model: ModelProto, original: ModelProto) -> None:
    """Put inner graphs and local functions, which are never changed, back as they were, in place."""
    nodes = {name: node for node in original.graph.node for name in node.output if name}
    for node in model.graph.node:
        before = next((nodes[name] for name in node.output if name in nodes), None)
        old = {} if before is None else {attribute.name: attribute for attribute in before.attribute}
        for attribute in node.attribute:
            if attribute.type in _BODY_ATTRIBUTES and attribute.name in old:
                attribute.CopyFrom(old[attribute.name])
    del model.functions[:]
    model.functions.extend(original.functions)


def _convert_tensor(tensor: TensorProto, data_type: int) -> None:
    """Change a tensor's type, in place; what is too large for float16 becomes its largest number."""
    values = numpy_helper.to_array(tensor).astype(np.float32)
    if data_type == _HALF:
        values = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    converted = values.astype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
    tensor.CopyFrom(numpy_helper.from_array(converted, tensor.name))


def _iterate_values(model: ModelProto) -> Iterator[ValueInfoProto]:
    """Go through all that states a tensor's type."""
    outer = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for graph in (model.graph, *iterate_graphs(outer)):
        yield from (*graph.input, *graph.output, *graph.value_info)
    for function in model.functions:
        yield from function.value_info


def _find_type_attributes(nodes: Iterable[NodeProto], data_type: int) -> Iterator[AttributeProto]:
    """Go through the attributes that name a type."""
    for node in nodes:
        for attribute in node.attribute:
            if (
                attribute.type == AttributeProto.INT
                and attribute.i == data_type
                and (attribute.name in _TYPE_ATTRIBUTES and node.domain in ("", "ai.onnx"))
            ):
                yield attribute
