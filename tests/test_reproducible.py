"""The same command twice: the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_basisprune import pipeline
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.results import CompressionReport, TimingReport
from onnx_basisprune.summary import list_variations

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"


def run_command(folder: Path, hash_seed: int) -> tuple[bytes, dict[str, Any]]:
    """Compress the sample model in a process of its own; return the file's bytes and the report."""
    folder.mkdir()
    output, report = folder / "small.onnx", folder / "report.json"
    command = [sys.executable, "-m", "onnx_basisprune", "compress", str(SAMPLE / "digits.onnx")]
    command += ["--data", str(SAMPLE / "digits" / "calib"), "--val", str(SAMPLE / "digits" / "val")]
    command += ["--latency-table", str(folder.parent / "times.json"), "--threads", "1", "--limit", "64", "--quiet"]
    command += ["--recover-steps", "8", "-o", str(output), "--report", str(report)]
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    # 3: a machine may be so busy that the clock fails the gate.
    assert done.returncode in (0, 3), done.stderr
    return output.read_bytes(), json.loads(report.read_text())


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    # The first one measures the table, the second one reads it.
    (first, report), (second, other) = (run_command(tmp_path / str(seed), seed) for seed in (1, 2))
    assert first == second
    assert report["timing"]["table_sha256"] == other["timing"]["table_sha256"]
    assert report["environment"]["compressed_sha256"] == other["environment"]["compressed_sha256"]
    assert report["environment"]["calibration_threads"] == 1
    assert [line.split(" ")[0] for line in report["varies_with"]] == [
        "environment.cpu",
        "environment.calibration_threads",
    ]


@pytest.mark.parametrize("kind", ["search", "plan"])
def test_what_earlier_runs_found_out_changes_no_byte(
    kind: str, tmp_path: Path, fake_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache to begin with, without one, and with none at all."""
    options: dict[str, dict[str, Any]] = {
        "search": {"max_drop": 10.0, "minimize": "macs", "recover": "none"},
        "plan": {"plan": tmp_path / "plan.json", "recover_steps": 3},
    }
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: tmp_path / "cache")
    part = open_dataset(SAMPLE / "digits" / "val").draw(100, seed=0)
    np.savez(tmp_path / "val.npz", x=np.stack(part.load(np.arange(100))), y=part.labels)

    def compress(name: str, **more: Any) -> tuple[bytes, CompressionReport]:
        output = tmp_path / name
        config = CompressionConfig(
            model=SAMPLE / "digits.onnx",
            data=SAMPLE / "digits" / "calib",
            val=tmp_path / "val.npz",
            output=output,
            limit=32,
            preprocess="imagenet",
            threads=1,
            latency_table=tmp_path / "times.json",
            **more,
        )
        report = pipeline.compress(config)
        return output.read_bytes(), report

    if kind == "plan":
        compress("planned.onnx", target_latency=0.6, save_plan=tmp_path / "plan.json", recover="none", cache=False)
    chosen = options[kind]
    (cold, report), (warm, again), (alone, _) = (
        compress(name, **chosen, cache=name != "alone.onnx") for name in ("cold.onnx", "warm.onnx", "alone.onnx")
    )
    assert warm == cold
    assert alone == cold
    assert "moments" in report.timings
    assert "moments" not in again.timings
    assert "refitting" not in again.timings


@pytest.mark.parametrize(
    ("options", "has_timing", "keys"),
    [
        ({}, False, []),
        ({}, True, ["timing.table_sha256:"]),
        ({"latency_table": Path("t.json")}, True, []),
        ({"max_drop": 1.0, "time_limit": 60.0}, True, ["timing.table_sha256:", "config.time_limit:"]),
    ],
)
def test_what_varies_is_named(options: dict[str, Any], has_timing: bool, keys: list[str]) -> None:
    timing = TimingReport("0" * 64, 16, 4, None) if has_timing else None
    found = list_variations(CompressionConfig(**options), timing)
    assert [line.split(" ")[0] for line in found[2:]] == keys
