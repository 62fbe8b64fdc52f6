"""Tell quantized models: their weights are integers that neither a basis nor a slice may be taken of."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto

from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.graph.inner_graphs import iterate_nodes

_QUANTIZED_OPS = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QuantizeLinear",
    }
)
_PREFIXES = ("QLinear", "QOrdered")
_DOMAINS = ("", "ai.onnx", "com.microsoft")


def refuse_quantized(model: ModelProto) -> None:
    """Refuse a model with quantized nodes.

    Raises:
        ModelError: It has one; the message says what to do instead.
    """
    node = _find_quantized(iterate_nodes(model))
    if node is not None:
        raise ModelError(
            f"node {quote(node.name or node.output[0])} ({node.op_type}) is quantized; expected weights in floating "
            "point: compress the model that was quantized, and quantize the result."
        )


def _find_quantized(nodes: Iterable[NodeProto]) -> NodeProto | None:
    """Return the first quantized node."""
    for node in nodes:
        is_known = node.op_type in _QUANTIZED_OPS or node.op_type.startswith(_PREFIXES)
        if is_known and node.domain in _DOMAINS:
            return node
    return None
