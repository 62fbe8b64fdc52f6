"""The validation finds what differs between plan, original and the bytes to be written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from onnx_basisprune.errors import ValidationError
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.model_io import serialize_model
from onnx_basisprune.results import ModelMeasurement
from onnx_basisprune.validation import validate_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[{batch}, 3, 4, 4] x) => (float[{batch}, 5] z)
<float[5, 3, 1, 1] w = {{{weights}}}>
{{
    y = Conv (x, w)
    pooled = GlobalAveragePool (y)
    z = Flatten (pooled)
}}
"""
IMAGES = np.random.default_rng(0).standard_normal((7, 3, 4, 4), dtype=np.float32)


def make_model(batch: str = "N") -> ModelProto:
    weights = ", ".join(str(float(value)) for value in range(1, 16))
    return onnx.parser.parse_model(TEXT.format(batch=batch, weights=weights))


def count(model: ModelProto) -> ModelMeasurement:
    cost = measure_cost(model, {"x": (1, 3, 4, 4)})
    return ModelMeasurement(cost.macs, cost.parameters, None)


def scale_weight(model: ModelProto, factor: float) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = copy.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return copy


@pytest.mark.parametrize("batch", ["N", "1", "2", "8"])
@pytest.mark.parametrize("images", [1, 3, 7])
def test_a_good_model_passes(batch: str, images: int) -> None:
    model = make_model(batch)
    validate_model(model, serialize_model(model), model, IMAGES[:images], count(model))


def test_half_precision_input_passes() -> None:
    model = make_model()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["wide"], name="widen", to=onnx.TensorProto.FLOAT))
    model.graph.node[1].input[0] = "wide"
    exact = IMAGES.astype(np.float16).astype(np.float32)
    validate_model(model, serialize_model(model), model, exact, count(model))


def test_all_zero_outputs_pass() -> None:
    model = scale_weight(make_model(), 0.0)
    validate_model(model, serialize_model(model), model, IMAGES, count(model))


@pytest.mark.parametrize("factor", [1.01, -1.0, 0.0, np.nan, np.inf])
def test_bytes_that_compute_something_else_fail(factor: float) -> None:
    model = make_model()
    with pytest.raises(ValidationError, match="onnxruntime"):
        validate_model(model, serialize_model(scale_weight(model, factor)), model, IMAGES, count(model))


def test_a_model_that_rounding_changes_is_compared_no_closer_than_the_original() -> None:
    model = make_model()
    written = serialize_model(scale_weight(model, 1.01))
    warning = validate_model(model, written, model, IMAGES, count(model), lambda _: 0.01)
    assert warning is not None
    assert "0.01 of the largest" in warning
    with pytest.raises(ValidationError, match="onnxruntime"):
        validate_model(model, written, model, IMAGES, count(model), lambda _: 1e-4)


def test_nan_in_both_runtimes_fails() -> None:
    model = scale_weight(make_model(), np.nan)
    with pytest.raises(ValidationError):
        validate_model(model, serialize_model(model), model, IMAGES, count(model))


@pytest.mark.parametrize(("macs", "parameters"), [(1, 0), (0, 1), (-1, 0)])
def test_other_costs_than_planned_fail(macs: int, parameters: int) -> None:
    model = make_model()
    found = count(model)
    predicted = replace(found, macs=found.macs + macs, parameters=found.parameters + parameters)
    with pytest.raises(ValidationError, match="the plan predicted"):
        validate_model(model, serialize_model(model), model, IMAGES, predicted)


@pytest.mark.parametrize("change", ["input name", "output name", "batch", "opset", "invalid"])
def test_another_interface_fails(change: str) -> None:
    original = make_model()
    model = ModelProto()
    model.CopyFrom(original)
    if change == "input name":
        model.graph.input[0].name = model.graph.node[0].input[0] = "other"
    elif change == "output name":
        model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
    elif change == "batch":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    elif change == "opset":
        model.opset_import[0].version = 16
    else:
        model.graph.node[0].op_type = "Convolution"
    with pytest.raises(ValidationError) as caught:
        validate_model(model, serialize_model(model), original, IMAGES, count(original))
    assert "\n" not in str(caught.value)
