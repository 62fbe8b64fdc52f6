"""The benchmark's order, stopping and arithmetic, on a clock that the tests turn."""

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.planning.types import TensorSpec
from onnx_basisprune.results import Speedup
from onnx_basisprune.runtime import benchmark
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, benchmark_pair
from onnx_basisprune.runtime.cpu_clocks import CpuClocks

QUICK = BenchmarkSettings(threads=1, min_rounds=6, min_seconds=0.0, max_seconds=5.0, warmup=2)


def build_model(batch: str = "N", height: str = "4") -> bytes:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{batch}, 3, {height}, 4] x) => (float[{batch}, 3, 1, 1] y) {{ y = GlobalAveragePool (x) }}"""
    return onnx.parser.parse_model(text).SerializeToString()


class FakeContender:
    """Costs a fixed time on the fake clock."""

    def __init__(self, name: str, seconds: float, clock: list[float], order: list[str]) -> None:
        self.name, self.seconds, self.clock, self.order = name, seconds, clock, order
        self.samples: list[float] = []

    def take_sample(self, *, rewarm: bool) -> None:
        assert not rewarm
        self.clock[0] += self.seconds
        self.order.append(self.name)


def run_fake_rounds(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...], settings: BenchmarkSettings
) -> tuple[str, list[float]]:
    clock, order, progress = [0.0], list[str](), list[float]()
    monkeypatch.setattr(benchmark, "perf_counter", lambda: clock[0])
    contenders = [FakeContender(name, cost, clock, order) for name, cost in zip("ab", seconds, strict=False)]
    benchmark._run_rounds(contenders, settings, progress.append, rewarm=False)
    return "".join(order), progress


def test_models_take_turns_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order, progress = run_fake_rounds(monkeypatch, (0.1, 0.1), BenchmarkSettings(min_rounds=6, min_seconds=0.0))
    assert order == "abba" * 3
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert all(done < 1.0 for done in progress[:-1])


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        (0.001, 2000),  # min_seconds decides
        (0.1, 30),  # min_rounds decides: 3 s
        (0.5, 20),  # max_seconds decides
        (60.0, 5),  # the fewest rounds decide
    ],
)
def test_stops_when_enough_or_too_long(monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int) -> None:
    settings = BenchmarkSettings(min_rounds=30, min_seconds=2.0, max_seconds=10.0)
    order, _ = run_fake_rounds(monkeypatch, (seconds,), settings)
    assert abs(len(order) - rounds) <= 1  # the clock adds up in floating point


def test_two_models_are_measured_in_the_same_rounds() -> None:
    seen: list[float] = []
    result = benchmark_pair(build_model(), build_model(), batch_size=2, settings=QUICK, progress=seen.append)
    assert result.b is not None
    assert result.samples_b is not None
    assert result.speedup is not None
    assert len(seen) == len(result.samples_a) == len(result.samples_b) >= 6
    assert (result.samples_a > 0).all()
    assert result.a.median_ms == pytest.approx(np.median(result.samples_a), rel=1e-12)
    assert result.a.p90_ms == pytest.approx(np.quantile(result.samples_a, 0.9), rel=1e-12)
    assert result.throughput_a == pytest.approx(2000 / result.a.median_ms, rel=1e-12)
    assert result.throughput_b == pytest.approx(2000 / result.b.median_ms, rel=1e-12)
    assert result.speedup.median == pytest.approx(result.a.median_ms / result.b.median_ms, rel=1e-12)
    assert result.speedup.low <= result.speedup.high
    assert (result.a.batch_size, result.b.batch_size) == (2, 2)
    # Such a model runs in microseconds: each sample holds many runs.
    assert result.a.runs > len(result.samples_a)
    assert result.a.runs % len(result.samples_a) == 0


class SlowSession:
    """What `Session` is to the benchmark; a run takes so long on the fake clock, the first after the other's more."""

    last: object = None

    def __init__(self, model: bytes, clock: list[float], cold: float) -> None:
        self.seconds, self.clock, self.cold = float(model), clock, cold
        self.inputs = (TensorSpec("x", "float32", (1, 3, 4, 4)),)

    def run(self, _feeds: object) -> None:
        self.clock[0] += self.seconds + (self.cold if SlowSession.last is not self else 0.0)
        SlowSession.last = self


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # What the other has left of the caches doesn't count …
        (b"0.004", b"0.001", (4.0, 1.0)),
        (b"0.2", b"0.002", (200.0, 2.0)),
        # … but where it is next to nothing, no run is spent on it. (A B B A: B follows itself every second time.)
        (b"0.2", b"0.1", (200.5, 100.25)),
    ],
)
def test_each_of_two_quick_models_finds_the_caches_as_if_alone(
    monkeypatch: pytest.MonkeyPatch, a: bytes, b: bytes, expected: tuple[float, float]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(benchmark, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(benchmark, "Session", lambda model, **_: SlowSession(model, clock, 5e-4))
    result = benchmark_pair(a, b, settings=QUICK)
    assert result.b is not None
    assert (result.a.median_ms, result.b.median_ms) == pytest.approx(expected)


def test_one_model_alone() -> None:
    result = benchmark_pair(build_model(), settings=QUICK)
    assert (result.b, result.speedup, result.throughput_b, result.samples_b) == (None, None, None, None)
    assert result.a.batch_size == 1


def test_fixed_and_open_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(build_model(batch="3"))
    assert benchmark_pair(path, settings=QUICK).a.batch_size == 3
    with pytest.raises(ConfigError, match="fixed batch of 3"):
        benchmark_pair(path, batch_size=2, settings=QUICK)
    with pytest.raises(ConfigError, match=r"\[3, \?, 4\]"):
        benchmark_pair(build_model(height="H"), settings=QUICK)
    assert benchmark_pair(build_model(height="H"), image_shape=(3, 5, 4), settings=QUICK).a.median_ms > 0
    with pytest.raises(ModelError, match="can't load it"):
        benchmark_pair(path, b"no model", settings=QUICK)


def test_garbage_collection_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []
    benchmark_pair(build_model(), settings=QUICK, progress=lambda _: states.append(gc.isenabled()))
    assert not any(states)
    assert gc.isenabled()

    def fail(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark_pair(build_model(), settings=QUICK, progress=fail)
    assert gc.isenabled()


def test_warns_where_figures_are_doubtful() -> None:
    settings = BenchmarkSettings(min_rounds=30)
    sharp, blurred = Speedup(2.0, 1.95, 2.05), Speedup(2.0, 1.8, 2.3)
    assert benchmark._find_warnings(sharp, 30, 0.0, settings) == ()
    assert benchmark._find_warnings(None, 30, 0.0, settings) == ()
    (noisy,) = benchmark._find_warnings(blurred, 30, 0.0, settings)
    assert "1.80 to 2.30" in noisy
    (undecided,) = benchmark._find_warnings(Speedup(1.0, 0.99, 1.02), 30, 0.0, settings)
    assert "don't differ by more than this machine's noise (0.99 to 1.02)" in undecided
    (unknown,) = benchmark._find_warnings(Speedup(1.1, 0.9, 1.4), 30, 0.0, settings)
    assert "too noisy to tell whether the second model is faster or slower (0.90 to 1.40)" in unknown
    (few,) = benchmark._find_warnings(sharp, 5, 0.0, settings)
    assert "5 of 30 rounds" in few
    (crowded,) = benchmark._find_warnings(sharp, 30, 1.25, settings)
    assert "1.2 cores" in crowded


@pytest.mark.parametrize(
    ("busy", "own", "disturbed"),
    [
        (40.0, 20.0, 2.0),  # all 4 cores busy for 10 s, half of it by others
        (40.0, 39.0, 0.0),  # a tenth of a core is not worth mention
        (30.0, 20.0, 0.0),  # others took a core, but another one was idle
    ],
)
def test_finds_other_programs(monkeypatch: pytest.MonkeyPatch, busy: float, own: float, disturbed: float) -> None:
    readings = iter([(0.0, 100.0, 50.0), (10.0, 100.0 + busy, 50.0 + own)])
    monkeypatch.setattr(CpuClocks, "_read", staticmethod(lambda: next(readings)))
    monkeypatch.setattr("psutil.cpu_count", lambda: 4)
    assert CpuClocks().count_disturbed_cores() == pytest.approx(disturbed, abs=1e-12)


def test_a_model_without_a_batch_axis_runs_one_image_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[3, 4, 4] x) => (float[3, 4, 4] y) { y = Relu (x) }'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert benchmark_pair(path, image_shape=(3, 4, 4), settings=QUICK).a.batch_size == 1
