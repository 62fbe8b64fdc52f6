"""onnxsim's structured pruning: the peer's row of `peers.py`.

Of its criteria that of Wanda (weight norm times activation norm, over all calibration images) is used: on ResNet-20 it
was far ahead of the l2 and l1 norms. All layers lose the same share, since `global_sparsity` leaves residual groups
alone and was no better. The share is found by bisection; what it leaves doesn't depend on the criterion, so that the
plain norm serves for the search. `apply_pruning_finetune` refits only Gemm and MatMul, and changed nothing here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

PROBES = 7
CLOSE = 0.004


def prune_model(
    model: ModelProto, x: NDArray[Any], target: float, measure_kept: Callable[[ModelProto], float]
) -> ModelProto:
    """Return the model cut to a share of its MACs, as nearly as its steps allow.

    Args:
        model: The network.
        x: Calibration images `[n, 3, 32, 32]`.
        target: The share.
        measure_kept: Returns the share that a cut model kept.
    """
    pruning = importlib.import_module("onnxsim.pruning")
    low, high = 0.0, 1.0
    tried: dict[float, float] = {}
    # MACs fall nearly in proportion: the first guess is close.
    sparsity = 1.0 - target
    for _ in range(PROBES):
        kept = measure_kept(pruning.apply_structured_pruning(model, sparsity=sparsity))
        tried[sparsity] = abs(kept - target)
        if tried[sparsity] < CLOSE:
            break
        low, high = (sparsity, high) if kept > target else (low, sparsity)
        sparsity = (low + high) / 2
    batches = [{model.graph.input[0].name: part} for part in np.array_split(x, 8)]
    best = min(tried, key=lambda value: tried[value])
    pruned: ModelProto = pruning.apply_structured_wanda_pruning(model, calibration_data=batches, sparsity=best)
    return pruned
