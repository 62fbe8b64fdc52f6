"""A cache that is damaged, shared or taken away in the middle changes no byte of what is written, and stops no run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_basisprune import pipeline, run
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.progress import Silence
from onnx_basisprune.runtime.cache_folder import CACHE_VARIABLE

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models"
DAMAGES = ("truncated", "flipped", "empty", "zeros", "no rights", "another key's", "folder")


@pytest.fixture
def cache(tmp_path: Path, fake_clock: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One folder for statistics, candidates and the times of layers."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("onnx_basisprune.cache.find_cache_folder", lambda: folder)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def compress(output: Path, listener: Silence | None = None, **options: Any) -> bytes:
    """Compress the sample model with times from the cache; return the file."""
    folder = SAMPLE / "digits"
    chosen = {"limit": 24, "recover_steps": 2, "preprocess": "imagenet", "threads": 1, "target_latency": 0.7, **options}
    config = CompressionConfig(
        model=SAMPLE / "digits.onnx", data=folder / "calib", val=folder / "val", output=output, force=True, **chosen
    )
    pipeline.compress(config, listener)
    return output.read_bytes()


def list_entries(cache: Path) -> dict[str, Path]:
    """Return the statistics, a candidate and the table."""
    runs = sorted((cache / "runs").glob("*.npz"), key=lambda path: path.stat().st_size)
    (table,) = cache.glob("latency-*.json")
    kinds = {}
    for path in runs:
        with np.load(path) as stored:
            kinds["candidate" if "model" in stored.files else "statistics"] = path
    return {**kinds, "table": table}


def damage(path: Path, how: str, rng: np.random.Generator, other: Path) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: int(rng.integers(1, len(content)))])
    elif how == "flipped":
        for at in rng.integers(len(content), size=3):
            content[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif how in ("empty", "zeros"):
        path.write_bytes(b"" if how == "empty" else bytes(len(content)))
    elif how == "folder":
        path.unlink()
        path.mkdir()
        (path / "file").write_bytes(b"mine")
    elif how == "no rights":
        path.chmod(0)
    else:
        shutil.copy(other, path)


def test_no_damage_to_any_entry_changes_the_result(cache: Path, tmp_path: Path) -> None:
    expected = compress(tmp_path / "first.onnx")
    other = tmp_path / "other"
    shutil.copytree(cache, other)
    shutil.rmtree(cache)
    # Entries of other keys, and a table of another machine.
    compress(tmp_path / "other.onnx", seed=1, threads=2, recover_steps=1)
    foreign = list_entries(cache)
    shutil.move(cache, tmp_path / "foreign")
    foreign = {kind: tmp_path / "foreign" / path.relative_to(cache) for kind, path in foreign.items()}
    shutil.move(other, cache)
    entries, rng = list_entries(cache), np.random.default_rng(0)
    assert entries.keys() == {"candidate", "statistics", "table"}
    for how in DAMAGES:
        for kind, path in entries.items():
            damage(path, how, rng, foreign[kind])
        assert compress(tmp_path / "again.onnx") == expected, how
        assert how == "folder" or list_entries(cache) == entries  # whole again
        for path in entries.values():
            if path.is_dir():  # not ours to take away
                assert (path / "file").read_bytes() == b"mine"
                shutil.rmtree(path)


def test_a_cache_that_goes_in_the_middle_of_a_run_changes_nothing(cache: Path, tmp_path: Path) -> None:
    expected = compress(tmp_path / "first.onnx")

    class Thief(Silence):
        """Takes the cache away at each stage."""

        def __init__(self) -> None:
            self.stages: list[str] = []

        def start(self, stage: str, total: float | None = None) -> None:  # noqa: ARG002  # its base's
            self.stages.append(stage)
            shutil.rmtree(cache, ignore_errors=True)

    thief = Thief()
    assert compress(tmp_path / "again.onnx", thief) == expected
    assert {"rewriting", "recovery", "validating"} <= set(thief.stages)


@pytest.mark.parametrize("change", ["processor", "threads"])
def test_what_rounds_otherwise_has_entries_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Folders of users are shared by machines; what one of them worked out isn't the other's to the bit."""
    compress(tmp_path / "first.onnx", allow_slower=True, target_latency=None, target_macs=0.5)
    before = set((cache / "runs").iterdir())
    real: Callable[..., dict[str, Any]] = run.describe_environment
    if change == "processor":
        monkeypatch.setattr(run, "describe_environment", lambda *given: {**real(*given), "cpu": "another"})
    else:
        monkeypatch.setattr(run, "describe_arithmetic", lambda: {"calibration_threads": 64})
    compress(tmp_path / "second.onnx", allow_slower=True, target_latency=None, target_macs=0.5)
    assert len(set((cache / "runs").iterdir()) - before) == len(before)


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, with a cache that is shared."""
    command = [sys.executable, "-m", "onnx_basisprune", "compress", str(SAMPLE / "digits.onnx"), "--limit", "24", "-q"]
    command += ["--data", str(SAMPLE / "digits" / "calib"), "--val", str(SAMPLE / "digits" / "val"), "--isolated"]
    command += ["--preprocess", "imagenet", "--target-macs", "0.5", "--allow-slower", "--recover", "none"]
    command += ["--threads", "1", "-o", str(folder / name)]
    environment = {**os.environ, CACHE_VARIABLE: str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_two_commands_at_once_and_one_killed_while_it_writes_write_the_same(tmp_path: Path) -> None:
    killed, runs = start(tmp_path, "killed.onnx"), tmp_path / "cache" / "runs"
    deadline = time.monotonic() + 60
    while not runs.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    processes = [start(tmp_path, name) for name in ("one.onnx", "two.onnx")]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all("Traceback" not in text and "can't" not in text for text in said)
    one, two = (tmp_path / name for name in ("one.onnx", "two.onnx"))
    assert one.read_bytes() == two.read_bytes()
    assert json.dumps(sorted(path.suffix for path in runs.iterdir() if path.suffix != ".partial")) == '[".npz", ".npz"]'
