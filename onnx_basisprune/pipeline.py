"""The straight path of a compression run; the only module that knows its order.

load → data → baseline → normalise → statistics → bases → scores → plan → rewrite → refit → recover → validate → save →
measure → report → gates
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_basisprune
from onnx_basisprune.calibration.precision import describe_arithmetic
from onnx_basisprune.candidates import build_candidate
from onnx_basisprune.choosing import Outlook, assess_run, choose_plan
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.destination import choose_output
from onnx_basisprune.errors import ValidationError
from onnx_basisprune.evidence import drop_evidence, keep_evidence
from onnx_basisprune.files import count_bytes, hash_files, make_staging_folder, publish_files, write_atomically
from onnx_basisprune.frontier import explore_frontier
from onnx_basisprune.graph.fed_inputs import unfeed_inputs
from onnx_basisprune.graph.model_io import load_model, save_model
from onnx_basisprune.graph.rewrite import set_metadata
from onnx_basisprune.out_of_memory import suggest_batch_size
from onnx_basisprune.plan_file import read_plan
from onnx_basisprune.progress import Progress, Recorder, Silence
from onnx_basisprune.replaying import apply_plan, check_fit, save_plan
from onnx_basisprune.reporting.render_html import render_html
from onnx_basisprune.reporting.render_json import render_json
from onnx_basisprune.results import CompressionReport, ModelMeasurement, TimingReport
from onnx_basisprune.run import Run, open_run
from onnx_basisprune.runtime.class_accuracy import compare_classes
from onnx_basisprune.runtime.environment import describe_environment
from onnx_basisprune.runtime.evaluation import compare, summarize_accuracy
from onnx_basisprune.search import check_images, search_candidate
from onnx_basisprune.summary import (
    choose_budget,
    describe_config,
    describe_metadata,
    judge_gates,
    list_unjudged,
    list_variations,
    summarize_groups,
    summarize_layers,
)
from onnx_basisprune.timing import time_pair
from onnx_basisprune.validation import validate_model

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnx_basisprune.budget import PlannedCut


def compress(config: CompressionConfig, progress: Progress | None = None) -> CompressionReport:
    """Compress a trained ONNX classifier.

    Args:
        config: Every option of the run.
        progress: Told what goes on; the default is silence.

    Returns:
        The report; `report.config["output"]` is the file that was written, `None` in a dry run. Where the target
        couldn't be reached, the best valid model is written all the same and a gate says so.

    Raises:
        BasispruneError: The model, the images, an option or the output can't be used; nothing is written then, unless
            the model was already found valid: what measures or reports it can fail, too.
    """
    with suggest_batch_size(config.batch_size):
        return _run_steps(config, Recorder(progress or Silence()))


def _run_steps(config: CompressionConfig, recorder: Recorder) -> CompressionReport:
    """Go the straight path once."""
    output = choose_output(config)
    saved = None if config.plan is None else read_plan(config.plan)
    recorder.start("opening")
    unit, target = choose_budget(config)
    # Where time doesn't count, multiply-adds are saved. A saved plan fits the form that it was made for.
    convolve = not config.allow_slower if saved is None else saved.made_with.get("convolved") is True
    run = open_run(config, output, recorder, convolve=convolve)
    if saved is not None:
        check_fit(saved, run.network, config)
    outlook = assess_run(run, unit, target)
    candidate, search = None, None
    if run.trial is not None and config.bound is not None:
        candidate, search = search_candidate(outlook, run.trial, config.bound)
        planned, timing = candidate.planned, outlook.describe_timing(candidate.planned)
    elif saved is not None:
        planned, timing = apply_plan(saved, outlook), None
    else:
        planned, timing = choose_plan(outlook, target)
    report = replace(describe_plan(run, outlook, planned, timing, output), search=search)
    if output is not None:
        candidate = candidate or build_candidate(run, outlook.prospect, planned)
        files = publish_model(run, candidate.model, report.compressed, output)
        report = measure_result(replace(report, recovery=candidate.recovery), run, files)
        if config.frontier:
            report = replace(report, frontier=explore_frontier(outlook, candidate))
    if config.save_plan is not None:
        save_plan(outlook, planned, config.save_plan)
    return finish_report(report, run)


def describe_plan(
    run: Run, outlook: Outlook, planned: PlannedCut, timing: TimingReport | None, output: Path | None
) -> CompressionReport:
    """Return all that is known before anything is cut."""
    prospect, forecast = outlook.prospect, planned.forecast
    component_counts = {name: len(scores) for name, scores in prospect.assessment.components.items()}
    return CompressionReport(
        config=describe_config(run.config, output, run.images.preprocessing.describe()),
        environment={
            **describe_environment(run.config.threads, run.config.provider),
            **describe_arithmetic(),
            "seed": run.config.seed,
            "original_sha256": run.subject.sha256,
            "compressed_sha256": None,
        },
        original=run.original,
        compressed=ModelMeasurement(forecast.macs, forecast.parameters, None, run.network.cost.uncounted_ops),
        speedup=None,
        drop_pp=None,
        layers=summarize_layers(run.network, planned, component_counts, outlook.predict_layers(planned)),
        groups=summarize_groups(run.network.channels.groups, prospect.list_gone(planned)),
        gates=(),
        recovery=None,
        timings={},
        timing=timing,
        varies_with=list_variations(run.config, timing),
    )


def publish_model(run: Run, model: ModelProto, predicted: ModelMeasurement, output: Path) -> tuple[Path, ...]:
    """Write a model beside its place, read it back, validate it, and only then put it there.

    Returns:
        The model's file, and the one that holds its weights where they are apart.

    Raises:
        ValidationError: It doesn't do what was planned; nothing is written but the evidence.
    """
    config, version = run.config, onnx_basisprune.__version__
    model = run.restore_form(model)
    set_metadata(model, describe_metadata(config, version, run.original, predicted))
    run.recorder.start("validating")
    with make_staging_folder(output, force=config.force) as folder:
        staged = save_model(model, folder / output.name, external_data=len(run.subject.files) > 1, final=output)
        load_model(staged[0])  # refuses a file that isn't a whole model
        try:
            # The model as it is here against the file as it lies there: what went wrong in between shows, too.
            warning = validate_model(
                model,
                staged[0],
                unfeed_inputs(run.subject.model, run.subject.fed),
                run.sample,
                predicted,
                run.measure_noise,
                config.feed,
            )
        except ValidationError as error:
            raise keep_evidence(error, output, staged[0]) from error
        if warning is not None:
            run.recorder.warn(warning)
        files = publish_files(staged, force=config.force)
    drop_evidence(output)
    return files


def measure_result(report: CompressionReport, run: Run, files: Sequence[Path]) -> CompressionReport:
    """Evaluate and time the compressed model against the original."""
    config, recorder = run.config, run.recorder
    predictions = run.predict_file(files[0], run.validation, "evaluating")
    recorder.start("benchmark", 1.0)
    timing = time_pair(files[0], run.network.input_shape[1:], config, progress=recorder)
    for warning in timing.warnings:
        recorder.warn(warning)
    return replace(
        report,
        environment={**report.environment, "compressed_sha256": hash_files(files)},
        original=replace(report.original, latency=timing.a),
        compressed=replace(
            report.compressed,
            file_bytes=count_bytes(files),
            latency=timing.b,
            accuracy=summarize_accuracy(predictions, run.baseline),
        ),
        speedup=timing.speedup,
        drop_pp=compare(run.baseline, predictions),
        per_class=compare_classes(run.baseline, predictions, run.class_names),
    )


def finish_report(report: CompressionReport, run: Run) -> CompressionReport:
    """Judge the gates, add warnings and times, and write the report where it was asked for."""
    config, network, recorder = run.config, run.network, run.recorder
    if report.recovery is not None and not report.recovery.kept:
        recorder.warn("the recovery made nothing better on held-out images; the weights stay as they were planned.")
    if config.bound is None and config.max_drop is not None and not config.dry_run:
        warning = check_images(config.max_drop, len(run.validation), "the gate --max-drop is judged on")
        if warning is not None:
            recorder.warn(f"{warning}: give more with --val.")
    has_anything = bool(network.eligible) or network.channels.removable.size > 0
    if not has_anything:
        usual = Counter(layer.reason for layer in network.layers).most_common(1)
        why = f" (mostly: {usual[0][0]})" if usual else ""
        recorder.warn(f"no Conv of the model can be decomposed{why} and no channel can go: nothing to prune.")
    unjudged = list_unjudged(config, report)
    if unjudged:
        recorder.warn(f"a dry run measures nothing: {', '.join(unjudged)} can't be judged.")
    for what, images in (("--data", run.images), ("--val", run.validation)):
        if images.dataset.broken.describe() and (what == "--data" or config.val is not None):
            recorder.warn(f"{what}: {images.dataset.broken.describe()}")
    recorder.finish()
    report = replace(
        report,
        gates=judge_gates(config, report),
        warnings=tuple(recorder.warnings),
        timings=dict(recorder.timings),
    )
    if config.report is not None:
        write_atomically(render_json(report).encode(), config.report, force=config.force)
    if config.html is not None:
        write_atomically(render_html(report).encode(), config.html, force=config.force)
    return report
