from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_basisprune.data.npz_file import read_npz
from onnx_basisprune.errors import DataError

IMAGES = np.zeros((4, 5, 6, 3), dtype=np.uint8)


def _save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, 0, 2, 1]),
        np.array([3, 0, 2, 1], dtype=np.uint8),
        np.array([[3], [0], [2], [1]], dtype=np.int32),
        np.eye(4, dtype=np.float32)[[3, 0, 2, 1]],
        np.eye(4, dtype=bool)[[3, 0, 2, 1]],
        np.eye(4, dtype=np.uint8)[[3, 0, 2, 1]],
    ],
)
def test_labels_in_every_usual_form(tmp_path: Path, y: np.ndarray) -> None:
    _, labels = read_npz(_save(tmp_path, x=IMAGES, y=y))
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [3, 0, 2, 1]


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 5, 6, 3), (4, 5, 6, 4)])
def test_images_without_labels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x, labels = read_npz(_save(tmp_path, x=np.ones(shape, dtype=np.uint8)))
    assert x.shape == shape
    assert labels is None


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "data.npz"
    np.savez(path, x=np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"no pickled objects"):
        read_npz(path)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.")
    with pytest.raises(DataError, match=r"data\.npz' can't be read"):
        read_npz(path)


def test_a_bare_npy_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", IMAGES)
    path = (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"bare \.npy"):
        read_npz(path)


@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.95])
def test_truncated_archive_is_refused(tmp_path: Path, kept: float) -> None:
    path = _save(tmp_path, x=IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(DataError, match=r"data\.npz' can't be read"):
        read_npz(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, r"no array 'x'"),
        ({"x": IMAGES[:0]}, r"at least one image"),
        ({"x": np.uint8(3)}, r"at least one image"),
        ({"x": IMAGES.astype(np.int64)}, r"x is 'int64'; expected uint8"),
        ({"x": np.zeros((4, 3, 5, 6), dtype=np.uint8)}, r"channels last: transpose"),
        ({"x": np.zeros((4, 5), dtype=np.uint8)}, r"\[4, 5\]; expected images"),
        ({"x": np.zeros(4, dtype=np.float32)}, r"model inputs"),
        ({"x": IMAGES, "y": np.arange(3)}, r"y has the shape \[3\] for 4 images"),
        ({"x": IMAGES, "y": np.array([0, 1, -1, 2])}, r"y\[2\] is -1"),
        ({"x": IMAGES, "y": np.array([0.0, 1.0, 2.0, 3.0])}, r"y is 'float64'"),
        ({"x": IMAGES, "y": np.array(["a", "b", "c", "d"])}, r"expected integer class indices"),
        ({"x": IMAGES, "y": np.array([[1, 0], [0, 1], [1, 1], [1, 0]])}, r"y\[2\] marks no one class"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(_save(tmp_path, **arrays))


def test_a_header_that_is_no_text_of_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = b"{'descr': ('|u1', \n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError, match=r"can't be read as \.npz"):
        read_npz(path)
