from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_basisprune.config import PreprocessConfig
from onnx_basisprune.data.batches import iterate_batches, load_batch
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.preprocess import Preprocessing
from onnx_basisprune.data.preprocess_options import feed_as_is, resolve_preprocessing
from onnx_basisprune.errors import ConfigError, DataError
from onnx_basisprune.planning.types import TensorSpec

SPEC = TensorSpec("input", "float32", (None, 3, 6, 6))
RAW = resolve_preprocessing(PreprocessConfig(), SPEC, "raw")


def _write_images(folder: Path, count: int) -> Dataset:
    for number in range(count):
        path = folder / str(number % 3) / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (6, 6), (number, 0, 0)).save(path)
    return open_dataset(folder)


def _decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("basisprune-decode")]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 22, 100])
def test_every_image_comes_once_in_order(tmp_path: Path, batch_size: int) -> None:
    dataset = _write_images(tmp_path, 22).draw(20, 5)
    batches = list(iterate_batches(dataset, RAW, batch_size))
    assert [len(batch.x) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(20))
    whole = load_batch(dataset, RAW, range(20))
    assert np.array_equal(np.concatenate([batch.x for batch in batches]), whole.x)
    assert np.array_equal(np.concatenate([batch.y for batch in batches]), dataset.labels)
    # The red value is the image's number, which tells its class.
    assert np.array_equal(whole.x[:, 0, 0, 0].astype(int) % 3, whole.y)
    assert not _decoding_threads()


def test_threads_end_where_iteration_is_given_up(tmp_path: Path) -> None:
    batches = iterate_batches(_write_images(tmp_path, 30), RAW, 2)
    next(batches)
    assert _decoding_threads()
    batches.close()
    assert not _decoding_threads()


def test_error_in_a_thread_reaches_the_consumer_after_the_batches_before_it(tmp_path: Path) -> None:
    dataset = _write_images(tmp_path, 30)
    Path(dataset.name_of(17)).write_bytes(b"broken")
    seen = []
    batches = iterate_batches(dataset, RAW, 5)
    seen = np.concatenate([next(batches).indices for _ in range(3)])
    with pytest.raises(DataError, match=Path(dataset.name_of(17)).name):
        next(batches)
    assert seen.tolist() == list(range(15))
    assert not _decoding_threads()


def test_only_a_few_batches_are_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _write_images(tmp_path, 60)
    decoded = []
    original = Preprocessing.fit_image

    def count_image(self: Preprocessing, pixels: np.ndarray, name: str) -> np.ndarray:
        decoded.append(name)
        return original(self, pixels, name)

    monkeypatch.setattr(Preprocessing, "fit_image", count_image)
    for number, batch in enumerate(iterate_batches(dataset, RAW, 5)):
        assert len(batch.x) == 5
        assert len(decoded) <= 5 * (number + 3)
    assert len(decoded) == 60


def test_images_without_labels_have_no_y(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6)).save(tmp_path / "a.png")
    assert load_batch(open_dataset(tmp_path), RAW, [0]).y is None


def test_floats_are_checked_against_the_model(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(5))
    dataset = open_dataset(tmp_path / "d.npz")
    as_is = feed_as_is(PreprocessConfig(), SPEC)
    batches = list(iterate_batches(dataset, as_is, 2))
    assert np.array_equal(np.concatenate([batch.x for batch in batches]), x)
    wrong = feed_as_is(PreprocessConfig(), TensorSpec("input", "float32", (None, 3, 8, 8)))
    with pytest.raises(DataError, match=r"\[\?, 3, 6, 6\]; the model expected \[\?, 3, 8, 8\]"):
        next(iterate_batches(dataset, wrong, 2))
    with pytest.raises(DataError, match=r"holds floats"):
        load_batch(dataset, RAW, [0])


def test_batch_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch size is 0"):
        next(iterate_batches(_write_images(tmp_path, 2), RAW, 0))


def test_files_that_differ_in_size_are_named_for_dynamic_models(tmp_path: Path) -> None:
    for number, size in enumerate([(6, 6), (6, 6), (7, 6)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    spec = TensorSpec("input", "float32", (None, 3, None, None))
    dynamic = resolve_preprocessing(PreprocessConfig(), spec, "raw")
    with pytest.raises(DataError, match=r"2\.png' is 6x7 where .*0\.png' is 6x6"):
        list(iterate_batches(open_dataset(tmp_path), dynamic, 3))
