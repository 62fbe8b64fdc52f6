"""Layers timed kernel by kernel: which kernels count, how often they run, and what the machine's block is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.runtime import layer_timing
from onnx_basisprune.runtime.layer_timing import TimingSettings, detect_block, measure_overhead, time_layers

ONE = TimingSettings(threads=1)
LAYER = """
    <ir_version: 7, opset_import: ["" : 13]>
    layer (float[1, 16, 6, 6] x, float[1, 16, 6, 6] other) => (float[1, 16, 6, 6] y)
    {
        [conv] conv = Conv <pads = [1, 1, 1, 1]> (x, W)
        [feed] feed = MaxPool <kernel_shape = [1, 1]> (other)
        [sum] y = Add (conv, feed)
    }
"""


def make_layer(outputs: int = 16) -> bytes:
    model = onnx.parser.parse_model(LAYER)
    if outputs != 16:
        del model.graph.node[1:], model.graph.input[1:]
        model.graph.node[0].output[0] = "y"
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = outputs
    W = np.random.default_rng(0).standard_normal((outputs, 16, 3, 3), dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(W, "W"))
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that temporary files go to in a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class FakeLayer:
    """A layer whose clock is made up: the first run takes a second, the profiler finds what it is told to."""

    opened: int = 0
    made: list[FakeLayer]

    def __init__(self, model: bytes, settings: TimingSettings, prefix: Path | None) -> None:
        self.name, self.settings, self.prefix = model.decode(), settings, prefix
        self.runs = 0
        type(self).made.append(self)
        type(self).opened = max(type(self).opened, sum(layer.runs >= 0 for layer in self.made))

    def run(self) -> float:
        self.runs += 1
        return 1.0

    def end_profiling(self) -> list[dict[str, Any]]:
        assert self.prefix is not None
        runs, self.runs = self.runs, -1
        return list(list_events(runs, {"conv": ("Conv", 10 * int(self.name)), "feed": ("MaxPool", 999)}))

    def average_run(self) -> float:
        assert self.prefix is None
        self.runs = -1
        return 1000.0 * int(self.name)


def list_events(runs: int, kernels: dict[str, tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Events as onnxruntime's profiler writes them; the first run is slow."""
    times = count(0, 10000)
    for run in range(runs):
        for name, (op_type, duration) in kernels.items():
            yield {
                "cat": "Node", "name": f"{name}_kernel_time", "ts": next(times),
                "dur": 5000 if run == 0 else duration, "args": {"op_name": op_type},
            }  # fmt: skip


@pytest.fixture
def fake_layers(monkeypatch: pytest.MonkeyPatch) -> type[FakeLayer]:
    FakeLayer.made, FakeLayer.opened = [], 0
    monkeypatch.setattr(layer_timing, "_Layer", FakeLayer)
    return FakeLayer


def name_models(numbers: range) -> dict[str, Callable[[], bytes]]:
    return {f"layer{number}": str(number).encode for number in numbers}


def test_kernels_count_without_what_brings_a_lone_layer_into_its_layout() -> None:
    kernels = {
        "ReorderInput": ("ReorderInput", 100),
        "ReorderInput_token_3": ("ReorderInput", 100),
        "feed_nchwc": ("MaxPool", 100),
        "feed": ("MaxPool", 100),
        "y_nchwc": ("Conv", 7),
        "act": ("Sigmoid", 4),
        "ReorderOutput": ("ReorderOutput", 100),
    }
    events = [*list_events(8, kernels), {"cat": "Session", "name": "model_run", "ts": 0, "dur": 10**6}]
    assert layer_timing._sum_kernels(events, "feed") == 7 + 4
    # The warm-up doesn't count.
    assert layer_timing._sum_kernels(list_events(2, {"conv": ("Conv", 3)}), "feed") == 3


def test_every_model_is_timed_a_few_at_a_time(fake_layers: type[FakeLayer]) -> None:
    steps: list[int] = []
    times = time_layers(name_models(range(1, 20)), ONE, "feed", steps.append)
    assert times == {f"layer{number}": 10.0 * number for number in range(1, 20)}
    assert list(times) == [f"layer{number}" for number in range(1, 20)]
    assert sum(steps) == 19
    assert fake_layers.opened <= 8
    assert [layer.name for layer in fake_layers.made] == [str(number) for number in range(1, 20)]
    assert time_layers({}, ONE, "feed", steps.append) == {}


