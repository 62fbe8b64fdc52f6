"""Find where a classifier's scores come from, so that a loss can be differentiated there."""

from __future__ import annotations

from onnx_basisprune.errors import ModelError, quote
from onnx_basisprune.planning.types import Head, Operation, Program

_PASSED_OVER = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze"})


def find_head(program: Program) -> Head:
    """Return the head of the graph's first output (METHOD section 2).

    Walks back from the output through Identity, Cast, Reshape, Flatten and Squeeze to a Softmax, LogSoftmax or
    Sigmoid; the loss is then taken of that node's input. Where there is none, the output itself is taken
    as the logits (a probe of its values can still show them to be probabilities).

    Args:
        program: The graph as plain data.

    Raises:
        ModelError: The graph has no output, or its first output isn't floating point.
    """
    if not program.outputs:
        raise ModelError("The model has no output; expected one with a score for each class.")
    output = program.outputs[0]
    if output.dtype and not output.dtype.startswith(("float", "bfloat")):
        raise ModelError(
            f"output {quote(output.name)} is {output.dtype}; expected floating-point class scores: "
            f"export the model without its final ArgMax or decoding."
        )
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
