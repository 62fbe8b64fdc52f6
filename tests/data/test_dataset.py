from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.errors import ConfigError, DataError

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**32)


def _make(sizes: list[int], *, labelled: bool = True) -> Dataset:
    """Classes of these sizes (class numbers with gaps), images numbered in order."""
    count = sum(sizes)
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes) if labelled else None
    items = np.arange(count, dtype=np.uint8)[:, None, None]
    return Dataset(Path("x.npz"), labels, {}, items, np.arange(count))


def _ids(dataset: Dataset) -> list[int]:
    return [int(pixels[0, 0, 0]) for pixels in dataset.load(range(len(dataset)))]


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(1, 300), SEEDS)
def test_draw_is_balanced_distinct_and_reproducible(sizes: list[int], count: int, seed: int) -> None:
    dataset = _make(sizes)
    drawn = dataset.draw(count, seed)
    assert len(drawn) == min(count, len(dataset))
    assert len(set(_ids(drawn))) == len(drawn)
    assert _ids(drawn) == _ids(dataset.draw(count, seed))
    got = [int((drawn.labels == 3 * c).sum()) for c in range(len(sizes))]
    # A class may have less than the largest share minus one only where all of its images were drawn.
    assert all(n >= max(got) - 1 or n == size for n, size in zip(got, sizes, strict=True))
    first_of_class = np.cumsum([0, *sizes])
    for image, label in zip(_ids(drawn), drawn.labels, strict=True):
        assert first_of_class[label // 3] <= image < first_of_class[label // 3 + 1]


def test_draw_of_everything_changes_nothing() -> None:
    dataset = _make([3, 4])
    assert dataset.draw(7, 1) is dataset
    assert dataset.draw(99, 1) is dataset


def test_draw_mixes_the_classes_and_depends_on_the_seed() -> None:
    dataset = _make([60, 60])
    drawn = dataset.draw(40, 0)
    assert 5 <= int((drawn.labels[:20] == 0).sum()) <= 15
    assert _ids(drawn) != _ids(dataset.draw(40, 1))


def test_draw_without_labels_covers_the_whole_set() -> None:
    drawn = _make([200], labelled=False).draw(50, 0)
    assert len(set(_ids(drawn))) == 50
    assert max(_ids(drawn)) > 150
    assert drawn.labels is None


def test_draw_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 1"):
        _make([3]).draw(0, 0)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.floats(0.01, 0.99), SEEDS, st.booleans())
def test_split_is_disjoint_complete_stratified_and_reproducible(
    sizes: list[int], fraction: float, seed: int, labelled: bool
) -> None:
    dataset = _make(sizes, labelled=labelled)
    if len(dataset) < 2:
        with pytest.raises(DataError, match=r"at least 2"):
            dataset.split(fraction, seed)
        return
    rest, part = dataset.split(fraction, seed)
    assert len(part) >= 1
    assert len(rest) >= 1
    assert sorted(_ids(rest) + _ids(part)) == list(range(len(dataset)))
    assert len(part) == min(max(round(fraction * len(dataset)), 1), len(dataset) - 1)
    assert _ids(part) == _ids(dataset.split(fraction, seed)[1])
    if labelled:
        # Largest remainder keeps each class within one image of its share.
        share = len(part) / len(dataset)
        for index, size in enumerate(sizes):
            assert abs(int((part.labels == 3 * index).sum()) - share * size) < 1 + 1e-6


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_split_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"between 0 and 1"):
        _make([4]).split(fraction, 0)


def test_select_of_select_keeps_labels_and_names() -> None:
    dataset = _make([2, 2]).select([3, 0, 2]).select([2, 0])
    assert _ids(dataset) == [2, 3]
    assert dataset.labels.tolist() == [3, 3]
    assert dataset.name_of(1) == "x.npz: x[3]"


def _write_images(folder: Path, *files: str) -> None:
    for number, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (number, 0, 0)).save(path)


def test_folder_of_class_folders(tmp_path: Path) -> None:
    _write_images(tmp_path, "b/1.png", "a/2.png", "b/deep/3.png")
    dataset = open_dataset(tmp_path)
    assert dataset.class_names == {0: "a", 1: "b"}
    assert dataset.labels.tolist() == [0, 1, 1]
    assert Path(dataset.name_of(2)) == tmp_path / "b" / "deep" / "3.png"
    assert not dataset.is_preprocessed
    assert dataset.sample_shape is None
    assert _ids(dataset) == [1, 0, 2]
    assert dataset.load([0])[0].shape == (2, 3, 3)


