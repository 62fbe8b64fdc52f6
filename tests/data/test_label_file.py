from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnx_basisprune.data.label_file import match_labels, name_classes, read_label_file
from onnx_basisprune.errors import DataError


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_most_specific_name_wins(tmp_path: Path) -> None:
    entries = {"cat": 1, "cat/odd/x.png": 2, "y.png": 3, "odd": 4, "cat/deep": 5}
    files = ["cat/a.png", "cat/odd/x.png", "cat/y.png", "cat/odd/z.png", "cat/deep/odd/w.png"]
    assert match_labels(read_label_file(_write(tmp_path, json.dumps(entries))), files, Path("l")).tolist() == [
        1,
        2,
        3,
        4,
        4,
    ]


def test_labels_are_int64() -> None:
    assert match_labels({"a.png": 7}, ["a.png"], Path("labels.json")).dtype == np.int64


def test_missing_entries_are_counted_and_the_first_named() -> None:
    with pytest.raises(DataError, match=r"no entry for 2 of 3 images, the first is 'b\.png'"):
        match_labels({"a.png": 0}, ["a.png", "b.png", "c.png"], Path("labels.json"))


def test_a_class_is_named_by_its_only_folder() -> None:
    entries = {"cat": 3, "dog": 5, "wolf": 5, "cat/a.png": 4, "b.png": 6, "nowhere": 7, "big/owl": 8}
    files = ["cat/a.png", "cat/c.png", "dog/b.png", "wolf/d.png", "big/owl/e.png"]
    assert name_classes(entries, files) == {3: "cat", 8: "big/owl"}


@pytest.mark.parametrize("value", ["true", "1.0", '"3"', "-1", "null", "[1]", "99999999999"])
def test_values_that_are_no_class_index_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=r"'cat' has the value .*expected a class index"):
        read_label_file(_write(tmp_path, f'{{"cat": {value}}}'))


@pytest.mark.parametrize("text", ["{", "", "{'cat': 1}", "[" * 100_000, '{"a": 1}\n{"b": 2}'])
def test_invalid_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"labels\.json' isn't valid JSON"):
        read_label_file(_write(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match=r"isn't valid JSON"):
        read_label_file(path)


def test_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"JSON list; expected an object"):
        read_label_file(_write(tmp_path, "[1, 2]"))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json' can't be read"):
        read_label_file(tmp_path / "gone.json")
