"""Go through a model's tensors, and copy a model without their data: it may be larger than protobuf serialises."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from math import prod
from typing import TypeVar

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_Message = TypeVar("_Message", ModelProto, GraphProto, TensorProto)

# Larger initializers never take part in shape arithmetic: only their shape matters, so neither checks nor inference
# are given their data (it would be serialised, and may be over protobuf's 2 GiB).
_LARGEST_SHAPE_OPERAND = 4096
_INDEX_TYPES = (TensorProto.INT32, TensorProto.INT64)


def iterate_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Go through every tensor of a model: initializers and attributes, in inner graphs and functions too."""
    yield from _iterate_graph(model.graph)
    for function in model.functions:
        yield from _iterate_nodes(function.node)


def _iterate_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _iterate_nodes(graph.node)


def _iterate_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _iterate_graph(graph)


def is_shape_operand(tensor: TensorProto) -> bool:
    """Return whether an initializer is small enough to take part in shape arithmetic."""
    return bool(prod(tensor.dims) <= _LARGEST_SHAPE_OPERAND)


def copy_without(model: ModelProto, fields: Collection[str]) -> ModelProto:
    """Copy a model without some fields of its main graph; what is in them isn't touched."""
    copy = ModelProto()
    copy_fields(model, copy, without=("graph",))
    copy_fields(model.graph, copy.graph, without=fields)
    return copy


def copy_fields(source: _Message, target: _Message, without: Collection[str]) -> None:
    """Copy the fields of a message that hold scalars or lists, but for some, to an empty one of the same kind."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if isinstance(value, (str, int, bytes)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def copy_without_weights(model: ModelProto) -> ModelProto:
    """Copy a model with its large initializers as inputs of the same type and shape."""
    light = copy_without(model, ("initializer",))
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if is_shape_operand(tensor):
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def drop_weights(model: ModelProto) -> ModelProto:
    """Copy a model with its large initializers' data left out, but for indices: those of a Gather are renumbered."""
    light = copy_without(model, ("initializer",))
    light.graph.initializer.extend(
        tensor if is_shape_operand(tensor) or tensor.data_type in _INDEX_TYPES else sketch_tensor(tensor)
        for tensor in model.graph.initializer
    )
    return light


def sketch_tensor(tensor: TensorProto) -> TensorProto:
    """Return a tensor without its data."""
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
