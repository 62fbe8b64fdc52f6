"""A strided Slice with a Pad of channels is a Conv that computes the same, and only that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.shortcuts import convolve_shortcuts

LAST = np.iinfo(np.int64).max
SHAPES = {"x": (1, 3, 8, 8)}
# Makes the shortcut's few multiply-adds a hundredth of all.
LAYERS = "a = Conv <pads = [1, 1, 1, 1]> (x, w) "
BEHIND = " y = Conv <pads = [1, 1, 1, 1]> (z, v)"
CONSTANTS = {
    "w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32),
    "v": np.random.default_rng(1).standard_normal((400, 6, 3, 3)).astype(np.float32),
    "v4": np.random.default_rng(1).standard_normal((400, 4, 3, 3)).astype(np.float32),
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "last": np.array([LAST]),
    "seven": np.array([7]), "h": np.array([2]), "w_axis": np.array([-1]), "channel": np.array([1]),
    "starts": np.array([0, 0]), "ends": np.array([8, LAST]), "axes": np.array([2, 3]), "steps": np.array([2, 3]),
    "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "space": np.array([0, 1, 1, 0, 0, 1, 0, 0]),
    "fill": np.array(0.0, np.float32), "odd": np.array(1.5, np.float32),
    "w4": np.ones((4, 4, 3, 3), np.float32),
}  # fmt: skip
SLICE = "s = Slice (a, starts, ends, axes, steps) "


def list_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def convolve(build: Any, nodes: str, opset: int = 17) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = normalize_model(build(nodes, opset=opset, y="N, K, H, W", **CONSTANTS))
    return model, convolve_shortcuts(model, SHAPES)


@pytest.mark.parametrize("nodes", [
    SLICE + "z = Pad (s, pads)" + BEHIND,
    SLICE + "z = Pad <mode = \"constant\"> (s, pads, fill)" + BEHIND,
    "r = Slice (a, zero, last, h, two) s = Slice (r, zero, last, w_axis, two) z = Pad (s, pads)" + BEHIND,
    SLICE + "t = Slice (s, zero, last, h, two) z = Pad (t, pads)" + BEHIND,
    "s = Slice (a, zero, last, h, two) z = Pad (s, pads)" + BEHIND,
    SLICE + "y = Conv <pads = [1, 1, 1, 1]> (s, v4)",
])  # fmt: skip
@pytest.mark.parametrize("opset", [13, 18])
def test_shortcuts_become_convs(build: Any, assert_equivalent: Any, opset: int, nodes: str) -> None:
    model, faster = convolve(build, LAYERS + nodes, opset)
    assert list_ops(faster) == ["Conv"] * 3
    onnx.checker.check_model(faster, full_check=True)
    x = np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert_equivalent(model, faster, {"x": x}, 0)
    assert list_ops(convolve_shortcuts(faster, SHAPES)) == ["Conv"] * 3


def test_settings_in_attributes(build: Any, assert_equivalent: Any) -> None:
    nodes = (
        "s = Slice (a, starts, ends, axes, steps) z = Pad <pads = [0, 1, 0, 0, 0, 1, 0, 0], value = 0.0> (s)" + BEHIND
    )
    model, faster = convolve(build, LAYERS + nodes, 10)
    assert list_ops(faster) == ["Conv"] * 3
    x = np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert_equivalent(model, faster, {"x": x}, 0)


@pytest.mark.parametrize("nodes", [
    "s = Slice (a, one, last, h, two) z = Pad (s, pads)" + BEHIND,  # from the second position on
    "s = Slice (a, zero, seven, h, two) z = Pad (s, pads)" + BEHIND,  # without the last
    "s = Slice (a, zero, last, channel, two) z = Concat <axis = 1> (s, a)" + BEHIND,  # channels
    "s = Slice (a, zero, last, h, one) z = Pad (s, pads)" + BEHIND,  # every position
    "s = Slice (a, zero, last, zero, two) z = Pad (s, pads)" + BEHIND,  # every second image
])  # fmt: skip
def test_other_slices_stay(build: Any, nodes: str) -> None:
    model, faster = convolve(build, LAYERS + nodes)
    assert faster is model


@pytest.mark.parametrize("pad", [
    "Pad (s, space)", "Pad (s, pads, odd)", "Pad <mode = \"reflect\"> (s, pads)", "Pad (s, computed)",
])  # fmt: skip
def test_other_pads_stay_behind_the_conv(build: Any, assert_equivalent: Any, pad: str) -> None:
    computed = "b = Shape (x) n = Mul (b, b) m = Sub (n, n) computed = Concat <axis = 0> (m, m) "
    model, faster = convolve(
        build, LAYERS + computed + SLICE + f"z = {pad}" + (BEHIND if "computed" not in pad else " y = Conv (z, v4)")
    )
    assert "Slice" not in list_ops(faster)
    assert "Pad" in list_ops(faster) or "computed" in pad
    x = np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert_equivalent(model, faster, {"x": x}, 0)


def test_what_something_else_reads_stays(build: Any, assert_equivalent: Any) -> None:
    nodes = SLICE + "p = Pad (s, pads) m = ReduceMean <keepdims = 1> (s) z = Add (p, m)" + BEHIND
    model, faster = convolve(build, LAYERS + nodes)
    assert list_ops(faster).count("Pad") == 1
    assert_equivalent(model, faster, {"x": np.ones((1, 3, 8, 8), np.float32)}, 0)


def test_integers_and_wide_ones_stay(build: Any) -> None:
    nodes = "i = Cast <to = 6> (a) s = Slice (i, starts, ends, axes, steps) f = Cast <to = 1> (s) z = Pad (f, pads)"
    model, faster = convolve(build, LAYERS + nodes + BEHIND)
    assert faster is model
    # Two Convs of 3 by 3: the third would be more than a hundredth of them.
    model, faster = convolve(build, LAYERS + SLICE + "y = Conv <pads = [1, 1, 1, 1]> (s, w4)")
    assert faster is model
