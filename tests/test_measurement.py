"""`evaluate_model` and `benchmark_models` on models whose answers are known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import onnx_basisprune as bp
from onnx_basisprune.errors import ConfigError, DataError
from onnx_basisprune.measurement import benchmark_models, evaluate_model
from onnx_basisprune.measurement_config import BenchmarkConfig, EvaluationConfig
from onnx_basisprune.runtime import benchmark as benchmark_room
from onnx_basisprune.runtime import environment as environment_room
from onnx_basisprune.runtime import session as session_room

CLASSES = 6


class Listener:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.warnings: list[str] = []
        self._stage = ""

    def start(self, stage: str, total: float | None = None) -> None:  # noqa: ARG002
        self._stage = stage
        self.stages[stage] = 0.0

    def advance(self, amount: float) -> None:
        self.stages[self._stage] += amount

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def save_model(path: Path, perm: tuple[int, ...] = (0, 1, 2, 3), shape: str = "N, 6, 1, 1") -> Path:
    """Save a model whose scores are the six values of its input, after a Transpose."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[{shape}] image) => (float[N, 6] scores)
    {{
        turned = Transpose <perm = [{",".join(map(str, perm))}]> (image)
        flat = Flatten (turned)
        scores = Softmax (flat)
    }}
    """
    onnx.save(parser.parse_model(text), path)
    return path


def save_shifted(path: Path) -> Path:
    """Save a model that answers the class after the right one wherever the input's sixth value is largest."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 6, 1, 1] image) => (float[N, 6] scores)
    <float[6] bias = {9.0, 0.0, 0.0, 0.0, 0.0, -9.0}>
    {
        flat = Flatten (image)
        sixth = ArgMax <axis = 1, keepdims = 1> (flat)
        five = Constant <value = int64 {5}> ()
        is_sixth = Equal (sixth, five)
        gate = Cast <to = 1> (is_sixth)
        change = Mul (gate, bias)
        scores = Add (flat, change)
    }
    """
    onnx.save(parser.parse_model(text), path)
    return path


def save_data(path: Path, wrong: int = 0, *, labelled: bool = True) -> Path:
    """Save 60 one-hot inputs, ten per class, with their labels; the first `wrong` labels are off by one."""
    y = np.arange(60) % CLASSES
    x = np.eye(CLASSES, dtype=np.float32)[y].reshape(60, CLASSES, 1, 1)
    labels = y.copy()
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    if labelled:
        np.savez(path, x=x, y=labels)
    else:
        np.savez(path, x=x)
    return path


def test_accuracy_is_counted_exactly(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz", wrong=6)
    listener = Listener()
    report = evaluate_model(EvaluationConfig(model=model, data=data, batch_size=7), listener)
    assert (report.accuracy.n, report.accuracy.top1, report.accuracy.agreement) == (60, 0.9, None)
    assert report.accuracy.interval is not None
    assert report.accuracy.interval.low < 0.9 < report.accuracy.interval.high
    assert (report.reference, report.drop_pp, report.preprocess) == (None, None, "none")
    assert report.config["batch_size"] == 7
    assert report.config["model"] == str(model)
    assert listener.stages == {"evaluating": 60}
    assert listener.warnings == []


def test_a_reference_adds_agreement_and_drop(tmp_path: Path) -> None:
    reference, data = save_model(tmp_path / "ref.onnx"), save_data(tmp_path / "d.npz")
    model = save_shifted(tmp_path / "m.onnx")
    report = evaluate_model(EvaluationConfig(model=model, data=data, reference=reference))
    # All ten images of the sixth class are lost, a sixth of the whole.
    assert report.accuracy.top1 == pytest.approx(50 / 60, abs=1e-12)
    assert report.accuracy.agreement == pytest.approx(50 / 60, abs=1e-12)
    assert report.reference is not None
    assert (report.reference.top1, report.reference.agreement) == (1.0, None)
    assert report.drop_pp is not None
    assert report.drop_pp.estimate == pytest.approx(1000 / 60, abs=1e-9)
    assert report.drop_pp.low > 0


def test_without_labels_agreement_takes_accuracys_place(tmp_path: Path) -> None:
    reference, data = save_model(tmp_path / "ref.onnx"), save_data(tmp_path / "d.npz", labelled=False)
    model = save_shifted(tmp_path / "m.onnx")
    report = evaluate_model(EvaluationConfig(model=model, data=data, reference=reference))
    assert (report.accuracy.top1, report.accuracy.n) == (None, 60)
    assert report.accuracy.agreement == pytest.approx(50 / 60, abs=1e-12)
    assert report.drop_pp is not None
    assert report.drop_pp.estimate == pytest.approx(1000 / 60, abs=1e-9)


def test_neither_labels_nor_reference_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz", labelled=False)
    with pytest.raises(DataError, match=r"d\.npz' has no labels.*--labels.*--reference"):
        evaluate_model(EvaluationConfig(model=model, data=data))


def test_near_chance_is_a_warning_in_report_and_progress(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz", wrong=60)
    listener = Listener()
    report = evaluate_model(EvaluationConfig(model=model, data=data), listener)
    assert report.accuracy.top1 == 0.0
    assert len(report.warnings) == 1
    assert "near chance" in report.warnings[0]
    assert listener.warnings == list(report.warnings)


def test_limit_draws_evenly_over_the_classes(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz")
    report = evaluate_model(EvaluationConfig(model=model, data=data, limit=12))
    assert report.accuracy.n == 12


def test_images_follow_each_models_own_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(24) % CLASSES
    x = rng.integers(0, 30, (24, 1, 2, 3), dtype=np.uint8)
    x.reshape(24, -1)[np.arange(24), y] = 255
    np.savez(tmp_path / "d.npz", x=x.reshape(24, 1, 2, 3).transpose(0, 2, 3, 1), y=y)
    reference = save_model(tmp_path / "nchw.onnx", shape="N, 1, 2, 3")
    model = save_model(tmp_path / "nhwc.onnx", (0, 3, 1, 2), "N, 2, 3, 1")
    config = EvaluationConfig(model=model, data=tmp_path / "d.npz", reference=reference, preprocess="unit", resize=0)
    report = evaluate_model(config)
    assert (report.accuracy.top1, report.accuracy.agreement) == (1.0, 1.0)


def test_every_combination_is_measured_once(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m.onnx")
    config = BenchmarkConfig(
        a=model,
        batch_size=(1, 4),
        threads=(1, 2),
        rounds=2,
        min_seconds=0,
        max_seconds=0.01,
        cold_start=False,
    )
    listener = Listener()
    report = benchmark_models(config, listener)
    assert [(run.batch_size, run.threads) for run in report.runs] == [(1, 1), (1, 2), (4, 1), (4, 2)]
    for run in report.runs:
        assert (run.b, run.speedup, run.a.load_ms, run.a.peak_memory_bytes) == (None, None, None, None)
        assert run.a.latency.batch_size == run.batch_size
        expected = 1e3 * run.batch_size / run.a.latency.median_ms
        assert run.a.images_per_second == pytest.approx(expected, rel=1e-9)
    assert next(iter(listener.stages)) == "benchmark, batch 1, 1 thread"
    assert list(listener.stages.values()) == pytest.approx([1.0] * 4, abs=1e-9)


def test_two_models_get_a_ratio_and_cold_starts(tmp_path: Path) -> None:
    a, b = save_model(tmp_path / "a.onnx"), save_shifted(tmp_path / "b.onnx")
    report = benchmark_models(BenchmarkConfig(a=a, b=b, rounds=5, min_seconds=0, max_seconds=0.01))
    (run,) = report.runs
    assert run.b is not None
    assert run.speedup is not None
    ratio = run.a.latency.median_ms / run.b.latency.median_ms
    assert run.speedup.median == pytest.approx(ratio, rel=1e-9)
    for timing in (run.a, run.b):
        assert timing.load_ms is not None
        assert timing.load_ms > 0
        assert timing.peak_memory_bytes is not None
        assert timing.baseline_memory_bytes is not None
        assert timing.peak_memory_bytes >= timing.baseline_memory_bytes
    assert (run.batch_size, run.threads) == (1, None)


def test_a_profile_adds_up_to_the_latency_of_each_model(tmp_path: Path) -> None:
    a, b = save_model(tmp_path / "a.onnx"), save_shifted(tmp_path / "b.onnx")
    listener = Listener()
    options = {"threads": (1,), "provider": "CPU", "min_seconds": 0, "max_seconds": 0.01, "cold_start": False}
    config = BenchmarkConfig(a=a, b=b, batch_size=(2,), profile=True, **options)  # type: ignore[arg-type]
    report = benchmark_models(config, listener)
    (run,) = report.runs
    assert run.b is not None
    assert {"profile of a.onnx", "profile of b.onnx"} <= set(listener.stages)
    assert report.environment["execution_provider"] == "CPUExecutionProvider"
    assert {"Transpose", "Softmax"} <= {node.op_type for node in run.nodes if node.a_ms is not None}
    assert {"ArgMax", "Mul"} <= {node.op_type for node in run.nodes if node.b_ms is not None}
    for timing, times in ((run.a, [node.a_ms for node in run.nodes]), (run.b, [node.b_ms for node in run.nodes])):
        total = sum(ms for ms in times if ms is not None)
        # All kernels of so small a model may be below the profiler's microsecond.
        assert total == pytest.approx(timing.latency.median_ms, rel=1e-9) or total == 0.0
    assert benchmark_models(replace(config, profile=False)).runs[0].nodes == ()


def test_every_session_takes_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz")
    asked = []

    def note_provider(name: str) -> str:
        asked.append(name)
        return "CPUExecutionProvider"

    monkeypatch.setattr(session_room, "find_provider", note_provider)
    monkeypatch.setattr(environment_room, "find_provider", note_provider)
    evaluate_model(EvaluationConfig(model=model, data=data, reference=model, provider="other"))
    assert asked == ["other"] * 3  # two sessions and the environment
    asked.clear()
    options = {"min_seconds": 0, "max_seconds": 0.01, "cold_start": False}
    benchmark_models(BenchmarkConfig(a=model, b=model, provider="other", profile=True, **options))  # type: ignore[arg-type]
    assert asked == ["other"] * 5
    # The cold start has a process of its own, which knows no such provider.
    with pytest.raises(ConfigError, match="no execution provider 'other'"):
        benchmark_models(BenchmarkConfig(a=model, provider="other", min_seconds=0, max_seconds=0.01))


def test_the_input_shape_fills_open_sizes_and_gives_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path / "m.onnx", shape="N, 6, H, W")
    config = BenchmarkConfig(
        a=model, input_shape=(3, 6, 1, 1), rounds=1, min_seconds=0, max_seconds=0.01, cold_start=False
    )
    shapes = []
    draw = benchmark_room.draw_input

    def note_shape(*arguments: object) -> dict[str, np.ndarray]:
        feeds = draw(*arguments)  # type: ignore[arg-type]
        shapes.extend(array.shape for array in feeds.values())
        return feeds

    monkeypatch.setattr(benchmark_room, "draw_input", note_shape)
    report = benchmark_models(config)
    assert shapes == [(3, 6, 1, 1)]
    assert report.runs[0].batch_size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": (0,)}, "--batch-size has 0"),
        ({"threads": (2, -1)}, "--threads has -1"),
        ({"rounds": 0}, "--rounds has 0"),
        ({"input_shape": (3,)}, "--input-shape has 1 dimension"),
        ({"input_shape": (2, 3, 8, 8), "batch_size": (4,)}, "--input-shape has a batch of 2"),
        ({"min_seconds": 3.0, "max_seconds": 1.0}, "--min-seconds is 3 and --max-seconds 1"),
        ({"min_seconds": float("nan")}, "--min-seconds is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_benchmark_options_that_no_run_can_use_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bp.benchmark_models("missing.onnx", **options)


def test_an_unknown_provider_is_refused(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz")
    with pytest.raises(ConfigError, match=r"no execution provider 'gpu9'; expected one of .*cpu"):
        bp.benchmark_models(model, provider="gpu9")
    with pytest.raises(ConfigError, match=r"no execution provider 'gpu9'; expected one of .*cpu"):
        bp.evaluate_model(model, data, provider="gpu9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "--limit is 0"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_evaluation_options_that_no_run_can_use_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bp.evaluate_model("missing.onnx", "missing", **options)


def test_the_public_functions_take_text_for_paths_and_lists_for_tuples(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "m.onnx"), save_data(tmp_path / "d.npz")
    report = bp.evaluate_model(str(model), str(data), reference=str(model), mean=[0.0])
    assert (report.accuracy.agreement, report.config["mean"]) == (1.0, (0.0,))
    with pytest.raises(TypeError, match="nonsense"):
        bp.evaluate_model(str(model), str(data), nonsense=1)
    assert bp.inspect_model(str(model)).macs == 0
