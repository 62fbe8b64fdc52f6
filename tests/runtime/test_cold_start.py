"""The fresh process: what it reports, and how its failures come back."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_basisprune.errors import ConfigError, ModelError
from onnx_basisprune.runtime import cold_start
from onnx_basisprune.runtime.cold_start import measure_cold_start


def build_model(columns: int) -> bytes:
    weight = np.random.default_rng(0).normal(size=(64, columns)).astype(np.float32)
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 64] x) => (float[N, {columns}] y) {{ y = MatMul (x, w) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model.SerializeToString()


def test_memory_is_that_of_the_fresh_process_alone(tmp_path: Path) -> None:
    # Were this process' memory counted, 400 MB of it would show.
    ballast = np.ones(50_000_000)
    model = build_model(250_000)  # 64 MB of weights
    path = tmp_path / "ü model.onnx"
    path.write_bytes(model)
    result = measure_cold_start(path, batch_size=2, threads=1)
    assert result.load_ms > 0
    assert result.first_run_ms > 0
    assert result.peak_memory_bytes - result.baseline_memory_bytes >= 64_000_000
    assert result.peak_memory_bytes < ballast.nbytes
    small = measure_cold_start(build_model(10), threads=1)
    assert small.peak_memory_bytes < result.peak_memory_bytes - 50_000_000


def test_errors_of_the_process_are_raised_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"bad\.onnx': onnxruntime can't load it"):
        measure_cold_start(Path("bad.onnx"))
    with pytest.raises(ConfigError, match=r"images of shape \[64\]"):
        measure_cold_start(build_model(10), image_shape=(3,))


def test_a_dying_process_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.CompletedProcess([], -9, "", "first line\nout of memory\n")
    monkeypatch.setattr(cold_start, "_run_child", lambda *_: dead)
    with pytest.raises(ModelError, match="stopped with code -9 \\('out of memory'\\)"):
        measure_cold_start(build_model(10))


def test_a_missing_interpreter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(Path(__file__).resolve().parent / "absent"))
    with pytest.raises(ModelError, match="can't be started"):
        measure_cold_start(build_model(10))
