"""Shapes of all tensors for given input shapes, from ONNX's own shape inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.graph.constant_folding import FOLDABLE_OPS, evaluate_node, read_constant
from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.inner_graphs import ONNX_DOMAINS, is_opaque
from onnx_basisprune.graph.model_io import read_opset
from onnx_basisprune.graph.tensors import copy_without_weights

Shape = tuple[int, ...]

# In elements, 4 GiB in float32: many times what the largest classifiers have.
LARGEST_TENSOR = 2**30
# Longer ones aren't followed value by value: they hold weights, not shapes.
_LONGEST_VECTOR = 2**20
_KEEPING_SHAPE = ("GroupNormalization", "MeanVarianceNormalization")
# What shape arithmetic is done in; scale factors of Resize are floats.
SHAPE_TYPES = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT)


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
    light = _copy_for_inference(model)
    for value in light.graph.input:
        _fix_shape(value, (input_shapes or {}).get(value.name))
    batch = _read_batch(light)
    for value in light.graph.value_info:
        if not value.type.tensor_type.shape.dim[0].HasField("dim_value"):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in light.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values: dict[str, NDArray[Any]] = {}
    while True:
        shapes = _read_shapes(_infer_as_far_as_possible(light)) | known
        if all(name in shapes for node in light.graph.node for name in node.output if name):
            return shapes
        # For older operator sets ONNX doesn't follow the values of shapes that are computed in the graph.
        if not _compute_shape_values(light, shapes, values):
            return shapes
        known.update((name, value.shape) for name, value in values.items())


def check_sizes(model: ModelProto, path: Path, input_shapes: Mapping[str, Sequence[int]] | None = None) -> None:
    """Refuse a model that declares tensors which no memory holds, before anything allocates them.

    Args:
        model: A checked model.
        path: Its file, for the message.
        input_shapes: See `infer_shapes`.

    Raises:
        ModelError: A tensor has more than `LARGEST_TENSOR` elements for one image.
    """
    for name, shape in infer_shapes(model, input_shapes).items():
        if prod(shape) > LARGEST_TENSOR:
            raise ModelError(
                f"{quote(path)}: tensor {quote(name)} has the shape {quote(list(shape))} for one image; expected at "
                f"most {LARGEST_TENSOR:,} elements: is the model damaged?"
            )


def infer_dimensions(model: ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return what ONNX can tell of every tensor's shape in all runs: `None` for sizes that depend on the inputs.

    Args:
        model: A checked model; not changed.
    """
    light = _copy_for_inference(model)
    overridable = list_overridable(model)
    constants = [tensor for tensor in light.graph.initializer if tensor.name not in overridable]
    del light.graph.initializer[:]
    light.graph.initializer.extend(constants)
    result: dict[str, tuple[int | None, ...]] = {}
    graph = _infer_as_far_as_possible(light).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            result[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim
            )
    result.update((tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer)
    return result


def infer_types(model: ModelProto) -> dict[str, int]:
    """Return the element types of a model's tensors by name, as far as ONNX can tell.

    Args:
        model: A checked model; not changed.
    """
    graph = _infer_as_far_as_possible(copy_without_weights(model)).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type
    }
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def _compute_shape_values(model: ModelProto, shapes: Mapping[str, Shape], values: dict[str, NDArray[Any]]) -> bool:
    """Turn nodes that depend on known shapes and constants only into initializers, in place.

    Args:
        model: What inference is run on.
        shapes: Those that are known so far.
        values: Computed so far, by name; what is found now is added.

    Returns:
        Whether any was found that can tell more about shapes.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kept, found = [], False
    for node in model.graph.node:
        value = _compute_value(node, shapes, values, constants, read_opset(model))
        if value is None:
            kept.append(node)
            continue
        found = True
        values[node.output[0]] = value
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    if found:
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return found


def _compute_value(
    node: NodeProto,
    shapes: Mapping[str, Shape],
    values: Mapping[str, NDArray[Any]],
    constants: Mapping[str, TensorProto],
    opset: int,
) -> NDArray[Any] | None:
    """Return what a node gives in every run with these shapes, `None` where that isn't known."""
    if node.domain not in ONNX_DOMAINS or len(node.output) != 1:
        return None
    if node.op_type == "Constant":
        tensor = read_constant(node)
        return None if tensor is None or tensor.data_type not in SHAPE_TYPES else numpy_helper.to_array(tensor)
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)
    if node.op_type not in FOLDABLE_OPS or not node.input:
        return None
    inputs = {}
    for name in filter(None, node.input):
        if name in values:
            inputs[name] = values[name]
        elif name in constants and constants[name].data_type in SHAPE_TYPES:
            inputs[name] = numpy_helper.to_array(constants[name])
        else:
            return None
    return evaluate_node(node, inputs, opset)


