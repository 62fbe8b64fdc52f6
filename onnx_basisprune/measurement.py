"""What `evaluate` and `benchmark` do: accuracy on images, latency of one model or of two in turns."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onnx_basisprune.benchmark_report import BenchmarkReport, BenchmarkRun, ModelTiming, NodeTiming
from onnx_basisprune.data.dataset import Dataset, open_dataset
from onnx_basisprune.data.detection import Detection
from onnx_basisprune.errors import DataError, quote
from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.measurement_config import BenchmarkConfig, EvaluationConfig
from onnx_basisprune.node_table import Profile, tabulate_nodes
from onnx_basisprune.node_times import NodeNames
from onnx_basisprune.opening import Images, Subject, check_file, open_images, open_subject, predict_all, probe_head
from onnx_basisprune.out_of_memory import suggest_batch_size
from onnx_basisprune.progress import Progress, Silence, follow_fraction
from onnx_basisprune.reporting.gates import judge_benchmark
from onnx_basisprune.results import EvaluationReport, Latency
from onnx_basisprune.runtime.baseline import check_above_chance
from onnx_basisprune.runtime.benchmark import BenchmarkSettings, PairedLatency, benchmark_pair
from onnx_basisprune.runtime.cold_start import measure_cold_start
from onnx_basisprune.runtime.environment import describe_environment
from onnx_basisprune.runtime.evaluation import compare, summarize_accuracy
from onnx_basisprune.runtime.fed_inputs import list_free, resolve_feeds
from onnx_basisprune.runtime.profiling import profile_nodes
from onnx_basisprune.runtime.random_input import draw_input

# A profile's runs: for about so long, but enough for a median, and not more than a small file holds.
_PROFILE_SECONDS = 2.0
_FEWEST_PROFILE_RUNS, _MOST_PROFILE_RUNS = 5, 50


def evaluate_model(config: EvaluationConfig, progress: Progress | None = None) -> EvaluationReport:
    """Measure how often a classifier is right on images, alone or beside the model that it was made from.

    Args:
        config: Every option.
        progress: Told what goes on; the default is silence.

    Returns:
        Accuracy with its interval; with a reference also the agreement and the drop.

    Raises:
        BasispruneError: A model or the images can't be used, or there are neither labels nor a reference.
    """
    with suggest_batch_size(config.batch_size):
        return _evaluate_model(config, progress or Silence())


def _evaluate_model(config: EvaluationConfig, progress: Progress) -> EvaluationReport:
    """Do what `evaluate_model` says."""
    dataset = open_dataset(config.data, config.labels)
    if config.limit is not None:
        dataset = dataset.draw(config.limit, config.seed)
    if dataset.labels is None and config.reference is None:
        raise DataError(
            f"{quote(config.data)} has no labels, so there is no accuracy to measure: sort the images into one "
            "folder per class, give --labels, or compare with another model by --reference."
        )
    subject = open_subject(config.model, config.threads, config.provider, config.scores, config.feed)
    # The preprocessing is a property of the original model: a worse one might do better with a wrong guess.
    first = subject
    if config.reference is not None:
        first = open_subject(config.reference, config.threads, config.provider, config.scores, config.feed)
    first, images, detection = _fit_images(first, dataset, config, progress)
    warnings = list(detection.warnings)
    reference = None
    if config.reference is not None:
        reference = predict_all(first, images, config.batch_size, "evaluating the reference", progress)
        subject, images = _follow_reference(subject, first, images, detection, config)
    else:
        subject = first
    predictions = predict_all(subject, images, config.batch_size, "evaluating", progress)
    problem = check_above_chance(reference or predictions)
    if problem is not None:
        warnings.append(problem)
        progress.warn(problem)
    if images.dataset.broken.describe():
        warnings.append(images.dataset.broken.describe())
        progress.warn(warnings[-1])
    return EvaluationReport(
        config=_describe_options(config),
        environment=describe_environment(config.threads, config.provider),
        preprocess=detection.preset,
        accuracy=summarize_accuracy(predictions, reference),
        reference=None if reference is None else summarize_accuracy(reference),
        drop_pp=None if reference is None else compare(reference, predictions),
        warnings=tuple(warnings),
    )


def _fit_images(
    subject: Subject, dataset: Dataset, config: EvaluationConfig, progress: Progress
) -> tuple[Subject, Images, Detection]:
    """Find the preprocessing for a model and settle its head."""
    images, detection = open_images(subject, dataset, config, progress, config.seed)
    return probe_head(subject, images), images, detection


def _follow_reference(
    subject: Subject, reference: Subject, images: Images, detection: Detection, config: EvaluationConfig
) -> tuple[Subject, Images]:
    """Give the model the reference's preprocessing, fitted to its own input where that differs."""
    if (subject.input.dtype, subject.input.shape) == (reference.input.dtype, reference.input.shape):
        return probe_head(subject, images), images
    preset = config.preprocess if images.dataset.is_preprocessed else detection.preset
    subject, images, _ = _fit_images(subject, images.dataset, replace(config, preprocess=preset), Silence())
    return subject, images


