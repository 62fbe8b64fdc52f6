"""Text files of strangers: pipes, devices and endless ones are errors, wherever one is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import onnx_basisprune.documents as documents
from onnx_basisprune.data.dataset import open_dataset
from onnx_basisprune.data.decoding import decode_image
from onnx_basisprune.data.label_file import read_label_file
from onnx_basisprune.data.npz_file import read_npz
from onnx_basisprune.documents import read_document
from onnx_basisprune.errors import BasispruneError
from onnx_basisprune.plan_file import read_plan
from onnx_basisprune.reporting.read_report import read_report
from onnx_basisprune.runtime.latency_table import read_pinned_table

READERS = [decode_image, read_label_file, read_npz, read_plan, read_report, read_pinned_table]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names on this system")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_text_is_read_with_and_without_a_mark(tmp_path: Path) -> None:
    for content in ("ü\n".encode(), "ü\n".encode("utf-8-sig")):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_document(tmp_path / "a.txt") == "ü\n"
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        read_document(tmp_path / "a.txt")


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_that_nobody_writes_to_is_no_hang(read: Callable[[Path], object], pipe: Path) -> None:
    with pytest.raises(BasispruneError) as caught:
        read(pipe)
    assert str(pipe) in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_devices_are_refused(read: Callable[[Path], object]) -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no such device on this system")
    with pytest.raises(BasispruneError):
        read(Path("/dev/zero"))


def test_no_more_is_read_than_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 2**20)
    (tmp_path / "a.json").write_bytes(b" " * 2**20 + b"{}")
    with pytest.raises(BasispruneError, match="more than 1 MiB"):
        read_label_file(tmp_path / "a.json")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=r"directory|Permission"):
            read_document(path)


def test_a_pipe_among_the_images_is_read_as_nothing(pipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pipe.rename(folder / "a.png")
    assert len(open_dataset(folder).hash_content()) == 64
