"""What nodes hold within: the graphs of If, Loop and Scan, and the bodies of local functions."""

from __future__ import annotations

import onnx.inliner
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.graph.tensors import copy_fields

ONNX_DOMAINS = ("", "ai.onnx")


def list_outer_names(node: NodeProto) -> tuple[str, ...]:
    """Return the tensors that a node's inner graphs, at every depth, read of the graphs around it; each name once."""
    graphs = [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)
    ]
    return tuple(dict.fromkeys(name for graph in graphs for name in _list_free_names(graph)))


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
    except Exception as error:  # noqa: BLE001 - the inliner's errors have no common base
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
