"""The real tool on a model of random weights: half of its MACs must go, and what is written must run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

import onnx_basisprune
from onnx_basisprune import pipeline
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.runtime.session import Session
from onnx_basisprune.timing import time_pair

KINDS = ("double", "channels")
TARGET = 0.5
IMAGES, HELD_BACK = 4, 2
BATCH_SIZES = (1, 3)
# Latency isn't what is looked at here, so no plan asks for it either (`allow_slower`).
BENCHMARK_SECONDS = 0.1


def compress_model(path: Path, size: int) -> dict[str, float]:
    """Compress a model with either way to remove channels, by the tool as users run it but for a shorter benchmark.

    Args:
        path: An ONNX file of one input `[batch, 3, size, size]`.
        size: Height and width.

    Returns:
        The share of the MACs that is left in the written file, counted there, by kind of pruning.
    """
    pipeline.time_pair = partial(time_pair, max_seconds=BENCHMARK_SECONDS)  # type: ignore[assignment]
    rng = np.random.default_rng(2)
    for name, count in (("calib", IMAGES), ("val", HELD_BACK)):
        np.savez(path.with_name(f"{name}.npz"), x=rng.standard_normal((count, 3, size, size), dtype=np.float32))
    return {kind: compress_once(path, size, kind) for kind in KINDS}


def compress_once(path: Path, size: int, kind: str) -> float:
    """Compress with one kind of pruning, hold the written file to what was asked for, and return its share of MACs."""
    output = path.with_name(f"{kind}.onnx")
    report = onnx_basisprune.compress(
        path,
        data=path.with_name("calib.npz"),
        val=path.with_name("val.npz"),
        output=output,
        target_macs=TARGET,
        prune=kind,
        recover="none",
        allow_slower=True,
        threads=1,
        force=True,
    )
    missed = [gate for gate in report.gates if not gate.passed]
    assert report.gates, "there is no gate"
    assert not missed, f"--prune {kind} reached {missed[0].reached:.3f} of the MACs"
    written = load_model(output)
    name = written.graph.input[0].name
    share = measure_cost(written, {name: (1, 3, size, size)}).macs / report.original.macs
    assert share <= TARGET, f"--prune {kind} wrote a model with {share:.3f} of the MACs"
    del written
    session = Session(output, threads=1)
    for batch in BATCH_SIZES:
        x = np.random.default_rng(batch).standard_normal((batch, 3, size, size), dtype=np.float32)
        result = session.run({name: x})[0]
        assert len(result) == batch, f"--prune {kind} gives {result.shape} for a batch of {batch}"
        assert np.isfinite(result).all(), f"--prune {kind} wrote a model whose output isn't finite"
    for file in path.parent.glob(f"{kind}.onnx*"):
        file.unlink()
    return share
