"""Batches for the model: one at a time, or as a stream that decodes ahead in the background."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_basisprune.data.dataset import Dataset, Indices
from onnx_basisprune.data.preprocess import Preprocessing
from onnx_basisprune.data.stand_ins import load_sound
from onnx_basisprune.errors import ConfigError, DataError, quote

# Batches that are decoded while the consumer works on one: enough to hide an uneven one.
_BATCHES_AHEAD = 2
# Pillow lets go of the interpreter's lock while it decodes; the model needs the other cores.
_MOST_WORKERS = 4


# Where in the dataset an image is, and its pixels.
Fitted = tuple[int, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as the model takes them.

    Attributes:
        indices: Where in the dataset they are, int64 `[n]`.
        x: The model's input, float32 `[n, ...]` (uint8 where the model takes pixels).
        y: Class indices, int64 `[n]`; `None` without labels.
    """

    indices: NDArray[np.int64]
    x: NDArray[Any]
    y: NDArray[np.int64] | None


def load_batch(dataset: Dataset, preprocessing: Preprocessing, indices: Indices) -> Batch:
    """Load some images as one batch.

    Args:
        dataset: Where they are.
        preprocessing: How they become the model's input.
        indices: Which, counted in the dataset; at least one.

    Returns:
        The batch, in the order of `indices`.

    Raises:
        DataError: An image can't be decoded or doesn't fit the model.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if dataset.is_preprocessed:
        return _make_batch(dataset, chosen, _load_as_is(dataset, preprocessing, chosen))
    return _stack_fitted(dataset, preprocessing, fit_images(dataset, preprocessing, chosen))


def iterate_batches(dataset: Dataset, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Go through a dataset once, in its order; the next batches are decoded while one is used.

    Memory is that of a few batches, whatever the dataset's size. The threads end with the iteration, also
    where it is given up early or fails.

    Args:
        dataset: The images.
        preprocessing: How they become the model's input.
        batch_size: Images per batch; the last may have fewer.

    Yields:
        The batches.

    Raises:
        DataError: An image can't be decoded or doesn't fit the model.
        ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"The batch size is {batch_size}; expected at least 1.")
    ranges = [
        np.arange(start, min(start + batch_size, len(dataset)), dtype=np.int64)
        for start in range(0, len(dataset), batch_size)
    ]
    if dataset.is_preprocessed:
        for indices in ranges:
            yield load_batch(dataset, preprocessing, indices)
        return
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="basisprune-decode")
    pending: deque[list[Future[list[Fitted]]]] = deque()
    try:
        for indices in ranges:
            parts = [part for part in np.array_split(indices, workers) if len(part)]
            pending.append([pool.submit(fit_images, dataset, preprocessing, part) for part in parts])
            if len(pending) > _BATCHES_AHEAD:
                yield _collect(dataset, preprocessing, pending.popleft())
        while pending:
            yield _collect(dataset, preprocessing, pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def fit_images(dataset: Dataset, preprocessing: Preprocessing, indices: NDArray[np.int64]) -> list[Fitted]:
    """Decode, resize and crop some images; another of its class stands in for one that can't be decoded.

    Returns:
        For each the index of the image that was decoded, and RGB pixels, uint8 `[height, width, 3]`.
    """
    fitted = []
    # One at a time, so that large originals don't pile up before they are made small.
    for index in indices.tolist():
        decoded, pixels = load_sound(dataset, index)
        fitted.append((decoded, preprocessing.fit_image(pixels, dataset.name_of(decoded))))
    return fitted


def _collect(
    dataset: Dataset,
    preprocessing: Preprocessing,
    futures: list[Future[list[Fitted]]],
) -> Batch:
    """Wait for a batch's images; an error in a thread is raised here."""
    return _stack_fitted(dataset, preprocessing, [item for future in futures for item in future.result()])


def _stack_fitted(dataset: Dataset, preprocessing: Preprocessing, fitted: list[Fitted]) -> Batch:
    """Return fitted images as one batch."""
    indices = np.array([index for index, _ in fitted], dtype=np.int64)
    names = [dataset.name_of(index) for index in indices]
    return _make_batch(dataset, indices, preprocessing.stack_fitted([pixels for _, pixels in fitted], names))


def _load_as_is(dataset: Dataset, preprocessing: Preprocessing, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a float source's items, checked against the model's input."""
    check_sample_shape(dataset, preprocessing)
    return np.asarray(dataset.load(indices), dtype=np.float32)


def check_sample_shape(dataset: Dataset, preprocessing: Preprocessing) -> None:
    """Check that a float source's items have the model's input shape.

    Args:
        dataset: A preprocessed dataset.
        preprocessing: What `feed_as_is` returned.

    Raises:
        DataError: They haven't.
    """
    shape = dataset.sample_shape or ()
    if preprocessing.name != "none":
        raise DataError(f"{quote(dataset.source)} holds floats, which can't be preprocessed; expected uint8 images.")
    preprocessing.check_shape((len(dataset), *shape), str(dataset.source))


def _make_batch(dataset: Dataset, indices: NDArray[np.int64], x: NDArray[Any]) -> Batch:
    """Add the labels."""
    return Batch(indices, x, None if dataset.labels is None else dataset.labels[indices])
