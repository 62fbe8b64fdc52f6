"""The straight path of a compression run; the only module that knows its order.

load → data → baseline → normalise → statistics → bases → scores → plan → rewrite → refit → recover → validate → save →
measure → report → gates
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import onnx_basisprune
from onnx_basisprune.assessment import Calibration
from onnx_basisprune.calibration.batching import can_batch
from onnx_basisprune.calibration.executor import Executor
from onnx_basisprune.calibration.recovery import Distillation, RecoverySettings
from onnx_basisprune.choosing import choose_plan
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.cutting import cut_network
from onnx_basisprune.destination import check_data_files, choose_output
from onnx_basisprune.errors import DataError
from onnx_basisprune.files import count_bytes, hash_files, make_staging_folder, publish_files, write_atomically
from onnx_basisprune.graph.cost import measure_cost
from onnx_basisprune.graph.head import find_classifier
from onnx_basisprune.graph.model_io import save_model
from onnx_basisprune.graph.normalize import normalize_model
from onnx_basisprune.graph.program import extract_program
from onnx_basisprune.graph.rewrite import PairNames, replace_initializers, set_metadata
from onnx_basisprune.graph.tensors import drop_weights
from onnx_basisprune.network import Network, read_network
from onnx_basisprune.opening import Images, Subject, open_data, open_subject, predict_all
from onnx_basisprune.progress import Progress, Recorder, Silence
from onnx_basisprune.refitting import refit_network
from onnx_basisprune.reporting.render_json import render_json
from onnx_basisprune.results import CompressionReport, ModelMeasurement, RecoveryReport
from onnx_basisprune.runtime.baseline import check_above_chance
from onnx_basisprune.runtime.environment import describe_environment
from onnx_basisprune.runtime.evaluation import Predictions, compare, summarize_accuracy
from onnx_basisprune.runtime.session import Session
from onnx_basisprune.summary import (
    describe_config,
    describe_metadata,
    judge_gates,
    summarize_groups,
    summarize_layers,
)
from onnx_basisprune.timing import time_pair
from onnx_basisprune.validation import validate_model

if TYPE_CHECKING:
    from onnx import ModelProto

# Images per step of the recovery; large ones cost more and teach more each.
_RECOVERY_BATCH = 128
_RECOVERY_BATCH_LARGE = 32
_LARGE_IMAGE = 3 * 64 * 64


def compress(config: CompressionConfig, progress: Progress | None = None) -> CompressionReport:
    """Compress a trained ONNX classifier.

    Args:
        config: Every option of the run.
        progress: Told what goes on; the default is silence.

    Returns:
        The report; `report.config["output"]` is the file that was written, `None` in a dry run. Where the target
        couldn't be reached, the best valid model is written all the same and a gate says so.

    Raises:
        BasispruneError: The model, the images, an option or the output can't be used; nothing is written then.
    """
    recorder = Recorder(progress or Silence())
    output = choose_output(config)
    recorder.start("opening")
    subject = open_subject(config.model, config.threads, config.provider)
    subject, images, validation = open_data(subject, config, recorder)
    check_data_files(output, subject.files, config)
    baseline = measure_baseline(subject, validation, config, recorder)
    images.dataset.check_labels(baseline.class_count)
    sample = validation.load(np.arange(min(7, len(validation))))
    network = read_network(normalize_model(subject.model), (1, *sample.shape[1:]), config.exclude)
    original = measure_original(network, subject, baseline)
    # The normalised copy has all that is needed of them, and they may take half of the memory.
    subject = replace(subject, model=drop_weights(subject.model))
    fixed_batch = find_fixed_batch(network, subject, sample)
    calibration = Calibration(
        subject.head,
        lambda: images.stream(fixed_batch or config.batch_size),
        len(images),
        config.seed,
        fixed_batch,
    )
    prospect, planned, timing = choose_plan(network, subject, original, calibration, config, recorder)
    components = prospect.assessment.components
    report = CompressionReport(
        config=describe_config(config, output, images.preprocessing.describe()),
        environment={**describe_environment(config.threads, config.provider), "seed": config.seed},
        original=original,
        compressed=ModelMeasurement(
            planned.forecast.macs, planned.forecast.parameters, None, network.cost.uncounted_ops
        ),
        speedup=None,
        drop_pp=None,
        layers=summarize_layers(network, planned, {name: len(item) for name, item in components.items()}),
        groups=summarize_groups(network.channels.groups, prospect.list_gone(planned)),
        gates=(),
        recovery=None,
        timings={},
        timing=timing,
    )
    if output is not None:
        recorder.start("rewriting")
        model, pairs = cut_network(prospect.network, prospect.assessment, planned.plan)
        model = refit_network(
            network, model, pairs, prospect.list_gone(planned), calibration, images.load, config, recorder
        )
        model, recovery = recover(network, model, pairs, calibration, images, config, recorder)
        set_metadata(model, describe_metadata(config, onnx_basisprune.__version__, original, report.compressed))
        recorder.start("validating")
        with make_staging_folder(output, force=config.force) as folder:
            staged = save_model(model, folder / output.name, external_data=len(subject.files) > 1)
            validate_model(model, staged[0], subject.model, sample, report.compressed)
            files = publish_files(staged, force=config.force)
        report = replace(report, recovery=recovery)
        report = measure_result(report, files, subject, baseline, validation, config, recorder)
    return finish_report(report, network, config, recorder)


def measure_original(network: Network, subject: Subject, baseline: Predictions) -> ModelMeasurement:
    """Return the original's size and accuracy; parameters are those of the file, before anything was folded."""
    return ModelMeasurement(
        network.cost.macs,
        measure_cost(subject.model, network.input_shapes).parameters,
        count_bytes(subject.files),
        network.cost.uncounted_ops,
        accuracy=summarize_accuracy(baseline),
    )


