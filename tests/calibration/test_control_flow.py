"""If, Loop and local functions in PyTorch give what onnxruntime gives, and gradients pass them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnx_basisprune.calibration import control_flow
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import ModelError, UnsupportedOpError
from onnx_basisprune.graph.program import extract_program


def build(body: str, outputs: str, functions: str = "", **constants: Any) -> ModelProto:
    header = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N, 3] x)'
    model = onnx.parser.parse_model(f"{header} => ({outputs}) {{ {body} }} {functions}")
    for name, array in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(model)
    return model


def compare(model: ModelProto, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Check that all outputs are onnxruntime's, and return them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    found = Executor(extract_program(model)).compute({"x": x}, names)
    for name, expected in zip(names, session.run(names, {"x": x}), strict=True):
        assert found[name].shape == expected.shape
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)  # a few float32 operations
    return found


X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2

IF = """
    s = ReduceSum <keepdims = 0> (x) c = Greater (s, limit)
    y, z = If (c) <
        then_branch = a () => (float[N, 3] p, float[N, 3] q) { p = Mul (x, w) q = Identity (x) },
        else_branch = b () => (float[N, 3] r, float[N, 3] x2) {
            k = Constant <value = float {3}> () r = Add (x, k) x2 = Neg (x) }>
"""


@pytest.mark.parametrize("limit", [-10.0, 10.0])
def test_if_takes_the_branch_of_its_condition(limit: float) -> None:
    model = build(IF, "float[N, 3] y, float[N, 3] z", limit=np.float32(limit), w=np.array([1, 2, 3], np.float32))
    found = compare(model, X)
    np.testing.assert_array_equal(found["z"], X if limit < 0 else -X)


def test_gradients_pass_a_branch_and_reach_what_it_reads_from_outside() -> None:
    model = build(IF, "float[N, 3] y, float[N, 3] z", limit=np.float32(-10), w=np.array([1, 2, 3], np.float32))
    executor = Executor(extract_program(model))
    weight = executor.parameters["w"].clone().requires_grad_()
    x = torch.from_numpy(X.copy()).requires_grad_()
    y = executor.run({"x": x}, ["y"], overrides={"w": weight})["y"]
    by_weight, by_x = torch.autograd.grad(y.sum(), [weight, x])
    np.testing.assert_array_equal(by_weight.numpy(), X.sum(axis=0))
    np.testing.assert_array_equal(by_x.numpy(), np.tile([1, 2, 3], (2, 1)))


LOOP = """
    y, all = Loop ({inputs}, x) <body = t (int64 i, bool go, float[N, 3] v) => (bool again, float[N, 3] w, float s) {{
        f = Cast <to = 1> (i) u = Add (v, f) w = Mul (u, gain)
        s = ReduceSum <keepdims = 0> (w) again = Less (s, limit) }}>
"""


@pytest.mark.parametrize(
    ("inputs", "limit", "turns"),
    [("four, yes", 1e9, 4), ("four, ", 1e9, 4), (", yes", 50.0, 4), ("four, yes", -99.0, 1)],
)
def test_loop_ends_by_its_count_or_its_condition(inputs: str, limit: float, turns: int) -> None:
    constants = {"four": np.array(4), "yes": np.array(True), "gain": np.float32(1.5), "limit": np.float32(limit)}
    found = compare(build(LOOP.format(inputs=inputs), "float[N, 3] y, float[K] all", **constants), X)
    assert found["all"].shape == (turns,)


def test_a_loop_without_a_turn_gives_its_states_back() -> None:
    body = LOOP.format(inputs="none, yes")
    constants = {"none": np.array(0), "yes": np.array(True), "gain": np.float32(1), "limit": np.float32(0)}
    np.testing.assert_array_equal(compare(build(body, "float[N, 3] y", **constants), X)["y"], X)


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("LONGEST_LOOP_SECONDS", 0.05, r"'Loop_0' \(Loop, .* turns took over 0.05 s, which is the limit"),
        ("LARGEST_STACKS", 100, r"'Loop_0' .* 51 turns gave over 100 numbers, which is the limit"),
    ],
)
def test_a_loop_without_an_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: float, message: str
) -> None:
    monkeypatch.setattr(control_flow, name, limit)
    constants = {"gain": np.float32(1), "limit": np.float32(np.inf)}
    model = build(LOOP.format(inputs=", "), "float[N, 3] y, float[K] all", **constants)
    with pytest.raises(ModelError, match=message):
        Executor(extract_program(model)).compute({"x": X}, ["y"])


@pytest.mark.parametrize("count", [0, -1, 4, 2**62])
def test_scan_of_more_inputs_than_there_are_is_refused(count: int) -> None:
    constants = {"gain": np.float32(1), "zero": np.zeros(2, np.float32), "z": np.eye(3, dtype=np.float32)}
    model = build(SCAN.format(attributes="scan_input_axes = [1, 0],"), "float[2] y", **constants)
    next(item for item in model.graph.node[0].attribute if item.name == "num_scan_inputs").i = count
    with pytest.raises(ModelError, match=f"num_scan_inputs is {count}, of 3 inputs"):
        Executor(extract_program(model)).compute({"x": X}, ["y"])


SCAN = """
    y, sums, rows = Scan <num_scan_inputs = 2, {attributes} body = t (float[2] total, float[2] a, float[3] b) =>
        (float[2] next, float[2] sum, float[5] row) {{
            next = Add (total, a) u = Mul (next, gain) sum = Identity (u)
            row = Concat <axis = 0> (u, b) }}> (zero, x, z)
