"""What `evaluate` and `benchmark` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from onnx_basisprune.cli.numbers import (
    UNKNOWN,
    show_amount,
    show_count,
    show_interval,
    show_ms,
    show_name,
    show_percent,
)
from onnx_basisprune.cli.tables import build_table, print_lines, show_drop
from onnx_basisprune.results import (
    BenchmarkReport,
    BenchmarkRun,
    EvaluationReport,
    ModelTiming,
)


def print_evaluation(console: Console, report: EvaluationReport) -> None:
    """Print accuracies with their intervals."""
    columns = ["model"] if report.reference is None else ["reference", "model"]
    accuracies = [item for item in (report.reference, report.accuracy) if item is not None]
    table = build_table([""], columns)
    for title, values in (
        ("Top-1 accuracy", [accuracy.top1 for accuracy in accuracies]),
        ("Top-5 accuracy", [accuracy.top5 for accuracy in accuracies]),
        ("Agreement with the reference", [accuracy.agreement for accuracy in accuracies]),
    ):
        if any(value is not None for value in values):
            table.add_row(title, *(show_percent(value) for value in values))
    table.add_row("Images", *(show_count(accuracy.n) for accuracy in accuracies))
    console.print(table)
    console.print()
    lines = []
    if report.accuracy.interval is not None:
        title = "Agreement" if report.accuracy.top1 is None else "Top-1 accuracy"
        estimate = show_percent(report.accuracy.interval.estimate)
        lines.append(f"{title}: {estimate} ({show_interval(report.accuracy.interval, 100.0, unit=' %')})")
    if report.drop_pp is not None:
        lines.append(show_drop(report.drop_pp, report.accuracy, "the reference"))
    print_lines(console, lines)


def print_benchmark(console: Console, report: BenchmarkReport) -> None:
    """Print a row per model and measurement, and the ratio where there are two."""
    cold = any(run.a.load_ms is not None for run in report.runs)
    figures = ["median", "p90", "images/s", *(["load", "first run", "memory"] if cold else []), "speed-up (95 %)"]
    table = build_table(["batch", "threads", "model"], figures if report.config["b"] is not None else figures[:-1])
    names = _name_models(report)
    for run in report.runs:
        for name, timing, ratio in _list_contenders(run, names):
            table.add_row(
                str(run.batch_size), "default" if run.threads is None else str(run.threads), name,
                *_list_figures(timing, cold=cold), *ratio,
            )  # fmt: skip
    console.print(table)


def _name_models(report: BenchmarkReport) -> list[str]:
    """Return the models' file names, their whole paths where these are the same."""
    paths = [Path(report.config[key]) for key in ("a", "b") if report.config[key] is not None]
    same = len({path.name for path in paths}) < len(paths)
    return [show_name(str(path) if same else path.name) for path in paths]


def _list_contenders(run: BenchmarkRun, names: Sequence[str]) -> list[tuple[str, ModelTiming, list[str]]]:
    """Return the models of one measurement with their last column."""
    if run.b is None:
        return [(names[0], run.a, [])]
    ratio = run.speedup and f"{run.speedup.median:.2f}x ({run.speedup.low:.2f} - {run.speedup.high:.2f})"
    return [(names[0], run.a, [""]), (names[1], run.b, [ratio or UNKNOWN])]


def _list_figures(timing: ModelTiming, *, cold: bool) -> list[str]:
    """Return one model's figures as cells."""
    figures = [show_ms(timing.latency.median_ms), show_ms(timing.latency.p90_ms), f"{timing.images_per_second:,.0f}"]
    if cold:
        figures += [
            show_ms(timing.load_ms),
            show_ms(timing.first_run_ms),
            show_amount(timing.peak_memory_bytes, "B"),
        ]
    return figures
