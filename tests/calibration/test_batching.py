"""Which graphs with a fixed batch can be run with another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnx_basisprune.calibration.batching import can_batch, fill_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.planning.types import Head, Operation, Program, TensorSpec

HEAD = Head("logits", "z", "z")
WEIGHT = np.random.default_rng(0).standard_normal((4, 3, 1, 1), dtype=np.float32)


def step(op_type: str, inputs: list[str], output: str, **attributes: object) -> Operation:
    return Operation(output, op_type, "", 17, tuple(inputs), (output,), attributes)


def build(batch: int, *operations: Operation, **initializers: np.ndarray) -> Executor:
    spec = TensorSpec("x", "float32", (batch, 3, 2, 2))
    return Executor(Program(operations, {"w": WEIGHT, **initializers}, (spec,), ()))


def draw_images(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 2, 2), dtype=np.float32)


CONV = step("Conv", ["x", "w"], "y")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_flatten_can(batch: int, count: int) -> None:
    executor = build(batch, CONV, step("Flatten", ["y"], "z"))
    assert can_batch(executor, "x", HEAD, draw_images(count), batch)


@pytest.mark.parametrize("batch", [1, 3])
def test_reshape_to_a_fixed_batch_cannot(batch: int) -> None:
    executor = build(batch, CONV, step("Reshape", ["y", "shape"], "z"), shape=np.array([batch, 16]))
    assert not can_batch(executor, "x", HEAD, draw_images(4), batch)


@pytest.mark.parametrize("batch", [1, 3])
def test_reshape_that_folds_images_into_one_row_cannot(batch: int) -> None:
    executor = build(batch, CONV, step("Reshape", ["y", "shape"], "z"), shape=np.array([batch, -1]))
    assert not can_batch(executor, "x", HEAD, draw_images(4), batch)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("count", [1, 4])
def test_what_mixes_images_cannot(batch: int, count: int) -> None:
    # Each image's mean over the channels is taken over half the batch, too.
    executor = build(
        batch,
        CONV,
        step("ReduceMean", ["y"], "mean", axes=[0], keepdims=1),
        step("Sub", ["y", "mean"], "centered"),
        step("Add", ["y", "centered"], "sum"),
        step("Flatten", ["sum"], "z"),
    )
    assert not can_batch(executor, "x", HEAD, draw_images(count), batch)


@pytest.mark.parametrize("count", [1, 4])
def test_channel_shuffle_with_a_batch_of_one_written_down_cannot(count: int) -> None:
    # [1, 2, -1, 2, 2] takes two images for one with twice the channels; back in order of images it fits again.
    executor = build(
        1,
        CONV,
        step("Reshape", ["y", "groups"], "g"),
        step("Transpose", ["g"], "t", perm=[0, 2, 1, 3, 4]),
        step("Reshape", ["t", "back"], "s"),
        step("Flatten", ["s"], "z"),
        groups=np.array([1, 2, -1, 2, 2]),
        back=np.array([-1, 4, 2, 2]),
    )
    assert not can_batch(executor, "x", HEAD, draw_images(count), 1)


def test_pixels_as_input() -> None:
    executor = build(1, step("Cast", ["x"], "f", to=1), step("Conv", ["f", "w"], "y"), step("Flatten", ["y"], "z"))
    images = np.random.default_rng(2).integers(0, 256, (1, 3, 2, 2), dtype=np.uint8)
    assert can_batch(executor, "x", HEAD, images, 1)


def test_small_batches_are_filled_with_the_last_image() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert fill_batch(x, None) is x
    assert fill_batch(x, 2) is x
    assert fill_batch(x, 4).tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5], [3, 4, 5]]
