"""Results are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest

from onnx_basisprune import files
from onnx_basisprune.errors import OutputError
from onnx_basisprune.files import (
    check_writable,
    count_bytes,
    hash_files,
    make_staging_folder,
    publish_files,
    write_atomically,
)


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


NAMES = ("model", "model.data")


def publish(folder: Path, content: bytes, *, force: bool) -> tuple[Path, ...]:
    """Write two files that belong together."""
    with make_staging_folder(folder / NAMES[0], force=force) as staging:
        for name in NAMES:
            (staging / name).write_bytes(content)
        return publish_files([staging / name for name in NAMES], force=force)


def list_contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_that_belong_together_are_written_together(tmp_path: Path) -> None:
    assert publish(tmp_path, b"new", force=False) == tuple(tmp_path / name for name in NAMES)
    assert sorted(tmp_path.iterdir()) == [tmp_path / name for name in NAMES]
    assert list_contents(tmp_path) == dict.fromkeys(NAMES, b"new")


@pytest.mark.parametrize("existing", [NAMES[:1], NAMES[1:], NAMES])
def test_each_of_several_files_is_kept_without_force(tmp_path: Path, existing: tuple[str, ...]) -> None:
    for name in existing:
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        publish(tmp_path, b"new", force=False)
    assert list_contents(tmp_path) == dict.fromkeys(existing, b"old")
    publish(tmp_path, b"new", force=True)
    assert list_contents(tmp_path) == dict.fromkeys(NAMES, b"new")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("existing", [(), NAMES[:1], NAMES[1:], NAMES])
def test_no_step_leaves_a_file_with_companions_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: tuple[str, ...], error: BaseException
) -> None:
    """Fail at each rename in turn: before it, the first file is never beside the other's wrong version."""
    real = Path.replace
    renames = len(existing) + len(NAMES)
    for turn in range(renames):
        for name in existing:
            (tmp_path / name).write_bytes(b"old")
        done = 0

        def replace(self: Path, target: Path, turn: int = turn) -> Path:
            nonlocal done
            found = list_contents(tmp_path)
            if NAMES[0] in found:
                assert found[NAMES[0]] == b"old"
                assert found.get(NAMES[1]) == (b"old" if NAMES[1] in existing else None)
            done += 1
            if done == turn + 1:
                raise error
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            expected = OutputError if isinstance(error, OSError) else type(error)
            with pytest.raises(expected):
                publish(tmp_path, b"new", force=True)
        assert done > turn
        assert list_contents(tmp_path) == dict.fromkeys(existing, b"old")


def test_a_failure_leaves_no_staging_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with make_staging_folder(tmp_path / "out", force=False) as staging:
            (staging / "out").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_size_and_digest_are_those_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 3)
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for path, content in zip(paths, (b"12345", b"", b"678"), strict=True):
        path.write_bytes(content)
    assert count_bytes(paths) == 8
    assert hash_files(paths) == hashlib.sha256(b"12345678").hexdigest()
    assert hash_files(paths[:1]) == hashlib.sha256(b"12345").hexdigest()