def test_opening_decodes_nothing_and_loading_names_the_broken_file(tmp_path: Path) -> None:
    _write_images(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 2
    assert dataset.load([0])[0].shape == (2, 3, 3)
    with pytest.raises(DataError, match=r"b\.png"):
        dataset.load([0, 1])


def test_flat_folder_with_and_without_labels(tmp_path: Path) -> None:
    _write_images(tmp_path / "images", "a.png", "b.png")
    (tmp_path / "labels.json").write_text(json.dumps({"a.png": 4, "b.png": 1}))
    assert open_dataset(tmp_path / "images").labels is None
    dataset = open_dataset(tmp_path / "images", tmp_path / "labels.json")
    assert dataset.labels.tolist() == [4, 1]
    assert dataset.class_names == {}


def test_labels_override_class_folders(tmp_path: Path) -> None:
    _write_images(tmp_path / "images", "a/1.png", "b/2.png")
    (tmp_path / "labels.json").write_text(json.dumps({"a": 7, "b": 5}))
    dataset = open_dataset(tmp_path / "images", tmp_path / "labels.json")
    assert dataset.labels.tolist() == [7, 5]
    assert dataset.class_names == {7: "a", 5: "b"}


def test_labels_with_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3, 3), dtype=np.uint8), y=np.array([0, 1]))
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"--labels is for folders"):
        open_dataset(tmp_path / "d.npz", tmp_path / "labels.json")


@pytest.mark.parametrize("name", ["missing", "missing.npz"])
def test_missing_path_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"doesn't exist"):
        open_dataset(tmp_path / name)


def test_other_files_are_refused(tmp_path: Path) -> None:
    _write_images(tmp_path, "one.png")
    with pytest.raises(DataError, match=r"neither a folder nor an \.npz"):
        open_dataset(tmp_path / "one.png")


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_uint8_npz_becomes_rgb(tmp_path: Path, channels: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 5, *channels), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([1, 0]))
    dataset = open_dataset(tmp_path / "d.npz")
    pixels = dataset.load([1])[0]
    grey = np.repeat(x[1].reshape(4, 5, -1)[:, :, :1], 3, axis=2)
    assert np.array_equal(pixels, grey if channels in {(), (1,)} else x[1, ..., :3])
    assert dataset.labels.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_npz_is_fed_as_it_is(tmp_path: Path, dtype: type) -> None:
    x = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    np.savez(tmp_path / "d.npz", x=x)
    dataset = open_dataset(tmp_path / "d.npz")
    assert dataset.is_preprocessed
    assert dataset.sample_shape == (3, 4)
    loaded = dataset.load([1, 0])
    assert isinstance(loaded, np.ndarray)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, x[::-1])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_float_npz_with_values_that_are_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    x = np.zeros((3, 2))
    x[1, 1] = value
    np.savez(tmp_path / "d.npz", x=x)
    dataset = open_dataset(tmp_path / "d.npz").select([2, 1])
    assert dataset.load([0]).tolist() == [[0.0, 0.0]]
    with pytest.raises(DataError, match=r"x\[1\] holds NaN or infinite"):
        dataset.load([0, 1])


def test_label_beyond_the_models_classes_is_named() -> None:
    dataset = _make([2, 2, 1])
    dataset.check_labels(7)
    with pytest.raises(DataError, match=r"x\[4\]' has the class index 6, but the model has 6 classes"):
        dataset.check_labels(6)
    _make([2], labelled=False).check_labels(1)


def test_real_class_counts_are_kept_by_draw_and_split() -> None:
    calib = Path(__file__).resolve().parents[2] / "sample_models" / "digits" / "calib"
    drawn = open_dataset(calib).draw(200, 3)
    assert set(Counter(drawn.labels.tolist()).values()) == {20}
    rest, part = drawn.split(0.2, 3)
    assert set(Counter(part.labels.tolist()).values()) == {4}
    assert set(Counter(rest.labels.tolist()).values()) == {16}
