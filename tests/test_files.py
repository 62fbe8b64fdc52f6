"""Results are written whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from onnx_basisprune import files
from onnx_basisprune.errors import OutputError
from onnx_basisprune.files import check_writable, write_atomically


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    write_atomically(b"abc", path, force=False)
    assert path.read_bytes() == b"abc"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"out\.bin' exists already: .* add --force"):
        write_atomically(b"new", path, force=False)
    assert path.read_bytes() == b"old"


def test_force_replaces_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    write_atomically(b"new", path, force=True)
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OutputError, match=r"can't be written: No space left on device"):
        write_atomically(b"new", path, force=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(b"new", tmp_path / "out.bin", force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file modes")
def test_the_file_gets_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomically(b"abc", tmp_path / "out.bin", force=False)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "out.bin").stat().st_mode) == 0o640


@pytest.mark.parametrize("force", [False, True])
def test_places_that_cannot_take_a_file_are_refused(tmp_path: Path, force: bool) -> None:
    with pytest.raises(OutputError, match=r"the folder .*missing' doesn't exist"):
        check_writable(tmp_path / "missing" / "out.bin", force=force)
    with pytest.raises(OutputError, match="is a folder; expected a file name"):
        check_writable(tmp_path, force=force)
    check_writable(tmp_path / "out.bin", force=force)
