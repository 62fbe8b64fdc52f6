"""Images that can't be decoded when their turn comes: others of their class stand in, up to one in a hundred."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data import decoding, npz_file
from onnx_basisprune.data.batches import iterate_batches
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.decoding import decode_image
from onnx_basisprune.data.npz_file import read_npz
from onnx_basisprune.data.preprocess_options import resolve_preprocessing
from onnx_basisprune.errors import DataError
from onnx_basisprune.planning.types import TensorSpec

RAW = resolve_preprocessing(PreprocessConfig(), TensorSpec("x", "float32", (None, 3, 2, 2)), "raw")


def open_folder(folder: Path, count: int) -> Dataset:
    """Two classes in turn; each image's grey value is its class plus twice its number."""
    for index in range(count):
        path = folder / "ab"[index % 2] / f"{index:04}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (index % 256,) * 3).save(path)
    return open_dataset(folder)


def read_all(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Return all grey values and labels."""
    batches = list(iterate_batches(dataset, RAW, 16))
    labels = [int(label) for batch in batches if batch.y is not None for label in batch.y]
    return [int(value) for batch in batches for value in batch.x[:, 0, 0, 0]], labels


def test_an_image_that_vanishes_between_two_passes_is_replaced_by_its_class(tmp_path: Path) -> None:
    dataset = open_folder(tmp_path, 200)
    before, labels = read_all(dataset)
    assert (len(before), dataset.broken.describe()) == (200, "")
    (tmp_path / "a" / "0004.png").unlink()
    (tmp_path / "b" / "0199.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    after, labels_after = read_all(dataset)
    assert labels_after == labels
    changed = {before[at]: after[at] for at in range(200) if before[at] != after[at]}
    assert changed == {4: 6, 199: 1}  # the next of the class; from the start again at the end
    assert read_all(dataset)[0] == after
    assert dataset.broken.describe().startswith("2 images were left out")
    assert "0004.png" in dataset.broken.describe() or "0199.png" in dataset.broken.describe()


def test_parts_of_a_data_set_count_together(tmp_path: Path) -> None:
    dataset = open_folder(tmp_path, 200)
    one, other = dataset.split(0.5, seed=0)
    for name in ("a/0000.png", "b/0001.png", "a/0002.png"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="3 images can't be used, more than 1% of them"):
        read_all(one), read_all(other)


def test_a_handful_of_images_allows_none(tmp_path: Path) -> None:
    dataset = open_folder(tmp_path, 99)
    (tmp_path / "a" / "0000.png").unlink()
    with pytest.raises(DataError, match=r"0000\.png"):
        read_all(dataset)


def test_a_class_of_nothing_else_is_an_error(tmp_path: Path) -> None:
    dataset = open_folder(tmp_path, 200).select([0, 150, 151])
    (tmp_path / "a" / "0000.png").unlink()
    with pytest.raises(DataError, match="all others of its class"):
        read_all(dataset)


def test_an_image_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(path)  # some kilobytes, 243 MB decoded
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"9000 x 9000 pixels; expected at most 67,108,864"):
        decode_image(path)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(DataError, match="10 x 10 pixels"):
        decode_image(path)


def test_an_archive_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros((100, 32, 32, 3), dtype=np.uint8))
    assert path.stat().st_size < 2000
    assert read_npz(path)[0].shape == (100, 32, 32, 3)
    monkeypatch.setattr(npz_file, "LARGEST_ARRAYS", 300_000)
    with pytest.raises(DataError, match="bytes unpacked"):
        read_npz(path)