def _infer_as_far_as_possible(model: ModelProto) -> ModelProto:
    """Run ONNX's inference, without its propagation of values where that fails, isn't needed or is unsafe."""
    plain = _try_inference(model, propagates_values=False)
    if plain is None:
        return _try_inference(model, propagates_values=True) or model
    shapes = _read_shapes(plain)
    is_complete = all(name in shapes for node in model.graph.node for name in node.output if name)
    # It writes down vectors element by element, however many a file declares them to have.
    is_unsafe = any(len(shape) == 1 and shape[0] > _LONGEST_VECTOR for shape in shapes.values())
    if is_complete or is_unsafe:
        return plain
    return _try_inference(model, propagates_values=True) or plain


def _try_inference(model: ModelProto, *, propagates_values: bool) -> ModelProto | None:
    """Run ONNX's inference; `None` where it gives up, or where what a hostile file declares is too large for it."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=propagates_values)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, MemoryError):
        return None


def _copy_for_inference(model: ModelProto) -> ModelProto:
    """Copy a model without its weights; of some nodes that keep a shape, ONNX doesn't know that they do."""
    light = copy_without_weights(model)
    # Recorded shapes may carry symbols that contradict or hide the concrete ones.
    opaque = {name for node in model.graph.node if is_opaque(node) for name in node.output}
    kept = [value for value in model.graph.value_info if value.name in opaque and _is_known_but_batch(value)]
    del light.graph.value_info[:]
    light.graph.value_info.extend(kept)
    for node in light.graph.node:
        if node.op_type in _KEEPING_SHAPE and node.domain in ONNX_DOMAINS:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return light


def _is_known_but_batch(value: ValueInfoProto) -> bool:
    """Return whether all dimensions of a recorded shape but the first are known."""
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) > 0 and all(dim.dim_value > 0 for dim in tensor.shape.dim[1:])


def _read_batch(model: ModelProto) -> int:
    """Return the first dimension of the first input without a default, 1 where it isn't known."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in defaults]
    dims = inputs[0].type.tensor_type.shape.dim if inputs else ()
    return max(1, dims[0].dim_value) if dims else 1


def record_shapes(model: ModelProto, arrays: Mapping[str, NDArray[Any]], *, is_batch_fixed: bool) -> None:
    """State the shapes of some tensors that can't be inferred.

    Args:
        model: Changed in place.
        arrays: What the tensors held in a run, by name; the first axis is the batch.
        is_batch_fixed: Whether the batch is the same in every run.
    """
    kept = [value for value in model.graph.value_info if value.name not in arrays]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    for name, array in arrays.items():
        shape = [array.shape[0] if is_batch_fixed else None, *array.shape[1:]]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, shape))


def _fix_shape(value: ValueInfoProto, shape: Sequence[int] | None) -> None:
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


def _read_shapes(model: ModelProto) -> dict[str, Shape]:
    """Return the shapes that are recorded in a model and fully known."""
    shapes: dict[str, Shape] = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if tensor.HasField("shape") and min(dims, default=0) >= 0:
            shapes.setdefault(value.name, tuple(dims))
    return shapes
