"""The options of the library's functions as type checkers and editors see them.

Each class lists the fields of one config of `onnx_basisprune.config` but those that a function takes by itself. Paths
may be text and tuples may be lists here: what a user writes, not what a config holds.
"""

from __future__ import annotations

from os import PathLike
from typing import Literal, TypedDict

AnyPath = str | PathLike[str]


class PreprocessOptions(TypedDict, total=False):
    """How images become the model's input; see `PreprocessConfig`."""

    preprocess: str
    mean: list[float] | tuple[float, ...] | None
    std: list[float] | tuple[float, ...] | None
    scale: float | None
    resize: int | None
    crop: int | None
    color: Literal["rgb", "bgr", "gray"] | None
    layout: Literal["nchw", "nhwc"] | None


class CompressionOptions(PreprocessOptions, total=False):
    """Options of `compress`; see `CompressionConfig`."""

    output: AnyPath | None
    val: AnyPath | None
    labels: AnyPath | None
    scores: str | None
    feed: list[str] | tuple[str, ...]
    limit: int | None
    batch_size: int
    threads: int | None
    seed: int
    target_macs: float | None
    target_params: float | None
    target_latency: float | None
    max_drop: float | None
    minimize: Literal["latency", "macs", "params"]
    time_limit: float | None
    align: int | Literal["auto"]
    allow_slower: bool
    frontier: bool
    cache: bool
    latency_table: AnyPath | None
    provider: str
    benchmark_batch_size: int | None
    basis: Literal["fisher", "svd"]
    prune: Literal["basis", "channels", "double"]
    recover: Literal["none", "scale", "full"]
    recover_steps: int
    augment: Literal["none", "shift", "shift+flip"]
    exclude: list[str] | tuple[str, ...]
    min_speedup: float | None
    max_macs: int | None
    max_parameters: int | None
    max_file_bytes: int | None
    min_accuracy: float | None
    strict: bool
    rounds: int
    plan: AnyPath | None
    save_plan: AnyPath | None
    report: AnyPath | None
    html: AnyPath | None
    dry_run: bool
    force: bool


class EvaluationOptions(PreprocessOptions, total=False):
    """Options of `evaluate_model`; see `EvaluationConfig`."""

    reference: AnyPath | None
    labels: AnyPath | None
    scores: str | None
    feed: list[str] | tuple[str, ...]
    limit: int | None
    batch_size: int
    threads: int | None
    provider: str
    seed: int


class BenchmarkOptions(TypedDict, total=False):
    """Options of `benchmark_models`; see `BenchmarkConfig`."""

    batch_size: list[int] | tuple[int, ...]
    threads: list[int] | tuple[int, ...]
    provider: str
    input_shape: list[int] | tuple[int, ...] | None
    feed: list[str] | tuple[str, ...]
    rounds: int
    min_seconds: float
    max_seconds: float
    cold_start: bool
    profile: bool
    min_speedup: float | None
    strict: bool
    seed: int
