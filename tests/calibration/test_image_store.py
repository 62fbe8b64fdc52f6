"""Images that are kept, and images that are too large for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import onnx_basisprune.calibration.image_store as image_store
from onnx_basisprune.calibration.image_store import ImageStore

IMAGES = np.random.default_rng(0).standard_normal((9, 3, 4, 4)).astype(np.float32)


class Loader:
    """Counts how often each image is loaded."""

    def __init__(self) -> None:
        self.loaded = np.zeros(len(IMAGES), dtype=int)

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        self.loaded[indices] += 1
        return IMAGES[indices].copy()


@pytest.mark.parametrize(("limit", "times"), [(IMAGES.nbytes, 1), (IMAGES.nbytes - 1, 4)])
def test_loads_small_images_once(monkeypatch: pytest.MonkeyPatch, limit: int, times: int) -> None:
    monkeypatch.setattr(image_store, "_KEPT_BYTES", limit)
    load = Loader()
    store = ImageStore(load, len(IMAGES))
    for indices in ([3, 1], [1, 2, 3], [8], [1, 8], [1, 0]):
        x = store.fetch(np.array(indices))
        assert torch.equal(x, torch.from_numpy(IMAGES[indices]))
        # What a caller does to its images doesn't come back.
        x.zero_()
    assert load.loaded[1] == times


def test_keeps_the_type() -> None:
    store = ImageStore((IMAGES > 0).astype(np.uint8).__getitem__, len(IMAGES))
    assert store.fetch(np.arange(2)).dtype == torch.uint8