@pytest.mark.parametrize("provider", ["cpu", "CPU", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_the_cpu_is_timed_by_its_kernels_however_it_is_spelled(fake_layers: type[FakeLayer], provider: str) -> None:
    """The spelling isn't in the table's name: both must give the same times."""
    settings = TimingSettings(1, provider)
    assert settings.has_kernel_times
    assert time_layers(name_models(range(3, 4)), settings, "feed", lambda _: None) == {"layer3": 30.0}


def test_other_providers_are_timed_by_the_clock(fake_layers: type[FakeLayer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_timing, "find_provider", {"cpu": "CPUExecutionProvider", "gpu": "Gpu"}.__getitem__)
    settings = TimingSettings(None, "gpu")
    assert not settings.has_kernel_times
    assert time_layers(name_models(range(2, 4)), settings, "feed", lambda _: None) == {
        "layer2": 2000.0,
        "layer3": 3000.0,
    }
    assert all(layer.settings == settings for layer in fake_layers.made)
    assert measure_overhead(b"0", settings) == 0.0


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match="no execution provider 'nowhere'"):
        time_layers({"a": make_layer}, TimingSettings(1, "nowhere"), "feed", lambda _: None)


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [([1.0], 7), ([1.0, 1e-6], 7), ([0.002] * 4, 10), ([1e-9] * 3, 40), ([0.0], 40)],
)
def test_rounds_fill_the_time_within_bounds(seconds: list[float], rounds: int) -> None:
    assert layer_timing._choose_rounds(seconds) == rounds


def test_a_run_takes_the_fastest_half_of_all_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_timing._Layer(make_layer(1), ONE, None)
    ticks = iter([0.0, 9.0, 10.0, 11.0, 20.0, 22.0, 30.0, 32.0, 40.0, 60.0])
    monkeypatch.setattr(layer_timing, "perf_counter", ticks.__next__)
    assert [layer.run() for _ in range(5)] == [9.0, 1.0, 2.0, 2.0, 20.0]
    assert layer.average_run() == 1.5e6


def test_real_layers_leave_no_file(folder: Path) -> None:
    times = time_layers({"a": make_layer, "b": lambda: make_layer(8)}, ONE, "feed", lambda _: None)
    assert list(times) == ["a", "b"]
    assert all(np.isfinite(time) and time >= 0 for time in times.values())
    assert list(folder.iterdir()) == []


def test_a_layer_that_cannot_run_leaves_no_file(folder: Path) -> None:
    with pytest.raises(ModelError, match="can't load it"):
        time_layers({"a": make_layer, "b": lambda: b"no model"}, ONE, "feed", lambda _: None)
    assert list(folder.iterdir()) == []


def test_the_block_of_this_machine(folder: Path) -> None:
    block = detect_block(make_layer(1), ONE)
    assert block in (1, 4, 8, 16, 32)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "block"),
    [
        ({"op_name": "Conv", "output_type_shape": [{"float": [1, 16, 14, 14]}]}, 16),
        ({"op_name": "FusedConv", "output_type_shape": [{"float": [1, 1, 14, 14]}]}, 1),
        ({"op_name": "ReorderOutput", "output_type_shape": [{"float": [1, 8, 14, 14]}]}, 1),
        ({"op_name": "Conv"}, 1),
    ],
)
def test_the_block_is_read_from_the_conv(
    fake_layers: type[FakeLayer], monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], block: int
) -> None:
    events = [{"cat": "Session", "name": "model_run"}, {"cat": "Node", "name": "a", "args": args}]
    monkeypatch.setattr(fake_layers, "end_profiling", lambda _: events)
    assert detect_block(b"1", ONE) == block


@pytest.mark.parametrize(("kernel", "run", "overhead"), [(10, 14.0, 3.0), (10, 20.0, 0.0), (10, 99.0, 0.0)])
def test_the_profilers_cost_is_what_it_adds_to_each_kernel(
    fake_layers: type[FakeLayer], monkeypatch: pytest.MonkeyPatch, kernel: int, run: float, overhead: float
) -> None:
    """Never less than nothing, though a noisy machine may say so."""
    kernels = {"conv0": ("Conv", kernel), "conv1": ("Conv", kernel)}
    monkeypatch.setattr(fake_layers, "end_profiling", lambda layer: list(list_events(layer.runs, kernels)))
    monkeypatch.setattr(fake_layers, "average_run", lambda _: run)
    assert measure_overhead(b"1", ONE) == overhead


def test_the_profilers_cost_on_this_machine_is_a_number() -> None:
    overhead = measure_overhead(make_layer(1), ONE)
    assert np.isfinite(overhead)
    assert overhead >= 0
