"""What `inspect_model` tells about models whose cost can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.inspection import inspect_model
from onnx_basisprune.inspection_report import NodeInspection

TEXT = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "maker", producer_version: "1.2">
g (float[N, 3, H, W] image) => (float[N, 4] scores)
{
    conv = Conv <pads = [1, 1, 1, 1]> (image, conv_w, conv_b)
    norm = BatchNormalization (conv, gamma, beta, mean, var)
    relu = Relu (norm)
    deep = Conv <pads = [1, 1, 1, 1], group = 8> (relu, deep_w)
    pool = GlobalAveragePool (deep)
    flat = Flatten (pool)
    scores = Gemm <transB = 1> (flat, fc_w, fc_b)
}
"""
SHAPES = {
    "conv_w": (8, 3, 3, 3),
    "conv_b": (8,),
    "gamma": (8,),
    "beta": (8,),
    "mean": (8,),
    "var": (8,),
    "deep_w": (8, 1, 3, 3),
    "fc_w": (4, 8),
    "fc_b": (4,),
}
FILE_PARAMETERS = 216 + 5 * 8 + 72 + 32 + 4


def save_model(folder: Path, text: str = TEXT) -> Path:
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    names = {name for node in model.graph.node for name in node.input}
    for name, shape in SHAPES.items():
        if name in names:
            values = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def find_rows(nodes: tuple[NodeInspection, ...]) -> dict[str, NodeInspection]:
    """Return nodes by op_type; of two Convs the depthwise one is `depthwise`."""
    return {"depthwise" if node.reason == "depthwise" else node.op_type: node for node in nodes}


def test_costs_and_ranks_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    inspection = inspect_model(save_model(tmp_path), input_shape=(1, 3, 6, 5))
    rows = find_rows(inspection.nodes)
    conv = rows["Conv"]
    assert (conv.output_shape, conv.parameters, conv.macs) == ((1, 8, 6, 5), 216 + 8, 30 * 216)
    # K = 27, C_out = 8: a rank pays below 27 * 8 / (27 + 8) = 6.17.
    assert (conv.eligible, conv.reason, conv.full_rank, conv.break_even_rank) == (True, "", 8, 6)
    assert (rows["depthwise"].macs, rows["depthwise"].eligible) == (30 * 72, False)
    assert rows["depthwise"].full_rank == rows["depthwise"].break_even_rank == 0
    assert (rows["Gemm"].macs, rows["Gemm"].parameters) == (32, 36)
    assert rows["Gemm"].reason == "Gemm isn't decomposed"
    assert (rows["Relu"].macs, rows["Relu"].parameters, rows["Relu"].reason) == (0, 0, "")
    assert inspection.macs == 30 * (216 + 72) + 32
    assert inspection.uncounted_ops == ()


def test_parameters_are_those_of_the_file_and_nodes_those_of_the_folded_graph(tmp_path: Path) -> None:
    inspection = inspect_model(save_model(tmp_path), input_shape=(1, 3, 6, 5))
    assert inspection.parameters == FILE_PARAMETERS
    assert "BatchNormalization" not in {node.op_type for node in inspection.nodes}
    assert inspection.normalized_parameters == FILE_PARAMETERS - 4 * 8
    assert sum(node.parameters for node in inspection.nodes) == inspection.normalized_parameters
    assert inspection.file_bytes == (tmp_path / "model.onnx").stat().st_size


def test_the_batch_does_not_change_the_counts(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    one = inspect_model(path, input_shape=(1, 3, 6, 5))
    four = inspect_model(path, input_shape=(4, 3, 6, 5))
    assert four.macs == one.macs


def test_open_sizes_leave_costs_unknown_and_say_so(tmp_path: Path) -> None:
    inspection = inspect_model(save_model(tmp_path))
    conv = find_rows(inspection.nodes)["Conv"]
    assert conv.macs is None
    assert conv.output_shape is None
    assert conv.full_rank == 8
    assert "Conv" in inspection.uncounted_ops


def test_the_file_is_described(tmp_path: Path) -> None:
    inspection = inspect_model(save_model(tmp_path))
    assert (inspection.opset, inspection.ir_version, inspection.producer) == (17, 8, "maker 1.2")
    assert [(spec.name, spec.dtype, spec.shape) for spec in inspection.inputs] == [
        ("image", "float32", (None, 3, None, None))
    ]
    assert [(spec.name, spec.shape) for spec in inspection.outputs] == [("scores", (None, 4))]


def test_excluded_nodes_are_not_eligible(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    name = find_rows(inspect_model(path).nodes)["Conv"].name
    excluded = {node.name: node for node in inspect_model(path, exclude=(name,)).nodes}[name]
    assert not excluded.eligible
    assert excluded.reason == "excluded by --exclude"


def test_unknown_names_and_shapes_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    with pytest.raises(ConfigError, match="no node of this name"):
        inspect_model(path, exclude=("nonsense",))
    with pytest.raises(ModelError, match="image"):
        inspect_model(path, input_shape=(1, 4, 6, 5))
    with pytest.raises(ConfigError, match=r"--input-shape is \[1, 3, 0, 5\]"):
        inspect_model(path, input_shape=(1, 3, 0, 5))
    with pytest.raises(ModelError, match="no such file"):
        inspect_model(tmp_path / "missing.onnx")


def test_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    before = path.read_bytes()
    inspect_model(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
