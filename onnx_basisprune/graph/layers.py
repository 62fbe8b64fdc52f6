"""List the Convs of a graph and say for each whether it can be decomposed, or why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

import numpy as np
from onnx import ModelProto

from onnx_basisprune.errors import ConfigError, quote
from onnx_basisprune.graph.editing import list_overridable
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.planning.types import ConvLayer, Operation, Program

_CONV_TYPES = ("Conv", "ConvTranspose")
# Of a weight: outputs, inputs, and an axis of the kernel or more.
_FEWEST_AXES = 3
_SMALLEST_FULL_RANK = 2
# Of higher full ranks the moments would take over 256 MiB, and their eigenvectors several times that, and minutes.
_LARGEST_FULL_RANK = 4096


def list_conv_layers(model: ModelProto, exclude: Collection[str] = ()) -> tuple[ConvLayer, ...]:
    """Return the model's Convs in graph order.

    Args:
        model: A normalised model.
        exclude: Names of nodes that must stay as they are.

    Returns:
        One entry per Conv and ConvTranspose; those with an empty `reason` can be decomposed.

    Raises:
        ConfigError: `exclude` names a node that the graph doesn't have.
    """
    program = extract_program(model)
    _check_excluded(program, exclude)
    overridable = list_overridable(model)
    return tuple(
        _describe_conv(operation, program, exclude, overridable)
        for operation in program.operations
        if operation.op_type in _CONV_TYPES and operation.domain == ""
    )


def _check_excluded(program: Program, exclude: Collection[str]) -> None:
    """Refuse names that don't exist: a typing error must not go unnoticed."""
    names = [operation.name for operation in program.operations]
    for name in exclude:
        if name not in names:
            near = " or ".join(quote(match) for match in get_close_matches(name, names))
            hint = f"did you mean {near}? " if near else ""
            raise ConfigError(
                f"--exclude {quote(name)}: the model has no node of this name; {hint}"
                f"`basisprune inspect` lists all names."
            )


def _describe_conv(
    operation: Operation, program: Program, exclude: Collection[str], overridable: Collection[str]
) -> ConvLayer:
    """Return one Conv's entry."""
    weight, bias = operation.inputs[1], operation.inputs[2] if len(operation.inputs) > 2 else ""
    values = program.initializers.get(weight)
    group = int(operation.attributes.get("group", 1))
    if values is None:
        return ConvLayer(operation.name, operation.op_type, "", bias, 0, 0, "its weight is computed in the graph")
    if values.ndim < _FEWEST_AXES or group < 1 or values.shape[0] % group:
        return ConvLayer(operation.name, operation.op_type, "", bias, 0, 0, "its weight doesn't fit its attributes")
    if operation.op_type == "Conv":
        out_channels, fan_in = values.shape[0], int(np.prod(values.shape[1:]))
    else:
        out_channels, fan_in = (
            values.shape[1] * group,
            values.shape[0] // group * int(np.prod(values.shape[2:])),
        )
    layer = ConvLayer(operation.name, operation.op_type, weight, bias, out_channels, fan_in)
    known_bias = not bias or bias in program.initializers
    reason = _find_obstacle(layer, values.shape, group, str(values.dtype), known_bias, exclude, overridable)
    return ConvLayer(operation.name, operation.op_type, weight, bias, out_channels, fan_in, reason)


def _find_obstacle(
    layer: ConvLayer,
    shape: Sequence[int],
    group: int,
    dtype: str,
    known_bias: bool,
    exclude: Collection[str],
    overridable: Collection[str],
) -> str:
    """Return why a Conv can't be decomposed, `""` where it can."""
    if layer.name in exclude:
        return "excluded by --exclude"
    if layer.op_type == "ConvTranspose":
        return "ConvTranspose isn't decomposed"
    if group > 1:
        return "depthwise" if group == layer.out_channels and shape[1] == 1 else f"grouped ({group} groups)"
    if dtype != "float32":
        return f"its weight is {dtype}; only float32 is decomposed"
    for what, name in (("weight", layer.weight), ("bias", layer.bias)):
        if name in overridable:
            return f"its {what} is a graph input that a caller may override"
    if not known_bias:
        return "its bias is computed in the graph"
    if layer.full_rank < _SMALLEST_FULL_RANK or layer.break_even_rank < 1:
        return f"no rank below its full rank {layer.full_rank} takes fewer multiply-adds"
    if layer.full_rank > _LARGEST_FULL_RANK:
        return f"its full rank {layer.full_rank:,} is over {_LARGEST_FULL_RANK:,}: too wide for its moments"
    return ""
