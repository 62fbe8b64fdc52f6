"""Where the scores come from, and which operation is the classifier."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_basisprune.errors import ModelError
from onnx_basisprune.graph.head import find_classifier, find_head
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.planning.types import Head, Program


def build(body: str, output: str = "float[N, 3] y", custom: bool = False) -> Program:
    imports = '["" : 17, "custom" : 1]' if custom else '["" : 17]'
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: {imports}> g (float[N, 4] x) => ({output}) {{ {body} }}"
    )
    arrays = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32), "shape": np.array([-1, 3])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return extract_program(model)


@pytest.mark.parametrize("tail", [
    "y = {op} (s)", "p = {op} (s) y = Identity (p)", "p = {op} (s) y = Cast <to = 1> (p)",
    "p = {op} (s) q = Reshape (p, shape) y = Flatten (q)", "p = {op} (s) y = Squeeze (p)",
])  # fmt: skip
@pytest.mark.parametrize(
    ("op", "kind"), [("Softmax <axis = 1>", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")]
)
def test_the_last_activation_is_the_head(tail: str, op: str, kind: str) -> None:
    program = build("s = Gemm (x, w, b) " + tail.format(op=op))
    head = find_head(program)
    assert head == Head(kind, "s", "y")
    classifier = find_classifier(program, head)
    assert classifier is not None
    assert classifier.op_type == "Gemm"


@pytest.mark.parametrize("body", [
    # A Softmax that isn't last: attention, or a probability that is used further.
    "a = Softmax (x) y = MatMul (a, w)",
    "s = MatMul (x, w) p = Softmax (s) y = Relu (p)",
    "s = MatMul (x, w) p = Sigmoid (s) y = Mul (p, s)",
    "s = MatMul (x, w) p = Softmax (s) y = Transpose (p)",
    "y = MatMul (x, w)",
])  # fmt: skip
def test_other_softmaxes_are_no_head(body: str) -> None:
    assert find_head(build(body)) == Head("logits", "y", "y")


def test_other_domains_are_not_walked_through() -> None:
    for body in ("p = Softmax (x) y = custom.Identity (p)", "y = custom.Softmax (x)"):
        assert find_head(build(body, custom=True)) == Head("logits", "y", "y")


def test_a_softmax_of_the_input_and_of_a_graph_without_nodes_between() -> None:
    program = build("y = Softmax (x)", "float[N, 4] y")
    head = find_head(program)
    assert head == Head("softmax", "x", "y")
    assert find_classifier(program, head) is None


def test_the_first_of_several_outputs() -> None:
    program = build("s = MatMul (x, w) y = Softmax (s)", "float[N, 3] y, float[N, 3] s")
    assert find_head(program).output == "y"


def test_outputs_that_are_no_scores() -> None:
    with pytest.raises(ModelError, match=r"output 'y' is int64; expected floating-point class scores.*ArgMax"):
        find_head(build("y = ArgMax (x)", "int64[N, 1] y"))
    with pytest.raises(ModelError, match="has no output"):
        find_head(Program((), {}, (), ()))


@pytest.mark.parametrize(("body", "name"), [
    ("m = MatMul (x, w) y = Add (m, b)", "m"), ("m = MatMul (x, w) y = Add (b, m)", "m"),
    ("m = Gemm (x, w) r = Relu (m) y = Reshape (r, shape)", "m"),
    ("a = Gemm (x, w) y = MatMul (a, a)", None),
    ("y = Relu (x)", None),
])  # fmt: skip
def test_the_classifier_is_the_last_operation_with_weights(body: str, name: str | None) -> None:
    program = build(body)
    classifier = find_classifier(program, find_head(program))
    assert (None if classifier is None else classifier.outputs[0]) == name
