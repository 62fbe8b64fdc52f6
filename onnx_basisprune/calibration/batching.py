"""Graphs that were exported for a fixed batch: whether they can be run with another, and how to where they can't."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.errors import BasispruneError
from onnx_basisprune.planning.types import Head

_TOLERANCE = 1e-4


def can_batch(executor: Executor, input_name: str, head: Head, images: NDArray[Any], fixed_batch: int) -> bool:
    """Try a fixed-batch graph with twice its batch: each image must get the same logits as before.

    Shapes that an exporter wrote down as constants may fail, or mix images.

    Args:
        executor: Runs the graph.
        input_name: Its image input.
        head: Where the logits are.
        images: At least one image as model input.
        fixed_batch: The batch that the graph was exported for.
    """
    doubled = np.resize(images, (2 * fixed_batch, *images.shape[1:]))
    # Mirrored, so that the halves differ however few images there are: what mixes them gets noticed.
    doubled[fixed_batch:] = doubled[fixed_batch:, ..., ::-1].copy()
    x = torch.from_numpy(doubled)
    with torch.no_grad():
        halves = [
            executor.run({input_name: half}, [head.logits])[head.logits] for half in (x[:fixed_batch], x[fixed_batch:])
        ]
        try:
            found = executor.run({input_name: x}, [head.logits])[head.logits]
        except BasispruneError:
            return False
    expected = torch.cat(halves)
    if found.shape != expected.shape:
        return False
    error = (found - expected).abs().max()
    return bool(error <= _TOLERANCE * expected.abs().max())


def fill_batch(x: torch.Tensor, fixed_batch: int | None) -> torch.Tensor:
    """Return a batch filled up to the size that a graph insists on, by repeating its last image.

    Args:
        x: `[n, ...]`, at least one image.
        fixed_batch: The size, at least `n`; `None` for a graph that takes any.
    """
    if fixed_batch is None or len(x) == fixed_batch:
        return x
    return torch.cat([x, x[-1:].expand(fixed_batch - len(x), *x.shape[1:])])
