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
    once = torch.from_numpy(np.resize(images, (fixed_batch, *images.shape[1:])))
    # Reversed, so that mixed up images are noticed.
    twice = torch.cat([once, once.flip(0)])
    with torch.no_grad():
        expected = executor.run({input_name: once}, [head.logits])[head.logits]
        try:
            found = executor.run({input_name: twice}, [head.logits])[head.logits]
        except BasispruneError:
            return False
    if found.shape != (2 * fixed_batch, *expected.shape[1:]):
        return False
    error = (found - torch.cat([expected, expected.flip(0)])).abs().max()
    return bool(error <= _TOLERANCE * expected.abs().max())
