"""Find where a classifier's scores come from, so that a loss can be differentiated there."""

from __future__ import annotations

from onnx_basisprune.errors import ConfigError, ModelError, quote
from onnx_basisprune.planning.types import Head, Operation, Program, TensorSpec

_PASSED_OVER = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})


def find_head(program: Program, scores: str | None = None) -> Head:
    """Return the head of the output that holds the class scores (METHOD section 2).

    Walks back from the output through Identity, Cast, Reshape, Flatten and Squeeze to a Softmax, LogSoftmax or
    Sigmoid; the loss is then taken of that node's input. Where there is none, the output itself is taken
    as the logits (a probe of its values can still show them to be probabilities).

    Args:
        program: The graph as plain data.
        scores: The output's name; `None` for the first that is floating point.

    Raises:
        ConfigError: There is no output of this name.
        ModelError: The graph has no output, or none that is floating point.
    """
    output = _choose_output(program, scores)
    producers = {name: operation for operation in program.operations for name in operation.outputs}
    name = output.name
    while (operation := producers.get(name)) is not None and operation.op_type in _PASSED_OVER:
        if operation.domain != "":
            break
        name = operation.inputs[0]
    if operation is not None and operation.domain == "":
        if operation.op_type in ("Softmax", "LogSoftmax"):
            return Head("softmax", operation.inputs[0], output.name)
        if operation.op_type == "Sigmoid":
            return Head("sigmoid", operation.inputs[0], output.name)
    return Head("logits", output.name, output.name)


def _choose_output(program: Program, scores: str | None) -> TensorSpec:
    """Return the output that holds the class scores."""
    if not program.outputs:
        raise ModelError("The model has no output; expected one with a score for each class.")
    named = [output for output in program.outputs if scores in (None, output.name)]
    if not named:
        names = ", ".join(quote(output.name) for output in program.outputs)
        raise ConfigError(f"--scores {quote(scores)}: the model has no such output; expected one of {names}.")
    for output in named:
        if not output.dtype or output.dtype.startswith(("float", "bfloat")):
            return output
    raise ModelError(
        f"output {quote(named[0].name)} is {named[0].dtype}; expected floating-point class scores: "
        f"export the model without its final ArgMax or decoding."
    )


def find_classifier(program: Program, head: Head) -> Operation | None:
    """Return the last operation with weights before the head: the final classifier.

    Walks back along the first input; a bias Add after a MatMul is passed over.

    Returns:
        The Gemm, MatMul or Conv whose weight is an initializer, `None` where the walk doesn't meet one.
    """
    producers = {name: operation for operation in program.operations for name in operation.outputs}
    name = head.logits
    while (operation := producers.get(name)) is not None:
        if operation.op_type in ("Gemm", "MatMul", "Conv"):
            has_weight = len(operation.inputs) > 1 and operation.inputs[1] in program.initializers
            return operation if has_weight else None
        computed = [item for item in operation.inputs if item in producers]
        if not computed:
            return None
        name = computed[0]
    return None
