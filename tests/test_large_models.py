"""A model whose weights lie beside it is compressed to one of the same kind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_basisprune.pipeline as pipeline
import onnx_basisprune.runtime.benchmark as benchmark
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import OutputError, ValidationError
from onnx_basisprune.graph import model_io
from onnx_basisprune.graph.model_io import read_model
from onnx_basisprune.inspection import inspect_model
from onnx_basisprune.pipeline import compress
from onnx_basisprune.results import CompressionReport
from onnx_basisprune.runtime.cold_start import measure_cold_start
from onnx_basisprune.runtime.session import Session

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
NAMES = ["digits.pruned.onnx", "digits.pruned.onnx.data"]


@pytest.fixture(autouse=True)
def _short_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmark._run_rounds

    def run_few(contenders: Any, settings: benchmark.BenchmarkSettings, progress: Any, *, rewarm: bool) -> None:
        real(contenders, replace(settings, min_rounds=5, min_seconds=0.0, max_seconds=0.1), progress, rewarm=rewarm)

    monkeypatch.setattr(benchmark, "_run_rounds", run_few)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "digits.onnx"
    path.parent.mkdir()
    proto = onnx.load(SAMPLE / "digits.onnx")
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def run(model: Path, **options: Any) -> CompressionReport:
    """Compress by channels, which the second file must follow, too."""
    defaults = {
        "data": SAMPLE / "digits" / "calib",
        "val": SAMPLE / "digits" / "val",
        "limit": 60,
        "recover": "none",
        "preprocess": "imagenet",
        "threads": 1,
        "target_macs": 0.6,
        "prune": "channels",
    }
    return compress(CompressionConfig(model=model, **{**defaults, **options}))


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_external_data_go_in_and_come_out(model: Path) -> None:
    folder = model.parent
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = run(model, report=folder / "report.json")
    assert list_names(folder) == sorted([*content, *NAMES, "report.json"])
    assert {name: (folder / name).read_bytes() for name in content} == content
    written, files = read_model(folder / NAMES[0])
    assert files == tuple(folder / name for name in NAMES)
    values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for side, digest, paths in (
        ("original", "original_sha256", [model, folder / "weights.bin"]),
        ("compressed", "compressed_sha256", files),
    ):
        assert values[side]["file_bytes"] == sum(path.stat().st_size for path in paths)
        whole = b"".join(path.read_bytes() for path in paths)
        assert values["environment"][digest] == hashlib.sha256(whole).hexdigest()
    assert report.compressed.latency is not None
    assert inspect_model(folder / NAMES[0]).file_bytes == report.compressed.file_bytes
    assert measure_cold_start(folder / NAMES[0], threads=1).first_run_ms > 0
    # The same weights as those of a model in one file.
    single = folder / "single.onnx"
    onnx.save(onnx.load(model), single)
    run(single)
    other = onnx.load(folder / "single.pruned.onnx")
    assert [tensor.name for tensor in written.graph.initializer] == [tensor.name for tensor in other.graph.initializer]
    for tensor, same in zip(written.graph.initializer, other.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(same))
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    first, second = (Session(folder / name).predict(x) for name in (NAMES[0], "single.pruned.onnx"))
    np.testing.assert_array_equal(first, second)
    assert not (folder / "single.pruned.onnx.data").exists()


def test_what_one_file_cannot_hold_gets_a_second(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model.parent
    single = folder / "digits.onnx"
    proto = onnx.load(model)
    (folder / "weights.bin").unlink()
    onnx.save(proto, single)
    monkeypatch.setattr(model_io, "_LARGEST_FILE", 1000)
    report = run(single)
    assert list_names(folder) == ["digits.onnx", *NAMES]
    assert report.compressed.file_bytes == sum((folder / name).stat().st_size for name in NAMES)
    with pytest.raises(OutputError, match="exists already"):
        run(single)
    run(single, force=True)
    assert read_model(folder / NAMES[0])[1] == tuple(folder / name for name in NAMES)


def test_both_files_need_force(model: Path) -> None:
    folder = model.parent
    (folder / NAMES[1]).write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"pruned\.onnx\.data' exists already"):
        run(model)
    assert list_names(folder) == ["digits.onnx", NAMES[1], "weights.bin"]
    assert (folder / NAMES[1]).read_bytes() == b"mine"
    run(model, force=True)
    assert read_model(folder / NAMES[0])[1] == tuple(folder / name for name in NAMES)


def test_weights_of_the_input_are_never_written_over(model: Path) -> None:
    content = (model.parent / "weights.bin").read_bytes()
    for options in ({"output": model.parent / "weights.bin"}, {"report": model.parent / "weights.bin"}):
        with pytest.raises(OutputError, match="holds weights of the input model"):
            run(model, force=True, **options)
        with pytest.raises(OutputError, match="holds weights of the input model"):
            run(model, force=True, dry_run=True, report=model.parent / "weights.bin")
    assert (model.parent / "weights.bin").read_bytes() == content


def test_damaged_weights_beside_the_model_are_found_before_anything_is_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.save_model

    def damage(*arguments: Any, **options: Any) -> tuple[Path, ...]:
        files = real(*arguments, **options)
        content = np.fromfile(files[1], dtype=np.float32)
        content[: len(content) // 2] += 1.0
        content.tofile(files[1])
        return files

    monkeypatch.setattr(pipeline, "save_model", damage)
    before = list_names(model.parent)
    with pytest.raises(ValidationError, match="onnxruntime"):
        run(model)
    # Nothing but the evidence.
    assert list_names(model.parent) == sorted([*before, "digits.pruned.onnx.rejected.npz"])
