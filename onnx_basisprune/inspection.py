"""What `inspect` tells about a model: its nodes, their cost, and which of them can be decomposed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.files import count_bytes
from onnx_basisprune.foreign import record_opaque_shapes
from onnx_basisprune.graph.batch_axis import lacks_batch_axis
from onnx_basisprune.graph.cost import ModelCost, NodeCost, measure_cost
from onnx_basisprune.graph.fed_inputs import feed_inputs
from onnx_basisprune.graph.layers import list_conv_layers
from onnx_basisprune.graph.model_io import read_model, read_opset
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program, list_inputs
from onnx_basisprune.graph.shapes import check_sizes
from onnx_basisprune.graph.working_form import take_working_form
from onnx_basisprune.inspection_report import Inspection, NodeInspection, TensorInfo
from onnx_basisprune.network import read_channels
from onnx_basisprune.planning.types import ConvLayer, TensorSpec
from onnx_basisprune.results import GroupReport
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds

if TYPE_CHECKING:
    from onnx import ModelProto


def inspect_model(
    path: Path,
    exclude: Collection[str] = (),
    input_shape: Sequence[int] | None = None,
    feed: Collection[str] = (),
) -> Inspection:
    """Describe a model.

    Args:
        path: The ONNX file.
        exclude: Names of nodes that are to be left as they are.
        input_shape: Shape of the image input (the first that isn't fed) with the batch first; needed for the counts
            where the model leaves height or width open.
        feed: What inputs beside the images are fed, see `runtime.fed_inputs.resolve_feeds`.

    Returns:
        Totals, a row per node of the normalised graph (batch normalisations folded, every node named), and the groups
        of channels that can only go together.

    Raises:
        ModelError: The file can't be read, or `input_shape` doesn't fit the model.
        ConfigError: `exclude` names a node that doesn't exist, `input_shape` isn't positive, or `feed` doesn't fit.
    """
    if input_shape is not None and (not input_shape or min(input_shape) < 1):
        raise ConfigError(f"--input-shape is {list(input_shape)}; expected whole numbers over 0.")
    model, files = read_model(path)
    inputs = list_inputs(model.graph)
    fed = resolve_feeds(feed, inputs)
    model = feed_inputs(model, fed, next((spec.name for spec in list_free(inputs, fed)), ""))
    program = extract_program(model)
    if input_shape is not None and lacks_batch_axis(program) and len(input_shape) == len(program.inputs[0].shape or ()):
        input_shape = (1, *input_shape)
    shapes = {program.inputs[0].name: input_shape} if program.inputs and input_shape is not None else None
    working = take_working_form(model)
    check_sizes(working, path, shapes)
    normalized = normalize_model(working)
    _complete_shapes(normalized, input_shape)
    cost = measure_cost(normalized, shapes)
    return Inspection(
        model=str(path),
        file_bytes=count_bytes(files),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        opset=read_opset(model),
        ir_version=model.ir_version,
        inputs=tuple(_describe_tensor(spec) for spec in inputs),
        outputs=tuple(_describe_tensor(spec) for spec in program.outputs),
        macs=cost.macs,
        parameters=measure_cost(model).parameters,
        normalized_parameters=cost.parameters,
        uncounted_ops=cost.uncounted_ops,
        nodes=_describe_nodes(cost, list_conv_layers(normalized, exclude)),
        groups=tuple(
            GroupReport(group.name, len(group.channels), len(group.channels), group.blocked_by)
            for group in read_channels(normalized, shapes, exclude).groups
        ),
    )


def _complete_shapes(normalized: ModelProto, input_shape: Sequence[int] | None) -> None:
    """Run the model once where ONNX can't infer what its nodes give, and its input's shape is known, in place."""
    inputs = list_inputs(normalized.graph)
    if len(inputs) != 1 or not inputs[0].shape:
        return
    batch, *sizes = inputs[0].shape
    image = [*input_shape[1:]] if input_shape is not None else [size or 0 for size in sizes]
    dtype = inputs[0].dtype if inputs[0].dtype in ("float32", "uint8") else ""
    if not dtype or 0 in image:
        return
    # What can't be run here can't be compressed either: its counts stay unknown.
    with suppress(ModelError):
        record_opaque_shapes(normalized, np.zeros((1, *image), dtype=dtype), batch)


def _describe_tensor(spec: TensorSpec) -> TensorInfo:
    """Return an input or output for the report."""
    return TensorInfo(spec.name, spec.dtype, spec.shape)


def _describe_nodes(cost: ModelCost, layers: Sequence[ConvLayer]) -> tuple[NodeInspection, ...]:
    """Join each node's cost with what is known of its decomposition."""
    by_name = {layer.name: layer for layer in layers}
    return tuple(_describe_node(node, by_name.get(node.name)) for node in cost.nodes)


def _describe_node(node: NodeCost, layer: ConvLayer | None) -> NodeInspection:
    """Return one row."""
    other = "" if node.macs == 0 else f"{node.op_type} isn't decomposed"
    return NodeInspection(
        name=node.name,
        op_type=node.op_type,
        output_shape=node.output_shape,
        parameters=node.parameters,
        macs=node.macs,
        full_rank=layer.full_rank if layer is not None else 0,
        break_even_rank=layer.break_even_rank if layer is not None else 0,
        eligible=layer is not None and not layer.reason,
        reason=other if layer is None else layer.reason,
    )
