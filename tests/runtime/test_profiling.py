"""The profile of small models, and its arithmetic on events made up here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import ConfigError, ModelError, OutputError
from onnx_basisprune.runtime import profiling
from onnx_basisprune.runtime.profiling import NodeTime, profile_nodes

X = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)


def build_model(body: str) -> bytes:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, ("first", "", "odd name/ü"), strict=False):
        node.name = name
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that temporary files go to in a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_names_every_node_once_in_order_and_leaves_no_file(folder: Path) -> None:
    model = build_model("a = Softmax (x) b = LogSoftmax (a) y = Erf (b)")
    times = profile_nodes(model, {"x": X}, threads=1, runs=3, warmup=1)
    assert [(time.name, time.op_type) for time in times] == [
        ("first", "Softmax"),
        ("LogSoftmax_1", "LogSoftmax"),
        ("odd name/ü", "Erf"),
    ]
    assert all(time.microseconds >= 0 for time in times)
    assert list(folder.iterdir()) == []


def test_nodes_of_a_subgraph_count_with_the_node_that_holds_it() -> None:
    model = build_model(
        """a = Softmax (x) n = Constant <value = int64 {3}> () c = Constant <value = bool {1}> ()
        l = Loop (n, c, a) <body = b (int64 i, bool ci, float[N, 3] s) => (bool co, float[N, 3] so)
            { co = Identity (ci) t = Softmax (s) so = LogSoftmax (t) }> y = Erf (l)"""
    )
    times = profile_nodes(model, {"x": X}, threads=1, runs=4, warmup=0)
    assert [time.op_type for time in times] == ["Softmax", "Loop", "Erf"]


def event(name: str, start: int, duration: int, op_type: str = "Conv", category: str = "Node") -> dict[str, Any]:
    return {"cat": category, "name": name, "ts": start, "dur": duration, "args": {"op_name": op_type}}


def test_lists_the_kernels_runs_in_order_of_time() -> None:
    events = [event("model_run", 0, 2000, category="Session")]
    for run, (a, b) in enumerate([(900, 800), (10, 7), (30, 1), (20, 2), (1000, 4)]):
        # Not in the order in which they ran.
        events.append(event("b_kernel_time", 10000 * run + 2000, b, "Relu"))
        events.append(event("a_kernel_time", 10000 * run + 5, a))
        events.append(event("a_fence_before", 10000 * run, 500))
    kernels = profiling.list_kernels(events)
    assert list(kernels.items()) == [(("a", "Conv"), [900, 10, 30, 20, 1000]), (("b", "Relu"), [800, 7, 1, 2, 4])]


@pytest.mark.parametrize(
    ("values", "mean"), [([7], 7.0), ([1, 2], 1.0), ([900, 10, 30, 20, 6], 12.0), ([4, 0, 3, 99, 4, 3, 4, 1], 1.75)]
)
def test_the_mean_of_the_fastest_half_forgets_disturbances(values: list[int], mean: float) -> None:
    assert profiling.average_fastest(values) == pytest.approx(mean, abs=1e-12)


def test_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "list_kernels", lambda _: {("a", "Conv"): [900, 800, 10, 12, 11, 13]})
    model = build_model("y = Softmax (x)")
    assert profile_nodes(model, {"x": X}, threads=1, runs=4, warmup=2) == (NodeTime("a", "Conv", 10.5),)


def test_what_cannot_run_leaves_no_file(folder: Path) -> None:
    model = build_model("y = Softmax (x)")
    with pytest.raises(ModelError, match="can't run it"):
        profile_nodes(model, {"x": X[0]})
    with pytest.raises(ModelError, match="can't load it"):
        profile_nodes(b"no model", {"x": X})
    with pytest.raises(ConfigError, match="no execution provider 'nowhere'"):
        profile_nodes(model, {"x": X}, provider="nowhere")
    assert list(folder.iterdir()) == []


def test_a_damaged_profile_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('[{"cat" : "Node",')
    with pytest.raises(OutputError, match=r"profile\.json' can't be read back") as caught:
        profiling.read_events(path)
    assert len(str(caught.value).splitlines()) == 1
