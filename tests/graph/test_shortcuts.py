"""A strided Slice with a Pad of channels is a Conv that computes the same, and only that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.shortcuts import convolve_shortcuts

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
FEW = "a = Conv <pads = [1, 1, 1, 1]> (x, w) around = Conv (a, w4) m = ReduceMean (around) "
# Makes the shortcut's few multiply-adds less than a hundredth of all.
BEHIND = " q = Conv <pads = [1, 1, 1, 1]> (z, v) y = Add (q, m)"
SLICE = "s = Slice (a, starts, ends, axes, steps) "
CONSTANTS = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "w4": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((400, 6, 3, 3)).astype(np.float32),
    "v4": RNG.standard_normal((400, 4, 3, 3)).astype(np.float32),
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "seven": np.array([7]), "eight": np.array([8]),
    "last": np.array([np.iinfo(np.int64).max]), "h": np.array([2]), "w_axis": np.array([-1]),
    "starts": np.array([0, 0]), "ends": np.array([8, np.iinfo(np.int32).max]), "axes": np.array([2, 3]),
    "steps": np.array([2, 3]), "batch_starts": np.array([0, 0]), "batch_ends": np.array([1, 8]),
    "batch_axes": np.array([0, 2]), "batch_steps": np.array([1, 2]),
    "pads": np.array([0, 1, 0, 0, 0, 1, 0, 0]), "space": np.array([0, 1, 1, 0, 0, 1, 0, 0]),
    "fill": np.array(0.0, np.float32), "odd": np.array(1.5, np.float32),
}  # fmt: skip


def list_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def convolve(
    build: Any, nodes: str, *, exclude: tuple[str, ...] = (), **options: Any
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = normalize_model(build(nodes, y="N, K, H, W", **options, **CONSTANTS))
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    shapes = {"x": (batch, 3, 8, 8)}
    return model, convolve_shortcuts(model, shapes, measure_cost(model, shapes).macs, exclude)


@pytest.mark.parametrize("nodes", [
    SLICE + "z = Pad (s, pads)" + BEHIND,
    SLICE + 'z = Pad <mode = "constant"> (s, pads, fill)' + BEHIND,
    "r = Slice (a, zero, last, h, two) s = Slice (r, zero, last, w_axis, two) z = Pad (s, pads)" + BEHIND,
    SLICE + "t = Slice (s, zero, last, h, two) z = Pad (t, pads)" + BEHIND,
    "s = Slice (a, zero, eight, h, two) z = Pad (s, pads)" + BEHIND,
    SLICE + "q = Conv <pads = [1, 1, 1, 1]> (s, v4) y = Add (q, m)",
])  # fmt: skip
@pytest.mark.parametrize("options", [{"opset": 13}, {"opset": 18}, {"x": "2, 3, 8, 8"}])
def test_shortcuts_become_convs(build: Any, assert_equivalent: Any, options: dict[str, Any], nodes: str) -> None:
    model, faster = convolve(build, FEW + nodes, **options)
    assert sorted(list_ops(faster)) == ["Add", *["Conv"] * 4, "ReduceMean"]
    onnx.checker.check_model(faster, full_check=True)
    assert_equivalent(model, faster, {"x": IMAGES}, 0)


def test_settings_in_attributes(build: Any, assert_equivalent: Any) -> None:
    nodes = SLICE + "z = Pad <pads = [0, 1, 0, 0, 0, 1, 0, 0], value = 0.0> (s)" + BEHIND
    model, faster = convolve(build, FEW + nodes, opset=10)
    assert not {"Slice", "Pad"} & set(list_ops(faster))
    assert_equivalent(model, faster, {"x": IMAGES}, 0)


@pytest.mark.parametrize("nodes", [
    "s = Slice (a, one, last, h, two) z = Pad (s, pads)",  # from the second position on
    "s = Slice (a, zero, seven, h, two) z = Pad (s, pads)",  # without the last
    "s = Slice (a, zero, last, one, two) z = Concat <axis = 1> (s, a)",  # channels
    "s = Slice (a, zero, last, h, one) z = Pad (s, pads)",  # every position
    "s = Slice (a, zero, last, zero, two) z = Pad (s, pads)",  # every second image
    "s = Slice (a, batch_starts, batch_ends, batch_axes, batch_steps) z = Pad (s, pads)",  # the first image
    "s = Slice (a, zero, last, h, last) z = Pad (s, pads)",  # the first position
    "s = Slice (a, zero, last, h, last) t = Slice (s, zero, last, h, last) z = Pad (t, pads)",
    SLICE + "t = Slice (a, zero, last, h, two) p = Pad (s, pads) o = ReduceMean (t) z = Add (p, o)",  # two of a tensor
    "i = Cast <to = 6> (a) s = Slice (i, starts, ends, axes, steps) f = Cast <to = 1> (s) z = Pad (f, pads)",  # int32
    "i = Relu (a) s = Slice (i, starts, ends, axes, steps) z = Pad (s, pads)",  # around nothing
])  # fmt: skip
def test_other_slices_stay(build: Any, nodes: str) -> None:
    model, faster = convolve(build, FEW + nodes + BEHIND)
    assert faster is model


def test_an_end_that_may_cut_other_images_stays(build: Any) -> None:
    nodes = FEW + "s = Slice (a, zero, eight, h, two) z = Pad (s, pads)" + BEHIND
    for x, stays in (("N, 3, 8, 8", False), ("N, 3, H, W", True)):
        model, faster = convolve(build, nodes, x=x)
        assert (faster is model) == stays


def test_wide_and_excluded_ones_stay(build: Any) -> None:
    model, faster = convolve(build, FEW + SLICE + "q = Conv <pads = [1, 1, 1, 1]> (s, w4) y = Add (q, m)")
    assert faster is model  # more than a hundredth of all
    nodes = FEW + "[skip] s = Slice (a, starts, ends, axes, steps) [widen] z = Pad (s, pads)" + BEHIND
    for name in ("skip", "widen"):
        model, faster = convolve(build, nodes, exclude=(name,))
        assert faster is model
    assert convolve(build, nodes, exclude=("other",))[1] is not model


@pytest.mark.parametrize("pad", [
    "Pad (s, space)", "Pad (s, pads, odd)", 'Pad <mode = "reflect"> (s, space)', "Pad (s, computed)",
])  # fmt: skip
def test_other_pads_stay_behind_the_conv(build: Any, assert_equivalent: Any, pad: str) -> None:
    computed = "b = Shape (a) c = Shape (around) computed = Sub (b, c) " if "computed" in pad else ""
    pad = pad.replace("computed", "eights")
    eights = "eights = Concat <axis = 0> (computed, computed) " if computed else ""
    weight = "v4" if computed else "v"
    model, faster = convolve(
        build, FEW + computed + eights + SLICE + f"z = {pad} q = Conv (z, {weight}) y = Add (q, m)"
    )
    assert {"Slice", "Pad"} & set(list_ops(faster)) == {"Pad"}
    assert_equivalent(model, faster, {"x": IMAGES}, 0)


def test_what_something_else_reads_stays(build: Any, assert_equivalent: Any) -> None:
    nodes = SLICE + "p = Pad (s, pads) o = ReduceMean (s) z = Add (p, o)" + BEHIND
    model, faster = convolve(build, FEW + nodes)
    assert {"Slice", "Pad"} & set(list_ops(faster)) == {"Pad"}
    assert_equivalent(model, faster, {"x": IMAGES}, 0)
