"""Calibration images that are asked for again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LoadImages = Callable[[NDArray[np.int64]], NDArray[Any]]

# All together. Small images fit, and to decode them takes a good part of a small network's step.
_KEPT_BYTES = 1 << 28


class ImageStore:
    """Images as tensors, kept once they were loaded unless they are too many or too large."""

    def __init__(self, load: LoadImages, count: int) -> None:
        """Look at the first image, to know how much memory all take.

        Args:
            load: Indices → model input `[n, ...]`.
            count: Number of images, at least 1.
        """
        self._load = load
        first = torch.from_numpy(load(np.arange(1)))
        fits = first.nbytes * count <= _KEPT_BYTES
        self._images = torch.empty((count, *first.shape[1:]), dtype=first.dtype) if fits else None
        self._known = np.zeros(count, dtype=bool)

    def fetch(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Return images `[len(indices), ...]`, for the caller to keep or change."""
        if self._images is None:
            return torch.from_numpy(self._load(indices))
        missing = indices[~self._known[indices]]
        if len(missing):
            self._images[torch.from_numpy(missing)] = torch.from_numpy(self._load(missing))
            self._known[missing] = True
        return self._images[torch.from_numpy(indices)]
