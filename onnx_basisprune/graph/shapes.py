"""Shapes of all tensors for given input shapes, from ONNX's own shape inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto

from onnx_basisprune.errors import ModelError, quote

Shape = tuple[int, ...]

# Larger initializers never take part in shape arithmetic: only their shape matters, so inference isn't
# given their data (it would be serialised, and may be over protobuf's 2 GiB).
_LARGEST_SHAPE_OPERAND = 4096


def infer_shapes(model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Shape]:
    """Return the shape of every tensor for which ONNX can tell it.

    Args:
        model: A checked model; not changed.
        input_shapes: Concrete shapes of graph inputs by name. Inputs that aren't named keep their own
            shape, with 1 for a dynamic first dimension.

    Returns:
        Fully known shapes by tensor name; a tensor whose shape isn't fully known is missing.

    Raises:
        ModelError: A given shape doesn't fit the input's declared one.
    """
    light = _copy_without_weights(model)
    for value in light.graph.input:
        _fix_shape(value, (input_shapes or {}).get(value.name))
    # Recorded shapes may carry symbols that contradict or hide the concrete ones.
    del light.graph.value_info[:]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError):
        inferred = light
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    for value in values:
        shape = _read_shape(value)
        if shape is not None:
            shapes.setdefault(value.name, shape)
    return shapes


def _copy_without_weights(model: ModelProto) -> ModelProto:
    """Copy a model with its large initializers as inputs of the same type and shape."""
    light = ModelProto()
    light.CopyFrom(onnx.helper.make_model(onnx.GraphProto(), opset_imports=model.opset_import))
    light.ir_version = model.ir_version
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        if size <= _LARGEST_SHAPE_OPERAND:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _fix_shape(value: onnx.ValueInfoProto, shape: Sequence[int] | None) -> None:
    """Write concrete dimensions into a graph input, in place."""
    tensor = value.type.tensor_type
    if shape is None:
        if tensor.HasField("shape") and tensor.shape.dim and tensor.shape.dim[0].dim_value <= 0:
            tensor.shape.dim[0].Clear()
            tensor.shape.dim[0].dim_value = 1
        return
    declared = [dim.dim_value for dim in tensor.shape.dim] if tensor.HasField("shape") else None
    fits = declared is None or (
        len(declared) == len(shape)
        and all(size in (0, -1) or size == new for size, new in zip(declared, shape, strict=True))
    )
    if not fits:
        # A fixed batch stays what the model says: counts are per image anyway.
        if declared is not None and len(declared) == len(shape) and list(declared[1:]) == list(shape[1:]):
            return
        raise ModelError(
            f"input {quote(value.name)} has shape {declared}, found {list(shape)}: give a shape that fits."
        )
    tensor.ClearField("shape")
    for size in shape:
        tensor.shape.dim.add().dim_value = int(size)


def _read_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """Return a value's shape if every dimension is known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return tuple(dims) if all(dim >= 0 for dim in dims) else None
