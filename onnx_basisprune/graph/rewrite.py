"""Rewrite a Conv into a basis conv and a 1×1 scaling conv.

    y = W x + b   →   basis conv     R W   [r, C_in, k, k]   same strides, pads and dilations, no bias
                      scaling conv   A     [C_out, r, 1, 1]  with bias b' = mu - A R (mu - b)

The initializer `conv1.weight` becomes `conv1.weight.basis` and `conv1.weight.scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnx_basisprune.graph.editing import edit_graph, list_names, make_unique

_BASIS_ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True)
class ConvPair:
    """The weights of one rewritten Conv.

    Attributes:
        basis: `[r, C_in, *kernel]`, the basis filters, in any floating-point type.
        scaling: `[C_out, r]`, maps basis channels back to output channels, scaling factors folded in.
        bias: `[C_out]`.
    """

    basis: NDArray[np.float64]
    scaling: NDArray[np.float64]
    bias: NDArray[np.float64]


@dataclass(frozen=True)
class PairNames:
    """The initializers that a rewritten Conv reads now."""

    basis: str
    scaling: str
    bias: str


def rewrite_convs(model: ModelProto, pairs: Mapping[str, ConvPair]) -> tuple[ModelProto, dict[str, PairNames]]:
    """Return a copy of the model with some Convs rewritten, and the new initializers' names.

    Args:
        model: A normalised model; not changed.
        pairs: Weights by the name of the Conv node that they replace.

    Returns:
        The rewritten model, and for each key of `pairs` the names of its three initializers.
    """
    names: dict[str, PairNames] = {}

    def change(graph: gs.Graph) -> None:
        taken = list_names(model)
        for node in [node for node in graph.nodes if node.name in pairs]:
            names[node.name] = _rewrite_conv(graph, node, pairs[node.name], taken)

    rewritten = edit_graph(model, change)
    _copy_documentation(model, rewritten, names)
    return rewritten, names


def _copy_documentation(before: ModelProto, after: ModelProto, names: Mapping[str, PairNames]) -> None:
    """Hand a rewritten Conv's doc string and metadata_props on to both nodes of its pair, in place."""
    convs = {pair.basis: node for node in before.graph.node if (pair := names.get(node.name)) is not None}
    convs |= {names[node.name].scaling: node for node in convs.values()}
    for node in after.graph.node:
        conv = convs.get(node.input[1]) if len(node.input) > 1 else None
        if conv is not None:
            node.doc_string = conv.doc_string
            node.metadata_props.extend(conv.metadata_props)


def _rewrite_conv(graph: gs.Graph, conv: gs.Node, pair: ConvPair, taken: set[str]) -> PairNames:
    """Put the pair where the Conv was; its output keeps its name and its readers."""

    def claim(base: str) -> str:
        name = make_unique(base, taken)
        taken.add(name)
        return name

    weight, output = conv.inputs[1], conv.outputs[0]
    has_bias = len(conv.inputs) > 2 and not conv.inputs[2].is_empty()
    names = PairNames(
        basis=claim(f"{weight.name}.basis"),
        scaling=claim(f"{weight.name}.scaling"),
        bias=claim(f"{conv.inputs[2].name if has_bias else weight.name + '.bias'}.scaling"),
    )
    ones = (1,) * (weight.values.ndim - 2)
    dtype = weight.dtype
    inner = gs.Variable(claim(f"{output.name}.basis"), dtype=output.dtype)
    source = conv.inputs[0]
    conv.inputs.clear()
    conv.outputs.clear()
    position = next(index for index, node in enumerate(graph.nodes) if node is conv)
    graph.nodes[position : position + 1] = [
        gs.Node(
            "Conv",
            name=claim(f"{conv.name}.basis"),
            attrs={key: conv.attrs[key] for key in _BASIS_ATTRIBUTES if key in conv.attrs},
            inputs=[source, gs.Constant(names.basis, flush_subnormals(pair.basis, dtype))],
            outputs=[inner],
        ),
        gs.Node(
            "Conv",
            name=claim(f"{conv.name}.scaling"),
            attrs={"kernel_shape": list(ones)},
            inputs=[
                inner,
                gs.Constant(names.scaling, flush_subnormals(pair.scaling, dtype).reshape(*pair.scaling.shape, *ones)),
                gs.Constant(names.bias, flush_subnormals(pair.bias, dtype)),
            ],
            outputs=[output],
        ),
    ]
    return names


def flush_subnormals(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cast weights, with values too small for the type's normal range set to 0: they slow a CPU tenfold."""
    tiny = np.finfo(dtype).tiny
    return np.where(np.abs(values) < tiny, 0, values).astype(dtype)


def set_metadata(model: ModelProto, entries: Mapping[str, str]) -> None:
    """Add or replace `metadata_props` entries of the model, in place."""
    for key, value in entries.items():
        known = next((entry for entry in model.metadata_props if entry.key == key), None)
        if known is None:
            known = model.metadata_props.add()
            known.key = key
        known.value = value


def replace_initializers(model: ModelProto, arrays: Mapping[str, NDArray[Any]]) -> ModelProto:
    """Return a copy of the model with new values for some initializers.

    Args:
        model: Not changed.
        arrays: New values by name; shapes must be those of the initializers, dtypes are kept.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(flush_subnormals(arrays[tensor.name], dtype), tensor.name))
    return copy
