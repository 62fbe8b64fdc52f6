"""Every version of every operator in the table, from opset 7 on, against onnxruntime on one-node models.

A case is built for the opset at which a version of the operator came into force; where an attribute became an
input (or semantics changed), the builders below write the form that this opset has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.torch_ops import TORCH_OPS
from onnx_basisprune.graph.program import extract_program

OLDEST, NEWEST = 7, 28  # the opsets that onnxruntime 1.32 runs
Array = NDArray[Any]

# What onnxruntime's CPU provider has no kernel for, by (op_type, opset).
NO_KERNEL = "onnxruntime's CPU provider has no kernel for it"
SKIPPED: dict[tuple[str, int], str] = {("GlobalLpPool", 22): NO_KERNEL}


@dataclass
class Case:
    """One node: inputs (`None` for an omitted one), attributes, number of outputs."""

    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    return np.random.default_rng(len(shape)).uniform(low, high, shape).astype(np.float32)


def whole(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def flags(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape) < 0.5


def attribute_or_input(opset: int, since: int, x: list[Array | None], name: str, values: list[int]) -> Case:
    """Write `values` as an attribute before the opset `since`, else as the next input."""
    return Case(x, {name: values}) if opset < since else Case([*x, whole(*values)])


IMAGE = real(2, 4, 7, 8)

UNARY: dict[str, tuple[float, float]] = {
    **dict.fromkeys(["Acos", "Asin", "Atanh"], (-0.9, 0.9)),
    **dict.fromkeys(["Acosh"], (1.1, 3.0)),
    **dict.fromkeys(["Log", "Sqrt", "Reciprocal"], (0.2, 3.0)),
    **dict.fromkeys(
        [
            "Abs",
            "Asinh",
            "Atan",
            "Ceil",
            "Cos",
            "Cosh",
            "Erf",
            "Exp",
            "Floor",
            "Identity",
            "Neg",
            "Relu",
            "Round",
        ],
        (-2.0, 2.0),
    ),
    **dict.fromkeys(["Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh"], (-1.4, 1.4)),
    **dict.fromkeys(["HardSwish", "Mish"], (-4.0, 4.0)),
}
WITH_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Celu": {"alpha": 0.7},
    "Elu": {"alpha": 0.7},
    "Gelu": {"approximate": "tanh"},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Hardmax": {},
    "LRN": {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0},
    "LeakyRelu": {"alpha": 0.2},
    "LogSoftmax": {},
    "LpNormalization": {"axis": 1, "p": 1},
    "MeanVarianceNormalization": {"axes": [0, 2, 3]},
    "Selu": {"alpha": 1.5, "gamma": 1.2},
    "Shrink": {"bias": 0.3, "lambd": 0.6},
    "Softmax": {},
    "SpaceToDepth": {"blocksize": 1},
    "Swish": {"alpha": 1.3},
    "ThresholdedRelu": {"alpha": 0.4},
    "Transpose": {"perm": [2, 0, 3, 1]},
    "GlobalAveragePool": {},
    "GlobalLpPool": {"p": 3},
    "GlobalMaxPool": {},
}
BINARY = ["Add", "Sub", "Mul", "Div"]
VARIADIC = ["Max", "Mean", "Min", "Sum"]
REDUCTIONS = [name for name in TORCH_OPS if name.startswith("Reduce")]


def build_reduction(op_type: str, opset: int) -> Case:
    low = 0.2 if op_type == "ReduceLogSum" else -1.0
    x = real(2, 3, 4, low=low)
    case = attribute_or_input(opset, 13 if op_type == "ReduceSum" else 18, [x], "axes", [0, 2])
    case.attributes["keepdims"] = 0
    return case


def build_pool(op_type: str, opset: int) -> Case:
    attributes: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}
    if op_type == "LpPool":
        attributes["p"] = 3
    if op_type == "AveragePool":
        attributes["count_include_pad"] = 1
    if opset >= (18 if op_type == "LpPool" else 10):
        attributes["ceil_mode"] = 1
    if opset >= {"MaxPool": 10, "LpPool": 18, "AveragePool": 19}[op_type]:
        attributes["dilations"] = [2, 1]
    return Case([IMAGE], attributes, 2 if op_type == "MaxPool" and opset >= 8 else 1)


def build_pad(opset: int) -> Case:
    pads = [0, 1, -1, 2, 0, 0, 1, 1]
    if opset < 11:
        return Case([IMAGE], {"pads": pads, "value": 0.5})
    constant = np.array(0.5, dtype=np.float32)
    if opset < 18:
        return Case([IMAGE, whole(*pads), constant])
    return Case([IMAGE, whole(-1, 2, 1, 1), constant, whole(2, -1)])


def build_resize(opset: int) -> Case:
    scales = np.array([1, 1, 0.6, 1.7], dtype=np.float32)
    if opset == 10:
        return Case([IMAGE, scales], {"mode": "linear"})
    if opset < 13:
        attributes: dict[str, Any] = {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}
        return Case([IMAGE, np.zeros(0, np.float32), scales], attributes)
    if opset < 18:
        attributes = {
            "mode": "nearest",
            "nearest_mode": "ceil",
            "coordinate_transformation_mode": "align_corners",
        }
        return Case([IMAGE, None, None, whole(2, 4, 5, 13)], attributes)
    if opset < 19:
        attributes = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}
        return Case([IMAGE, None, None, whole(5, 13)], attributes)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}
    return Case([IMAGE, None, scales], attributes)


def build_dropout(opset: int) -> Case:
    return Case([real(2, 3)], {"ratio": 0.3} if opset < 12 else {}, 2)


def build_batch_norm(opset: int) -> Case:
    moments: list[Array | None] = [real(4), real(4), real(4), real(4, low=0.5)]
    # Opset 7 and 8 can have statistics per element.
    if opset < 9:
        moments = [real(4, 7, 8), real(4, 7, 8), real(4, 7, 8), real(4, 7, 8, low=0.5)]
    return Case([IMAGE, *moments], {"epsilon": 1e-3, **({"spatial": 0} if opset < 9 else {})})


def build_slice(opset: int) -> Case:
    if opset < 10:
        return Case([IMAGE], {"starts": [1, -5], "ends": [9, -1], "axes": [1, 3]})
    return Case([IMAGE, whole(1, -1), whole(9, -6), whole(1, -1), whole(2, -2)])


def build_split(opset: int) -> Case:
    if opset < 13:
        return Case([IMAGE], {"axis": 3, "split": [3, 5]}, 2)
    if opset < 18:
        return Case([IMAGE, whole(3, 5)], {"axis": -1}, 2)
    return Case([IMAGE], {"axis": 2, "num_outputs": 3}, 3)  # 7 = 3 + 3 + 1


def build_top_k(opset: int) -> Case:
    x = np.array([[3, 1, 3, 2], [0, 5, 5, 5]], dtype=np.float32)
    if opset < 10:
        return Case([x], {"k": 3}, 2)
    return Case([x, whole(3)], {"largest": 0} if opset >= 11 else {}, 2)


def build_scatter(op_type: str, opset: int) -> Case:
    if op_type == "ScatterND":
        inputs: list[Array | None] = [real(4, 3), np.array([[1], [3]]), real(2, 3)]
    else:
        inputs = [real(4, 3), np.array([[1, 0, 2], [3, 2, 0]]), real(2, 3)]
    reduction = {"reduction": "max"} if opset >= 18 else {"reduction": "add"} if opset >= 16 else {}
    return Case(inputs, reduction)


def build_constant(opset: int) -> Case:
    if opset < 12:
        return Case([], {"value": helper.make_tensor("value", onnx.TensorProto.FLOAT, [2], [1.5, 2.5])})
    return Case([], {"value_floats": [1.5, 2.5, -3.0]})


def build_clip(opset: int) -> Case:
    if opset < 11:
        return Case([IMAGE], {"min": -0.5, "max": 0.7})
    return Case([IMAGE, None, np.array(0.7, dtype=np.float32)])


def build_upsample(opset: int) -> Case:
    scales = [1.0, 1.0, 2.0, 1.5]
    if opset < 9:
        return Case([IMAGE], {"scales": scales, "mode": "linear"})
    return Case([IMAGE, np.array(scales, dtype=np.float32)], {"mode": "nearest"})


def build_equal(opset: int) -> Case:
    if opset < 11:
        return Case([whole(1, 2, 3), whole(1, 5, 3)])
    return Case([np.float32([1, 2, 3]), np.float32([1, 5, 3])])


def build_group_norm(opset: int) -> Case:
    size = 2 if opset < 21 else 4
    return Case([IMAGE, real(size), real(size)], {"num_groups": 2})


def build_transposed_conv(opset: int) -> Case:
    attributes: dict[str, Any] = {
        "strides": [2, 3],
        "pads": [1, 0, 0, 2],
        "output_padding": [1, 0],
        "group": 2,
    }
    if opset >= 11:
        attributes = {"strides": [2, 3], "auto_pad": "SAME_UPPER", "group": 2}
    return Case([IMAGE, real(4, 3, 3, 3), real(6)], attributes)


CONV: dict[int, dict[str, Any]] = {
    7: {"pads": [1, 0, 0, 2], "strides": [2, 1], "group": 2},
    11: {"auto_pad": "SAME_LOWER", "strides": [2, 2], "group": 2},
    22: {"auto_pad": "VALID", "dilations": [2, 1], "group": 2},
}


def build_lstm(opset: int) -> Case:
    """Both directions with peepholes, or one backwards with clipping; the state may forget what it takes in."""
    if opset < 14:
        inputs = [real(5, 2, 3), real(2, 16, 3), real(2, 16, 4), real(2, 32), None, real(2, 2, 4), real(2, 2, 4)]
        return Case([*inputs, real(2, 12)], {"direction": "bidirectional", "hidden_size": 4}, 3)
    inputs = [real(5, 2, 3), real(1, 16, 3), real(1, 16, 4), real(1, 32), np.int32([5, 5])]
    attributes = {"direction": "reverse", "hidden_size": 4, "clip": 0.5, "input_forget": 1}
    return Case(inputs, attributes | {"activations": ["Sigmoid", "Tanh", "Tanh"]}, 3)


BUILDERS: dict[str, Callable[[int], Case]] = {
    "Attention": lambda _: Case(
        [real(2, 3, 8), real(2, 4, 8), real(2, 4, 8), real(3, 4)], {"q_num_heads": 2, "kv_num_heads": 2}
    ),
    "RotaryEmbedding": lambda _: Case([real(2, 3, 5, 4), real(2, 5, 2), real(2, 5, 2, low=-1.0)]),
    "AffineGrid": lambda _: Case([real(2, 2, 3), whole(2, 3, 4, 5)]),
    "And": lambda _: Case([flags(2, 3), flags(2, 3, seed=1)]),
    "ArgMax": lambda v: Case([np.float32([[1, 3, 3]])], {"axis": 1, **({"select_last_index": 1} if v >= 12 else {})}),
    "ArgMin": lambda v: Case([np.float32([[1, 1, 3]])], {"axis": 1, **({"select_last_index": 1} if v >= 12 else {})}),
    "AveragePool": lambda v: build_pool("AveragePool", v),
    "BatchNormalization": build_batch_norm,
    "BitShift": lambda _: Case([np.uint8([16, 4, 255]), np.uint8([1, 2, 3])], {"direction": "RIGHT"}),
    "BitwiseAnd": lambda _: Case([np.int32([12, -7]), np.int32([10, 3])]),
    "BitwiseNot": lambda _: Case([np.int32([12, -7])]),
    "BitwiseOr": lambda _: Case([np.int32([12, -7]), np.int32([10, 3])]),
    "BitwiseXor": lambda _: Case([np.int32([12, -7]), np.int32([10, 3])]),
    "Cast": lambda _: Case([np.float32([1.7, -2.3, 0.0])], {"to": onnx.TensorProto.INT64}),
    "CastLike": lambda _: Case([np.float32([1.7, -2.3, 0.0]), whole(1)]),
    "Clip": build_clip,
    "Compress": lambda _: Case([real(2, 3), np.array([True, False, True])], {"axis": 1}),
    "Concat": lambda v: Case([real(2, 3, 4), real(2, 1, 4)], {"axis": 1 if v < 11 else -2}),
    "Constant": build_constant,
    "ConstantOfShape": lambda _: Case(
        [whole(2, 3)], {"value": helper.make_tensor("value", onnx.TensorProto.INT64, [1], [7])}
    ),
    "Conv": lambda v: Case([IMAGE, real(6, 2, 3, 3), real(6)], CONV[v]),
    "ConvTranspose": build_transposed_conv,
    "CumProd": lambda _: Case([real(2, 4), np.array(1)], {"exclusive": 1}),
    "CumSum": lambda _: Case([real(2, 4), np.array(1)], {"exclusive": 1, "reverse": 1}),
    "DepthToSpace": lambda v: Case([IMAGE], {"blocksize": 2, **({"mode": "CRD"} if v >= 11 else {})}),
    "Dropout": build_dropout,
    "LSTM": build_lstm,
    "Einsum": lambda _: Case([real(2, 3, 4), real(2, 4, 5)], {"equation": "bij, bjk -> bik"}),
    "Equal": build_equal,
    "Expand": lambda _: Case([real(3, 1), whole(2, 1, 4)]),
    "EyeLike": lambda _: Case([real(3, 4)], {"k": 1}),
    "Flatten": lambda v: Case([IMAGE], {"axis": 2 if v < 11 else -3}),
    "Gather": lambda v: Case([real(4, 3), np.array([[0, 2 if v < 11 else -1]])], {"axis": 1}),
    "GatherElements": lambda _: Case([real(3, 3), np.array([[1, -1], [0, 2]])], {"axis": 1}),
    "GatherND": lambda v: Case([real(2, 3, 4), np.array([[1], [0]])], {"batch_dims": 1} if v >= 12 else {}),
    "Gemm": lambda v: Case(
        [real(4, 2), real(3, 4), *([real(3)] if v < 11 else [])],
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "Greater": lambda _: Case([real(2, 3, 4), real(3, 1)]),
    "GreaterOrEqual": lambda _: Case([np.float32([1, 2, 3]), np.float32([2, 2, 2])]),
    "GridSample": lambda v: Case(
        [IMAGE, real(2, 3, 5, 2, low=-1.2, high=1.2)], {"mode": "bilinear" if v < 20 else "linear"}
    ),
    "GroupNormalization": build_group_norm,
    "InstanceNormalization": lambda _: Case([IMAGE, real(4), real(4)]),
    "IsInf": lambda _: Case([np.float32([1, np.inf, -np.inf])], {"detect_negative": 0}),
    "IsNaN": lambda _: Case([np.float32([1, np.nan, -np.inf])]),
    "LayerNormalization": lambda _: Case([IMAGE, real(7, 8), real(7, 8)], {"axis": 2}, 3),
    "Less": lambda _: Case([real(2, 3, 4), real(3, 1)]),
    "LessOrEqual": lambda _: Case([np.float32([1, 2, 3]), np.float32([2, 2, 2])]),
    "LpPool": lambda v: build_pool("LpPool", v),
    "MatMul": lambda _: Case([real(2, 3, 4), real(4, 5)]),
    "MaxPool": lambda v: build_pool("MaxPool", v),
    "Mod": lambda _: Case([whole(7, -7, 5), whole(3, 3, -3)]),
    "NonZero": lambda _: Case([np.float32([[1, 0], [0, 2]])]),
    "Not": lambda _: Case([flags(2, 3)]),
    "OneHot": lambda _: Case([whole(0, 2, -1, 9), whole(3), np.float32([0.5, 2.0])], {"axis": 0}),
    "Or": lambda _: Case([flags(2, 3), flags(2, 3, seed=1)]),
    "PRelu": lambda _: Case([IMAGE, real(4, 1, 1)]),
    "Pad": build_pad,
    "Pow": lambda v: Case([real(2, 3, low=0.1), real(3) if v < 12 else whole(2)]),
    "RMSNormalization": lambda _: Case([IMAGE, real(8)], {"epsilon": 1e-3}),
    "Range": lambda _: Case([np.float32(1.0), np.float32(-2.0), np.float32(-0.7)]),
    "Reshape": lambda v: Case([IMAGE, whole(0, -1, 14)], {"allowzero": 0} if v >= 14 else {}),
    "Resize": build_resize,
    "Scatter": lambda v: build_scatter("Scatter", v),
    "ScatterElements": lambda v: build_scatter("ScatterElements", v),
    "ScatterND": lambda v: build_scatter("ScatterND", v),
    "Shape": lambda v: Case([IMAGE], {"start": -3, "end": -1} if v >= 15 else {}),
    "Size": lambda _: Case([IMAGE]),
    "Slice": build_slice,
    "SpaceToDepth": lambda _: Case([real(2, 3, 4, 6)], {"blocksize": 2}),
    "Split": build_split,
    "Squeeze": lambda v: attribute_or_input(v, 13, [real(1, 3, 1)], "axes", [0, 2]),
    "Tile": lambda _: Case([real(2, 3), whole(2, 1)]),
    "TopK": build_top_k,
    "Trilu": lambda _: Case([real(4, 4), np.array(1)], {"upper": 0}),
    "Unsqueeze": lambda v: attribute_or_input(v, 13, [real(3, 4)], "axes", [0, 3]),
    "Upsample": build_upsample,
    "Where": lambda _: Case([flags(2, 3), real(2, 3), real(3)]),
    "Xor": lambda _: Case([flags(2, 3), flags(2, 3, seed=1)]),
    **{name: (lambda v, name=name: build_reduction(name, v)) for name in REDUCTIONS},
    **{name: (lambda _: Case([real(2, 3, 4), real(3, 1, low=0.5)])) for name in BINARY},
    # These broadcast from opset 8 on.
    **{
        name: (lambda v: Case([real(2, 3, 4), *((real(3, 1), real(4)) if v >= 8 else (real(2, 3, 4),))]))
        for name in VARIADIC
    },
    **{name: (lambda _, ends=ends: Case([real(2, 3, low=ends[0], high=ends[1])])) for name, ends in UNARY.items()},
}
for _name, _attributes in WITH_ATTRIBUTES.items():
    BUILDERS.setdefault(_name, lambda _, attributes=_attributes: Case([IMAGE], dict(attributes)))


def list_versions() -> list[tuple[str, int]]:
    """Return each operator of the table with the first opset from 7 on of each of its versions."""
    history: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in TORCH_OPS:
            history[schema.name].append((schema.since_version, schema.deprecated))
    found = []
    for op_type, versions in sorted(history.items()):
        versions.sort()
        ends = [since for since, _ in versions[1:]] + [NEWEST + 1]
        for (since, deprecated), end in zip(versions, ends, strict=True):
            opset = max(since, OLDEST)
            if opset < end and opset <= NEWEST and not deprecated:
                found.append((op_type, opset))
    return found


def make_model(op_type: str, opset: int, case: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    feeds = {f"x{i}": array for i, array in enumerate(case.inputs) if array is not None}
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(case.inputs)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(op_type, names, outputs, name="node", **case.attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, {name: np.asarray(array) for name, array in feeds.items()}


@pytest.mark.parametrize(("op_type", "opset"), list_versions())
def test_version_agrees_with_onnxruntime(op_type: str, opset: int) -> None:
    model, feeds = make_model(op_type, opset, BUILDERS[op_type](opset))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    arguments = (model.SerializeToString(), options)
    if (op_type, opset) in SKIPPED:
        with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
            onnxruntime.InferenceSession(*arguments, providers=["CPUExecutionProvider"])
        pytest.skip(SKIPPED[op_type, opset])
    session = onnxruntime.InferenceSession(*arguments, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    expected = session.run(names, feeds)
    actual = Executor(extract_program(model)).run({k: torch.from_numpy(v) for k, v in feeds.items()}, names)
    for name, reference in zip(names, expected, strict=True):
        result = actual[name].numpy()
        assert (result.shape, result.dtype) == (reference.shape, reference.dtype)
        # float32 in another order of summation; onnxruntime's own approximations of tanh, erf and the like.
        np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-5)


def test_every_op_has_a_builder() -> None:
    assert set(BUILDERS) == set(TORCH_OPS)
