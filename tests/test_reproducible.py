"""The same command twice: the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.results import TimingReport
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
