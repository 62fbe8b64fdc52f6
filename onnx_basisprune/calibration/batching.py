"""Whether a graph that was exported for a fixed batch can be run with another."""

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