def measure_baseline(
    subject: Subject, validation: Images, config: CompressionConfig, recorder: Recorder
) -> Predictions:
    """Evaluate the original model; refuse to go on where it is no better than guessing.

    Raises:
        DataError: The accuracy is near chance and the preprocessing wasn't set by `--preprocess`.
    """
    baseline = predict_all(subject, validation, config.batch_size, "baseline", recorder)
    problem = check_above_chance(baseline)
    if problem is not None:
        if config.preprocess == "auto":
            raise DataError(problem)
        recorder.warn(problem)
    return baseline


def find_fixed_batch(network: Network, subject: Subject, sample: NDArray[Any]) -> int | None:
    """Return the only batch size that PyTorch can run the graph with, `None` where any will do."""
    fixed = subject.session.fixed_batch
    if fixed is None:
        return None
    executor, name = Executor(network.program), network.program.inputs[0].name
    return None if can_batch(executor, name, subject.head, sample, fixed) else fixed


def recover(
    network: Network,
    model: ModelProto,
    pairs: Mapping[str, PairNames],
    calibration: Calibration,
    images: Images,
    config: CompressionConfig,
    recorder: Recorder,
) -> tuple[ModelProto, RecoveryReport | None]:
    """Tune the weights that `--recover` names, unless nothing was cut or nobody wants it."""
    untouched = not pairs and model.graph == network.model.graph
    if config.recover == "none" or config.recover_steps == 0 or untouched:
        return model, None
    student = extract_program(model)
    large = np.prod([size or 1 for size in images.load(np.arange(1)).shape]) > _LARGE_IMAGE
    settings = RecoverySettings(
        steps=config.recover_steps,
        batch_size=_RECOVERY_BATCH_LARGE if large else _RECOVERY_BATCH,
        chunk_size=calibration.fixed_batch or config.batch_size,
        augmentation=config.augment,
        layout=images.preprocessing.layout,
        seed=config.seed,
        fixed_batch=calibration.fixed_batch,
        mode=config.recover,
    )
    recorder.start("recovery", config.recover_steps)
    distillation = Distillation(
        network.program,
        student,
        calibration.head,
        find_classifier(student, calibration.head),
        {name: names.scaling for name, names in pairs.items()},
        images.load,
        len(images),
        settings,
    )
    arrays, report = distillation.recover(
        recorder.advance, restart=lambda: recorder.start("recovery", config.recover_steps)
    )
    if not report.kept:
        recorder.warn("the recovery made nothing better on held-out images; the weights stay as they were planned.")
    return replace_initializers(model, arrays), report


def measure_result(
    report: CompressionReport,
    files: Sequence[Path],
    subject: Subject,
    baseline: Predictions,
    validation: Images,
    config: CompressionConfig,
    recorder: Recorder,
) -> CompressionReport:
    """Evaluate and time the compressed model against the original."""
    compressed = replace(subject, session=Session(files[0], threads=config.threads, provider=config.provider))
    predictions = predict_all(compressed, validation, config.batch_size, "evaluating", recorder)
    recorder.start("benchmark", 1.0)
    timing = time_pair(files[0], validation.load(np.arange(1)).shape[1:], config, progress=recorder)
    for warning in timing.warnings:
        recorder.warn(warning)
    digests = {"original_sha256": hash_files(subject.files), "compressed_sha256": hash_files(files)}
    return replace(
        report,
        environment={**report.environment, **digests},
        original=replace(report.original, latency=timing.a),
        compressed=replace(
            report.compressed,
            file_bytes=count_bytes(files),
            latency=timing.b,
            accuracy=summarize_accuracy(predictions, baseline),
        ),
        speedup=timing.speedup,
        drop_pp=compare(baseline, predictions),
    )


def finish_report(
    report: CompressionReport, network: Network, config: CompressionConfig, recorder: Recorder
) -> CompressionReport:
    """Judge the gates, add warnings and times, and write the report where it was asked for."""
    has_anything = bool(network.eligible) or any(not group.blocked_by for group in network.channels.groups)
    if not has_anything:
        recorder.warn("no Conv of the model can be decomposed and no channel can go: nothing to prune.")
    recorder.finish()
    report = replace(
        report,
        gates=judge_gates(config, report, has_anything),
        warnings=tuple(recorder.warnings),
        timings=dict(recorder.timings),
    )
    if config.report is not None:
        write_atomically(render_json(report).encode(), config.report, force=config.force)
    return report
