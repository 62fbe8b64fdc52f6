"""Running a graph piece by piece gives what running it whole gives, and holds only what is still read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.stepper import Stepper
from onnx_basisprune.errors import ModelError
from onnx_basisprune.planning.types import Operation, Program, TensorSpec

RNG = np.random.default_rng(0)
W1, W2 = (RNG.standard_normal((4, 4, 1, 1)).astype(np.float32) for _ in range(2))


def step(op_type: str, inputs: list[str], output: str) -> Operation:
    return Operation(output, op_type, "", 17, tuple(inputs), (output,), {})


# x is read at the beginning and at the end, `a` twice, `idle` never.
PROGRAM = Program(
    (
        step("Conv", ["x", "w1"], "a"),
        step("Relu", ["a"], "b"),
        step("Sigmoid", ["b"], "idle"),
        step("Conv", ["b", "w2"], "c"),
        step("Add", ["c", "a"], "d"),
        step("Add", ["d", "x"], "z"),
    ),
    {"w1": W1, "w2": W2},
    (TensorSpec("x", "float32", (None, 4, 3, 3)),),
    (),
)
CHUNKS = [torch.from_numpy(RNG.standard_normal((n, 4, 3, 3)).astype(np.float32)) for n in (3, 2)]


def run_whole(program: Program, name: str) -> list[torch.Tensor]:
    executor = Executor(program)
    return [executor.run({"x": chunk}, [name])[name] for chunk in CHUNKS]


def assert_peeks(stepper: Stepper, end: int, name: str, expected: list[torch.Tensor]) -> None:
    found = [values[name] for values in stepper.peek(end, [name])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stops", [[6], [1, 2, 3, 4, 5, 6], [3, 3, 2, 6], [0, 5]])
def test_pieces_give_the_whole(stops: list[int]) -> None:
    stepper = Stepper(PROGRAM, CHUNKS)
    for stop in stops:
        stepper.advance(stop, {"z"})
    assert_peeks(stepper, 6, "z", run_whole(PROGRAM, "z"))


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "z", "idle", "x"])
def test_what_is_peeked_at_is_not_passed(name: str) -> None:
    stepper = Stepper(PROGRAM, CHUNKS)
    for _ in range(2):
        expected = CHUNKS if name == "x" else run_whole(PROGRAM, name)
        assert_peeks(stepper, stepper.find_producer(name) + 1, name, expected)
    assert_peeks(stepper, 6, "z", run_whole(PROGRAM, "z"))


def test_only_what_is_read_later_is_held() -> None:
    stepper = Stepper(PROGRAM, CHUNKS)
    stepper.advance(4, {"b"})
    assert_peeks(stepper, 0, "b", run_whole(PROGRAM, "b"))
    with pytest.raises(ModelError):
        next(stepper.peek(0, ["idle"]))
    stepper.advance(5)
    # `a` and `b` are done with; the images are still read.
    assert_peeks(stepper, 0, "x", CHUNKS)
    for gone in ("a", "b", "c"):
        with pytest.raises(ModelError):
            next(stepper.peek(0, [gone]))


def test_new_weights_count_from_the_next_piece_on() -> None:
    stepper = Stepper(PROGRAM, CHUNKS)
    stepper.advance(1)
    stepper.arrays.update({"w1": 5 * W1, "w2": -W2})
    changed = replace(PROGRAM, initializers={"w1": W1, "w2": -W2})
    assert_peeks(stepper, 6, "z", run_whole(changed, "z"))
    stepper.advance(6, {"z"})
    assert_peeks(stepper, 6, "z", run_whole(changed, "z"))


def test_more_images_come_to_where_the_others_stand() -> None:
    stepper = Stepper(PROGRAM, CHUNKS[:1])
    stepper.advance(1)
    stepper.arrays["w2"] = -W2
    stepper.advance(4, {"b"})
    stepper.extend(CHUNKS[1:])
    stepper.extend([])
    assert_peeks(stepper, 0, "b", run_whole(PROGRAM, "b"))
    changed = replace(PROGRAM, initializers={"w1": W1, "w2": -W2})
    assert_peeks(stepper, 6, "z", run_whole(changed, "z"))
