"""Decode an image, or where that isn't possible another of its class in its place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.data.dataset import Dataset
from onnx_basisprune.errors import DataError, quote


def load_sound(dataset: Dataset, index: int) -> tuple[int, NDArray[np.uint8]]:
    """Decode an image, or where that isn't possible the next of its class; the same one in every pass.

    Args:
        dataset: Images, not floats; those that can't be decoded are counted in `dataset.broken`.
        index: Which, counted in this set.

    Returns:
        The index of the image that was decoded, and its pixels, uint8 `[height, width, 3]`.

    Raises:
        DataError: Too many images can't be decoded, or none of the class can.
    """
    for candidate in _list_candidates(dataset, index):
        name = dataset.name_of(candidate)
        if name in dataset.broken:
            continue
        try:
            return candidate, np.asarray(dataset.load([candidate])[0], dtype=np.uint8)
        except DataError as error:
            dataset.broken.add(name, error)
    raise DataError(f"{quote(dataset.name_of(index))} and all others of its class can't be decoded: replace them.")


def _list_candidates(dataset: Dataset, index: int) -> Iterator[int]:
    """Yield an index, then those after it with the same label, from the start again at the end."""
    yield index
    order = np.roll(np.arange(len(dataset)), -index - 1)[:-1]
    if dataset.labels is not None:
        order = order[dataset.labels[order] == dataset.labels[index]]
    yield from order.tolist()
