"""Faults of the machine: killed, disk full, folder read-only, a refused result: no input changed, no half file left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_basisprune import pipeline
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import OutputError, ValidationError
from onnx_basisprune.runtime.session import Session

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "sample_models"
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these signals nor limits")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE / "digits.onnx", tmp_path / "digits.onnx"))


def configure(model: Path) -> CompressionConfig:
    folder = SAMPLE / "digits"
    options = {
        "limit": 24,
        "recover": "none",
        "preprocess": "imagenet",
        "threads": 1,
        "target_macs": 0.5,
        "allow_slower": True,
    }
    return CompressionConfig(model=model, data=folder / "calib", val=folder / "val", **options)


def list_arguments(model: Path) -> list[str]:
    folder = SAMPLE / "digits"
    arguments = [
        sys.executable,
        "-m",
        "onnx_basisprune",
        "compress",
        str(model),
        "--limit",
        "24",
        "--target-macs",
        "0.5",
    ]
    return [
        *arguments,
        "--data",
        str(folder / "calib"),
        "--val",
        str(folder / "val"),
        "--threads",
        "1",
        "--allow-slower",
    ]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@needs_posix
@pytest.mark.timeout(600)
def test_kills_at_random_moments_do_no_damage() -> None:
    """Of runs that write two files; `benchmarks/kills.py` kills three kinds of runs in all of their phases."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--only", "external", "--kills", "4"]
    command += ["--check-every", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "4 kills, 0 of them did damage"
    assert len(re.findall(r": fine$", done.stdout, re.MULTILINE)) == 4


@needs_posix
@pytest.mark.parametrize(("kind", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_the_run_and_cleans_up(kind: str, code: int, model: Path) -> None:
    with subprocess.Popen(list_arguments(model), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(getattr(signal, kind))
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest.splitlines()[-1]) == (code, "Interrupted.")
    assert list_names(model.parent) == ["digits.onnx"]


@needs_posix
def test_a_full_disk_leaves_no_half_file(model: Path) -> None:
    import resource

    # Room for nothing that is as large as a model; what is written first, the table of times, fits.
    limit = 20_000

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    before = model.read_bytes()
    arguments = [*list_arguments(model), "--recover", "none"]
    done = subprocess.run(arguments, preexec_fn=fill, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"Error: '.*digits\.pruned\.onnx' can't be written: .*\.", line)
    assert "Traceback" not in done.stderr
    assert list_names(model.parent) == ["digits.onnx"]
    assert model.read_bytes() == before
    pipeline.compress(configure(model))  # the disk has room again
    assert Session(model.with_name("digits.pruned.onnx")).outputs


@pytest.mark.parametrize("number", [5, 28])
def test_a_disk_that_fills_up_while_publishing(number: int, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = model.with_name("digits.pruned.onnx")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("onnx_basisprune.files.os.fsync", fail)
    with pytest.raises(OutputError, match="can't be written"):
        pipeline.compress(configure(model))
    assert list_names(model.parent) == ["digits.onnx"]
    monkeypatch.undo()
    assert not output.exists()


def test_an_unwritable_folder_is_told_before_any_work(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("Windows and the root user write to read-only folders")
    model.parent.chmod(0o500)
    monkeypatch.setattr(pipeline, "open_run", lambda *_: pytest.fail("work was done"))
    try:
        with pytest.raises(OutputError, match="can't be written"):
            pipeline.compress(configure(model))
    finally:
        model.parent.chmod(0o700)


@pytest.fixture
def _wrong_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file that is written differ from what was planned by one weight."""
    real: Callable[..., tuple[Path, ...]] = pipeline.save_model

    def spoil(written: onnx.ModelProto, path: Path, **options: bool) -> tuple[Path, ...]:
        spoilt = onnx.ModelProto()
        spoilt.CopyFrom(written)
        tensor = next(tensor for tensor in spoilt.graph.initializer if len(tensor.dims) == 2)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0] += 1.0
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        monkeypatch.setattr(pipeline, "load_model", lambda _: written)
        return real(spoilt, path, **options)

    monkeypatch.setattr(pipeline, "save_model", spoil)


@pytest.mark.usefixtures("_wrong_output")
def test_a_result_that_does_something_else_goes_and_its_evidence_stays(model: Path) -> None:
    with pytest.raises(ValidationError, match=r"differ from PyTorch's.*the evidence, '.*rejected\.npz'\.$"):
        pipeline.compress(configure(model))
    assert list_names(model.parent) == ["digits.onnx", "digits.pruned.onnx.rejected.npz"]
    with np.load(model.with_name("digits.pruned.onnx.rejected.npz")) as evidence:
        about = json.loads(str(evidence["about"]))
        arrays = {name: evidence[key] for key, name in about["arrays"].items()}
    assert about["output"].endswith("digits.pruned.onnx")
    assert "differ from PyTorch's" in about["reason"]
    found = next(values for name, values in arrays.items() if name.startswith("1:onnxruntime:"))
    expected = next(values for name, values in arrays.items() if name.startswith("1:pytorch:"))
    assert arrays["1:input:image"].shape == (1, 3, 16, 16)
    assert float(np.abs(found - expected).max()) > 1e-3 * float(np.abs(expected).max())


def test_evidence_goes_when_a_run_of_the_same_output_succeeds(model: Path) -> None:
    def refuse(*_: object) -> None:
        raise ValidationError("not what was planned.", {"x": np.arange(3)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "validate_model", refuse)
        with pytest.raises(ValidationError, match="the evidence"):
            pipeline.compress(configure(model))
    assert list_names(model.parent) == ["digits.onnx", "digits.pruned.onnx.rejected.npz"]
    pipeline.compress(configure(model))
    assert list_names(model.parent) == ["digits.onnx", "digits.pruned.onnx"]
