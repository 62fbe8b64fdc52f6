"""Nodes of other domains run in onnxruntime, as black boxes."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch
from onnx import ModelProto, numpy_helper

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import ModelError
from onnx_basisprune.foreign import list_black_boxes, read_program, record_opaque_shapes
from onnx_basisprune.graph.shapes import infer_shapes


def build(body: str) -> ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "nobody" : 1]> '
        f"g (float[N, 3, 4] x) => (float[N, K] y) {{ {body} }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4, dtype=np.float32), "bias"))
    return model


GELU = "b = com.microsoft.BiasGelu (x, bias) r = Relu (x) y = Flatten (b)"


def test_a_node_of_another_domain_is_run_and_stops_gradients() -> None:
    executor = Executor(read_program(build(GELU)))
    x = torch.linspace(-2, 2, 24).reshape(2, 3, 4).requires_grad_()
    y = executor.run({"x": x}, ["y"])["y"]
    # float32 rounding of an erf
    expected = torch.nn.functional.gelu(x + torch.arange(4)).flatten(1)
    torch.testing.assert_close(y, expected.detach(), rtol=1e-5, atol=1e-6)
    assert not y.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = executor.run({"x": x.detach().bfloat16()}, ["y"])["y"]
    torch.testing.assert_close(rounded, expected.detach(), rtol=0.05, atol=0.05)


def test_nodes_on_the_way_to_the_scores_are_told() -> None:
    program = read_program(build(GELU))
    assert [operation.op_type for operation in list_black_boxes(program, "y")] == ["BiasGelu"]
    assert list_black_boxes(program, "r") == []


def test_shapes_behind_it_are_known_after_a_run() -> None:
    model = build("b = com.microsoft.Gelu (x) y = Flatten (b)")
    model.graph.node[0].domain = "com.microsoft"
    assert "y" not in infer_shapes(model, {"x": (1, 3, 4)})
    record_opaque_shapes(model, np.zeros((1, 3, 4), np.float32), None)
    assert infer_shapes(model, {"x": (1, 3, 4)})["y"] == (1, 12)
    assert infer_shapes(model, {"x": (5, 3, 4)})["y"] == (5, 12)


def test_a_domain_that_nobody_runs_is_an_error_that_names_onnxruntime() -> None:
    executor = Executor(read_program(build("b = nobody.Something (x) y = Flatten (b)")))
    with pytest.raises(ModelError, match="onnxruntime can't load it"):
        executor.compute({"x": np.zeros((1, 3, 4), np.float32)}, ["y"])
