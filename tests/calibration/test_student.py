"""Which initializers each kind of recovery trains, and the units of their changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.student import list_matrices, list_trained, make_student, prepare_executor
from onnx_basisprune.planning.types import Operation, Program, TensorSpec


def step(op_type: str, inputs: list[str], output: str, domain: str = "", **attributes: object) -> Operation:
    return Operation(output, op_type, domain, 17, tuple(inputs), (output,), attributes)


def draw(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(*operations: Operation, **initializers: NDArray[np.generic]) -> Program:
    output = TensorSpec(operations[-1].outputs[0], "float32", None)
    return Program(operations, initializers, (TensorSpec("x", "float32", (None, 3, 4, 4)),), (output,))


CONV = step("Conv", ["x", "w", "b"], "y")
W, B = draw(0, 4, 3, 1, 1), draw(1, 4)
CHANNELS = (4, 1, 1)
CASES = [
    pytest.param((CONV,), {}, set(), {"w"}, id="conv"),
    pytest.param((CONV, step("Clip", ["y", "low"], "z")), {"low": draw(2, 1)}, set(), set(), id="bounds"),
    pytest.param((CONV, step("Add", ["y", "v"], "z")), {"v": draw(2, *CHANNELS)}, {"v"}, set(), id="bias of an Add"),
    pytest.param((CONV, step("Add", ["v", "y"], "z")), {"v": draw(2, 4, 1, 4)}, set(), set(), id="grid"),
    pytest.param((CONV, step("Add", ["y", "v"], "z")), {"v": draw(2, 1)}, set(), set(), id="number"),
    pytest.param((CONV, step("Mul", ["y", "v"], "z")), {"v": draw(2, *CHANNELS)}, set(), {"v"}, id="layer scale"),
    pytest.param((CONV, step("PRelu", ["y", "v"], "z")), {"v": draw(2, *CHANNELS)}, set(), {"v"}, id="slopes"),
    pytest.param(
        (CONV, step("Div", ["y", "v"], "z")), {"v": draw(2, *CHANNELS)}, set(), set(), id="standard deviation"
    ),
    pytest.param(
        (CONV, step("BatchNormalization", ["y", "s", "t", "m", "v"], "z")),
        {"s": draw(2, 4), "t": draw(3, 4), "m": draw(4, 4), "v": draw(5, 4) ** 2},
        {"t"},
        {"s"},
        id="batch normalisation",
    ),
    pytest.param((CONV, step("MatMul", ["y", "v"], "z")), {"v": draw(2, 4, 6)}, set(), {"v"}, id="matrix"),
    pytest.param(
        (CONV, step("Transpose", ["v"], "u", perm=[1, 0]), step("MatMul", ["y", "u"], "z")),
        {"v": draw(2, 6, 4)},
        set(),
        {"v"},
        id="matrix, laid out anew",
    ),
    pytest.param(
        (CONV, step("MatMul", ["y", "v"], "z")), {"v": draw(2, 4, 6).astype(np.float64)}, set(), set(), id="float64"
    ),
    pytest.param(
        (CONV, step("Conv", ["y", "v"], "z", "com.example")), {"v": draw(2, 4, 4)}, set(), set(), id="foreign"
    ),
    pytest.param(
        (CONV, step("PRelu", ["y", "v"], "u"), step("Max", ["u", "v"], "z")),
        {"v": draw(2, *CHANNELS)},
        set(),
        set(),
        id="read as a constant, too",
    ),
]


@pytest.mark.parametrize(("operations", "more", "biases", "weights"), CASES)
def test_what_is_trained(
    operations: tuple[Operation, ...], more: dict[str, NDArray[np.generic]], biases: set[str], weights: set[str]
) -> None:
    program = build(*operations, w=W, b=B, **more)
    assert list_trained(program, "scale", None) == {"b", *biases}
    assert list_trained(program, "full", None) == {"w", "b", *biases, *weights}


@pytest.mark.parametrize(
    ("operation", "shape", "is_matrix"),
    [
        (step("Conv", ["x", "v"], "y"), (4, 3, 3, 3), True),
        (step("Conv", ["x", "v"], "y", group=1), (4, 3, 1, 1), True),
        (step("Conv", ["x", "v"], "y", group=3), (3, 1, 3, 3), False),
        (step("Conv", ["x", "v"], "y"), (1, 3, 3, 3), False),
        (step("Conv", ["x", "v"], "y", "com.example"), (4, 3, 3, 3), False),
        (step("Conv", ["x", "v"], "y"), (1024, 1025, 1, 1), True),
        (step("Conv", ["x", "v"], "y"), (1025, 1025, 1, 1), False),
        (step("ConvTranspose", ["x", "v"], "y"), (3, 4, 3, 3), False),
        (step("Gemm", ["x", "v"], "y"), (4, 6), True),
        (step("MatMul", ["x", "v"], "y"), (4, 6), True),
        (step("MatMul", ["x", "v"], "y"), (2, 4, 6), False),
        (step("MatMul", ["x", "v"], "y"), (4,), False),
        (step("MatMul", ["v", "x"], "y"), (4, 6), False),
        (step("Mul", ["x", "v"], "y"), (4, 6), False),
    ],
)
def test_matrices_are_maps_of_all_that_a_node_reads(
    operation: Operation, shape: tuple[int, ...], is_matrix: bool
) -> None:
    assert list_matrices(build(operation, v=np.zeros(shape, np.float32))) == ({"v"} if is_matrix else set())


def test_scale_trains_the_classifier_whole() -> None:
    last = step("Gemm", ["f", "fc.w", "fc.b"], "z", transB=1)
    program = build(CONV, step("Flatten", ["y"], "f"), last, w=W, b=B, **{"fc.w": draw(2, 5, 64), "fc.b": draw(3, 5)})
    assert list_trained(program, "scale", last) == {"b", "fc.w", "fc.b"}
    assert list_trained(program, "scale", None) == {"b", "fc.b"}


def test_an_initializer_that_is_an_output_stays() -> None:
    program = build(CONV, step("PRelu", ["y", "v"], "z"), w=W, b=B, v=draw(2, *CHANNELS))
    program = Program(
        program.operations, program.initializers, program.inputs, (*program.outputs, TensorSpec("v", "float32", None))
    )
    assert list_trained(program, "full", None) == {"w", "b"}


def test_a_change_of_one_is_a_change_by_the_tensors_own_size() -> None:
    program = build(CONV, w=100 * W, b=0 * B)
    student = make_student(prepare_executor(program), {"w", "b"}, ())
    np.testing.assert_array_equal(student.read_arrays()["w"], 100 * W)
    with torch.no_grad():
        for change in student.changes.values():
            change.fill_(1.0)
    size = np.sqrt(np.mean(np.square(100 * W, dtype=np.float64)))
    # float32 sums; a bias of zeros has no size of its own and takes the others'.
    np.testing.assert_allclose(student.read_arrays()["w"], 100 * W + size, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(student.read_arrays()["b"], size, rtol=1e-5)


def test_a_change_of_a_factor_scales_its_basis_channel() -> None:
    scaling = draw(2, 5, 4, 1, 1)
    program = build(CONV, step("Conv", ["y", "s"], "z"), w=W, b=B, s=scaling)
    student = make_student(prepare_executor(program), {"b"}, ("s",))
    assert student.changes["s"].shape == (1, 4, 1, 1)
    with torch.no_grad():
        student.changes["s"][0, 2] = 0.5
    expected = scaling.copy()
    expected[:, 2] *= 1.5
    np.testing.assert_allclose(student.read_arrays()["s"], expected, rtol=1e-6)


def test_arrays_are_the_callers_own() -> None:
    student = make_student(prepare_executor(build(CONV, w=W.copy(), b=B.copy())), {"w", "b"}, ())
    first = student.read_arrays()
    first["w"][:] = 0
    np.testing.assert_array_equal(student.read_arrays()["w"], W)
