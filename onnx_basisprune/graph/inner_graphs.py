"""What nodes hold within: the graphs of If, Loop and Scan, and the bodies of local functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx.inliner
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.graph.tensors import copy_fields

ONNX_DOMAINS = ("", "ai.onnx")


def iterate_graphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """Go through the graphs in nodes' attributes, at every depth."""
    for node in nodes:
        for graph in _list_graphs(node):
            yield graph
            yield from iterate_graphs(graph.node)


def iterate_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Go through all nodes of a model, those of inner graphs and functions too."""
    outer = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    yield from outer
    for graph in iterate_graphs(outer):
        yield from graph.node


def list_outer_names(node: NodeProto) -> tuple[str, ...]:
    """Return the tensors that a node's inner graphs, at every depth, read of the graphs around it; each name once."""
    graphs = _list_graphs(node)
    return tuple(dict.fromkeys(name for graph in graphs for name in _list_free_names(graph)))


def _list_graphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs in a node's attributes."""
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)
    ]


def _list_free_names(graph: GraphProto) -> list[str]:
    """Return the names that a graph reads but doesn't define."""
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    free: list[str] = []
    for node in graph.node:
        free += [name for name in (*node.input, *list_outer_names(node)) if name and name not in known]
        known.update(node.output)
    return free + [value.name for value in graph.output if value.name not in known]


def is_opaque(node: NodeProto) -> bool:
    """Return whether ONNX's own shape inference may not know what a node gives: of another domain, or with graphs."""
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return node.domain not in ONNX_DOMAINS or any(attribute.type in kinds for attribute in node.attribute)


def calls(node: NodeProto, function: FunctionProto) -> bool:
    """Return whether a node calls a function."""
    return (node.op_type, node.domain, node.overload) == (function.name, function.domain, function.overload)


def count_inlined_nodes(model: ModelProto) -> int:
    """Return how many nodes a model would have with all local functions put in their callers' place.

    Args:
        model: Of IR versions below 8 onnx.checker doesn't look at functions.

    Raises:
        ModelError: Two functions have the same name, or one calls itself.
    """
    functions = {(item.domain, item.name, item.overload): item for item in model.functions}
    if len(functions) < len(model.functions):
        raise ModelError("two of its local functions have the same name")
    counts: dict[tuple[str, str, str], int] = {}
    waiting = set[tuple[str, str, str]]()

    def count(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in waiting:
                raise ModelError(f"its local function {quote(node.op_type)} calls itself")
            if key in functions and key not in counts:
                waiting.add(key)
                counts[key] = count(functions[key].node)
                waiting.remove(key)
            total += counts.get(key, 1) + sum(count(graph.node) for graph in _list_graphs(node))
        return total

    return count(model.graph.node)


def inline_call(node: NodeProto, model: ModelProto) -> ModelProto:
    """Return a model of what a call of a local function computes, without functions.

    Args:
        node: The call.
        model: Has the function.

    Raises:
        ModelError: The call can't be resolved: the function calls itself, or needs an operator set in a version
            that ONNX can't convert.
    """
    single = ModelProto()
    copy_fields(model, single, without=("graph",))
    single.graph.name = node.op_type
    single.graph.node.append(node)
    single.graph.input.extend(ValueInfoProto(name=name) for name in dict.fromkeys(filter(None, node.input)))
    single.graph.output.extend(ValueInfoProto(name=name) for name in node.output if name)
    try:
        inlined = onnx.inliner.inline_local_functions(single, convert_version=True)
    except Exception as error:
        raise ModelError(
            f"node {quote(node.name)} calls the local function {quote(node.op_type)}, which can't be put in its place "
            f"({quote(str(error))}); inline the functions with onnx.inliner first."
        ) from error
    if any(calls(item, function) for item in inlined.graph.node for function in model.functions):
        raise ModelError(
            f"node {quote(node.name)} calls the local function {quote(node.op_type)}, which can't be put in its place; "
            "inline the functions with onnx.inliner first."
        )
    return inlined