"""


@pytest.mark.parametrize(
    "attributes",
    [
        "scan_input_axes = [1, 0],",
        "scan_input_axes = [-1, 0], scan_input_directions = [1, 0], scan_output_axes = [0, 1],",
        "scan_input_axes = [1, 0], scan_input_directions = [0, 1], scan_output_directions = [1, 0],",
    ],
)
def test_scan_goes_through_slices_in_both_directions(attributes: str) -> None:
    constants = {"gain": np.float32(1.5), "zero": np.zeros(2, np.float32), "z": np.eye(3, dtype=np.float32)}
    model = build(SCAN.format(attributes=attributes), "float[2] y, float[K, L] sums, float[R, S] rows", **constants)
    found = compare(model, X)
    np.testing.assert_array_equal(found["y"], X.sum(axis=1))
    assert found["sums"].shape == (3, 2)


def test_scan_of_the_first_operator_set_is_refused() -> None:
    constants = {"gain": 1.0, "zero": np.zeros(2, np.float32), "z": np.zeros((2, 3))}
    model = build(SCAN.format(attributes=""), "float[2] y", **constants)
    model.opset_import[0].version = 8
    with pytest.raises(UnsupportedOpError, match="'Scan_0'"):
        Executor(extract_program(model))


def test_functions_that_call_each_other_and_take_attributes() -> None:
    functions = """
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        Outer <slope> (a, b) => (r) { p = local.Inner <slope: float = @slope> (a) r = Add (p, b) }
        <domain: "local", opset_import: ["" : 17]>
        Inner <slope> (a) => (r) { r = LeakyRelu <alpha: float = @slope> (a) }
    """
    model = build("h = Neg (x) y = local.Outer <slope = 0.25> (h, h)", "float[N, 3] y", functions)
    np.testing.assert_array_equal(compare(model, X)["y"], np.where(X < 0, -2 * X, -1.25 * X))


def test_a_function_within_a_branch_within_a_function() -> None:
    functions = """
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        Choose (a, c) => (r) { r = If (c) <
            then_branch = t () => (float[N, 3] p) { p = local.Double (a) },
            else_branch = e () => (float[N, 3] q) { q = Identity (a) }> }
        <domain: "local", opset_import: ["" : 17]>
        Double (a) => (r) { r = Add (a, a) }
    """
    model = build("y = local.Choose (x, yes)", "float[N, 3] y", functions, yes=np.array(True))
    np.testing.assert_array_equal(compare(model, X)["y"], 2 * X)


BRANCH = """
    y = If (yes) <then_branch = t () => (float[N, K] p) {{ [inner] p = {op} }},
        else_branch = e () => (float[N, 3] q) {{ q = Relu (x) }}>
"""


def test_what_fails_within_names_the_inner_node() -> None:
    model = build(BRANCH.format(op="MatMul (x, w)"), "float[N, K] y", yes=True, w=np.ones((5, 4), np.float32))
    with pytest.raises(ModelError, match=r"Node 'inner' \(MatMul"):
        Executor(extract_program(model)).compute({"x": X}, ["y"])


def test_an_unknown_operator_within_is_refused() -> None:
    model = build(BRANCH.format(op="Bernoulli (x)"), "float[N, K] y", yes=True)
    with pytest.raises(UnsupportedOpError, match=r"Node 'inner' \(Bernoulli"):
        Executor(extract_program(model))