def benchmark_models(config: BenchmarkConfig, progress: Progress | None = None) -> BenchmarkReport:
    """Time one model, or two in turns, at every batch size and number of threads asked for.

    Args:
        config: Every option.
        progress: Told what goes on; the default is silence.

    Returns:
        One run per combination, batch sizes outermost.

    Raises:
        BasispruneError: A model can't be loaded or run, or an option doesn't fit it.
    """
    progress = progress or Silence()
    for path in filter(None, (config.a, config.b)):
        check_file(path)
    shape = config.input_shape
    batch_sizes: tuple[int | None, ...] = config.batch_size or (shape[0] if shape else None,)
    threads: tuple[int | None, ...] = config.threads or (None,)
    runs = tuple(_time_models(config, size, count, progress) for size in batch_sizes for count in threads)
    report = BenchmarkReport(_describe_options(config), describe_environment(None, config.provider), runs)
    return replace(report, gates=judge_benchmark(report, config.min_speedup, strict=config.strict))


def _time_models(
    config: BenchmarkConfig, batch_size: int | None, threads: int | None, progress: Progress
) -> BenchmarkRun:
    """Time the models at one batch size and number of threads."""
    stage = ", ".join(
        ["benchmark"]
        + ([] if batch_size is None else [f"batch {batch_size}"])
        + ([] if threads is None else [f"{threads} thread{'s' * (threads != 1)}"])
    )
    progress.start(stage, 1.0)
    latency = benchmark_pair(
        config.a,
        config.b,
        batch_size=batch_size,
        image_shape=_get_image_shape(config),
        settings=BenchmarkSettings(
            threads=threads,
            min_rounds=config.rounds,
            min_seconds=config.min_seconds,
            max_seconds=config.max_seconds,
            seed=config.seed,
            provider=config.provider,
            feed=config.feed,
        ),
        progress=follow_fraction(progress),
    )
    for warning in latency.warnings:
        progress.warn(f"{stage}: {warning}")
    timings = _list_timings(latency)
    models = [path for path in (config.a, config.b) if path is not None]
    nodes: tuple[NodeTiming, ...] = ()
    if config.profile:
        profiles = []
        for path, timing in zip(models, timings, strict=True):
            progress.start(f"profile of {path.name}")
            profiles.append(_profile_model(path, timing.latency, threads, config))
        nodes = tabulate_nodes(*profiles)
    if config.cold_start:
        for position, path in enumerate(models):
            progress.start(f"cold start of {path.name}")
            timings[position] = _add_cold_start(timings[position], path, threads, config)
    b = timings[1] if len(timings) > 1 else None
    return BenchmarkRun(latency.a.batch_size, threads, timings[0], b, latency.speedup, latency.warnings, nodes)


def _get_image_shape(config: BenchmarkConfig) -> tuple[int, ...] | None:
    """Return the shape of one image, `None` where the model knows it."""
    return None if config.input_shape is None else config.input_shape[1:]


def _list_timings(latency: PairedLatency) -> list[ModelTiming]:
    """Return the figures of warm runs, one entry per model."""
    timings = [ModelTiming(latency.a, latency.throughput_a)]
    if latency.b is not None and latency.throughput_b is not None:
        timings.append(ModelTiming(latency.b, latency.throughput_b))
    return timings


def _profile_model(path: Path, latency: Latency, threads: int | None, config: BenchmarkConfig) -> Profile:
    """Find out how much of a model's latency each of its nodes takes."""
    model = load_model(path)
    program = extract_program(model)
    inputs = list_free(program.inputs, resolve_feeds(config.feed, program.inputs))
    feeds = draw_input(inputs, latency.batch_size, _get_image_shape(config), config.seed)
    runs = round(1e3 * _PROFILE_SECONDS / latency.median_ms)
    times = profile_nodes(
        path,
        feeds,
        threads=threads,
        provider=config.provider,
        runs=min(max(runs, _FEWEST_PROFILE_RUNS), _MOST_PROFILE_RUNS),
        feed=config.feed,
    )
    return Profile(NodeNames.of(program, [node.name for node in model.graph.node]), times, latency.median_ms)


def _add_cold_start(timing: ModelTiming, model: Path, threads: int | None, config: BenchmarkConfig) -> ModelTiming:
    """Measure load time, first run and memory in a fresh process."""
    cold = measure_cold_start(
        model,
        batch_size=timing.latency.batch_size,
        image_shape=_get_image_shape(config),
        threads=threads,
        provider=config.provider,
        feed=config.feed,
    )
    return replace(timing, **asdict(cold))


def _describe_options(config: EvaluationConfig | BenchmarkConfig) -> dict[str, Any]:
    """Return the options as JSON-ready values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
