"""Evidence against a refused model stays until a sound one has its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_basisprune.errors import ValidationError
from onnx_basisprune.evidence import drop_evidence, keep_evidence

NAME = "m.onnx.rejected.npz"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return a place that a model was refused for."""
    path = tmp_path / "m.onnx"
    staged = tmp_path / "staged"
    staged.write_bytes(b"refused")
    keep_evidence(ValidationError("wrong.", {"x:<y>": np.arange(3)}), path, staged)
    staged.unlink()
    return path


def test_a_later_refusal_takes_its_place(output: Path) -> None:
    before = output.with_name(NAME).read_bytes()
    staged = output.with_name("staged")
    staged.write_bytes(b"other")
    keep_evidence(ValidationError("wrong again."), output, staged)
    assert output.with_name(NAME).read_bytes() != before


def test_it_goes_with_a_sound_model_and_only_its_own(output: Path) -> None:
    other = output.with_name("other.onnx")
    drop_evidence(other)
    assert output.with_name(NAME).exists()
    drop_evidence(output)
    assert not output.with_name(NAME).exists()
    drop_evidence(output)


@pytest.mark.parametrize("kind", ["text", "cut", "arrays", "another about", "folder"])
def test_a_file_of_the_users_stays(output: Path, kind: str) -> None:
    path = output.with_name(NAME)
    if kind == "text":
        path.write_bytes(b"notes")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        np.savez(path, **({"x": np.arange(3)} if kind == "arrays" else {"about": np.array("[1]")}))
    drop_evidence(output)
    assert path.exists()
