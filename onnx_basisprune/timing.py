"""Time a compressed model against its original, as a compression run does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.progress import Progress, follow_fraction
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, PairedLatency, benchmark_pair


def time_pair(
    compressed: Path,
    image_shape: Sequence[int],
    config: CompressionConfig,
    max_seconds: float = BenchmarkSettings.max_seconds,
    progress: Progress | None = None,
) -> PairedLatency:
    """Time a compressed model against the original.

    Args:
        compressed: Its file.
        image_shape: Of one image, without the batch.
        config: The original and what it is timed on.
        max_seconds: When to stop.
        progress: Told how far it is.
    """
    settings = BenchmarkSettings(
        threads=config.threads,
        provider=config.provider,
        min_seconds=min(BenchmarkSettings.min_seconds, max_seconds),
        max_seconds=max_seconds,
        seed=config.seed,
        feed=config.feed,
    )
    return benchmark_pair(
        config.model,
        compressed,
        batch_size=config.benchmark_batch_size,
        image_shape=image_shape,
        settings=settings,
        progress=None if progress is None else follow_fraction(progress),
    )
