"""The form in which a model is computed with: float32 throughout, and a batch axis in front."""

from __future__ import annotations

from onnx import ModelProto

from onnx_basisprune.graph.batch_axis import add_batch_axis, lacks_batch_axis, remove_batch_axis
from onnx_basisprune.graph.half_precision import narrow_model, widen_model
from onnx_basisprune.graph.program import extract_program


def take_working_form(model: ModelProto) -> ModelProto:
    """Return a model in float32, with a batch axis.

    Args:
        model: As it was read; not changed.

    Returns:
        The model itself where it has this form already.
    """
    program = extract_program(model)
    return widen_model(add_batch_axis(model, program.inputs[0].name) if lacks_batch_axis(program) else model)


def leave_working_form(model: ModelProto, original: ModelProto) -> ModelProto:
    """Return a model in the types and with the input of the one that it was made from.

    Args:
        model: Made from the original's working form; not changed.
        original: As it was read; the data of its weights aren't needed, only their shapes.
    """
    program = extract_program(original)
    if lacks_batch_axis(program):
        model = remove_batch_axis(model, original, program.inputs[0].name)
    return narrow_model(model, original)
