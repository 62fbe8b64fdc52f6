"""The graph as plain data, for rooms that must not know ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.inner_graphs import calls, inline_call, list_outer_names
from onnx_basisprune.graph.tensors import is_shape_operand
from onnx_basisprune.planning.types import Operation, Program, TensorSpec


class _Arrays(Mapping[str, NDArray[Any]]):
    """Initializers as arrays, read from the model where they are asked for: all at once would double its memory."""

    def __init__(self, tensors: Iterable[TensorProto]) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._small: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._small:
            return self._small[name]
        tensor = self._tensors[name]
        array = numpy_helper.to_array(tensor)
        if is_shape_operand(tensor):
            self._small[name] = array
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def extract_program(model: ModelProto) -> Program:
    """Return the model's graph as plain data.

    Args:
        model: A checked model, so nodes are in topological order.

    Returns:
        Operations, initializers as numpy arrays (large ones are copied each time that they are asked for), inputs that
        aren't initializers, and outputs.
    """
    return _extract_graph(model.graph, model)


def list_inputs(graph: GraphProto) -> tuple[TensorSpec, ...]:
    """Return a graph's inputs that aren't initializers."""
    names = {tensor.name for tensor in graph.initializer}
    return tuple(describe_value(value) for value in graph.input if value.name not in names)


def _extract_graph(graph: GraphProto, model: ModelProto) -> Program:
    """Return a graph of a model, the main one or an inner one."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if "ai.onnx" in versions:
        versions.setdefault("", versions["ai.onnx"])
    return Program(
        operations=tuple(
            _extract_operation(node, versions, position, model) for position, node in enumerate(graph.node)
        ),
        initializers=_Arrays(graph.initializer),
        inputs=list_inputs(graph),
        outputs=tuple(describe_value(value) for value in graph.output),
        defaults=list_overridable(model) if graph is model.graph else frozenset(),
    )


def _extract_operation(node: NodeProto, versions: Mapping[str, int], position: int, model: ModelProto) -> Operation:
    """Return one node as plain data; a node without a name is called after its type and position."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Operation(
        name=node.name or f"{node.op_type}_{position}",
        op_type=node.op_type,
        domain=domain,
        version=versions.get(domain, 0),
        inputs=(*node.input, *(name for name in list_outer_names(node) if name not in node.input)),
        outputs=tuple(node.output),
        attributes={attribute.name: read_attribute(attribute) for attribute in node.attribute},
        bodies=_Bodies(node, model),
    )


class _Bodies(Mapping[str, Program]):
    """The inner graphs of a node, and the body of a local function that it calls; read where they are asked for."""

    def __init__(self, node: NodeProto, model: ModelProto) -> None:
        self._graphs = {item.name: item.g for item in node.attribute if item.type == AttributeProto.GRAPH}
        self._node, self._model = node, model
        self._is_call = any(calls(node, function) for function in model.functions)

    def __getitem__(self, name: str) -> Program:
        if name == "" and self._is_call:
            return extract_program(inline_call(self._node, self._model))
        return _extract_graph(self._graphs[name], self._model)

    def __iter__(self) -> Iterator[str]:
        yield from self._graphs
        if self._is_call:
            yield ""

    def __len__(self) -> int:
        return len(self._graphs) + self._is_call


def read_attribute(attribute: AttributeProto) -> Any:
    """Return an attribute's value: str for strings, ndarray for tensors, `None` for graphs and types."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (int, float)):
        return value
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", errors="replace") for item in value]
    if attribute.type == AttributeProto.TENSORS:
        return [numpy_helper.to_array(item) for item in value]
    return None


def describe_value(value: ValueInfoProto) -> TensorSpec:
    """Return a graph input's or output's name, dtype and shape."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        return TensorSpec(value.name, "", None)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype, None)
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)
