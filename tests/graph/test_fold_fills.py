"""A Concat of a tensor with computed constants is a Pad, and only that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.graph.normalize import normalize_model

SHAPE = "s = Shape (x) n = Slice (s, i0, i1) to = Concat <axis = 0> (n, rest) "
CONSTANTS = {
    "i0": np.array([0]), "i1": np.array([1]), "rest": np.array([2, 8, 8]), "one": np.float32([[1.5]]),
}  # fmt: skip
TWO = "<value = float[1] {2.0}>"


def list_ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("nodes", [
    "o = ConstantOfShape (to) y = Concat <axis = 1> (x, o)",
    f"o = ConstantOfShape {TWO} (to) y = Concat <axis = -3> (o, x)",
    "o = Expand (one, to) r = ConstantOfShape <value = float[1] {1.5}> (to) y = Concat <axis = 1> (o, o, x, r)",
])  # fmt: skip
def test_fills_become_pads(build: Any, assert_equivalent: Any, opset: int, nodes: str) -> None:
    model = build(SHAPE + nodes, opset=opset, y="N, K, H, W", **CONSTANTS)
    normal = normalize_model(model)
    assert list_ops(normal) == ["Pad"]
    assert normal.graph.node[0].output == ["y"]
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    assert_equivalent(model, normal, {"x": x}, 0)


@pytest.mark.parametrize("nodes", [
    f"o = ConstantOfShape {TWO} (to) r = ConstantOfShape (to) y = Concat <axis = 1> (x, o, r)",  # two values
    "o = ConstantOfShape (to) y = Concat <axis = 1> (x, o, x)",  # two tensors
    "o = ConstantOfShape (s) y = Concat <axis = 0> (x, o)",  # as many as there are images
    "c = ConstantOfShape <value = int64[1] {2}> (to) o = Cast <to = 1> (c) y = Concat <axis = 1> (x, o)",
])  # fmt: skip
def test_other_joins_stay(build: Any, assert_equivalent: Any, nodes: str) -> None:
    model = build(SHAPE + nodes, y="N, K, H, W", **CONSTANTS)
    normal = normalize_model(model)
    assert list_ops(normal)[-1] == "Concat"
    assert_equivalent(model, normal, {"x": np.ones((2, 3, 8, 8), np.float32)}, 0)


def test_pads_of_older_operator_sets_stay(build: Any) -> None:
    model = build(
        SHAPE + "o = ConstantOfShape (to) y = Concat <axis = 1> (x, o)", opset=10, y="N, K, H, W", **CONSTANTS
    )
    assert list_ops(normalize_model(model))[-1] == "Concat"
