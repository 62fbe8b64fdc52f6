"""What `evaluate` and `benchmark` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from onnx_basisprune.benchmark_report import BenchmarkReport, BenchmarkRun, ModelTiming
from onnx_basisprune.cli.node_table import print_nodes
from onnx_basisprune.cli.tables import build_table, print_lines, show_drop
from onnx_basisprune.numbers import (
    show_amount,
    show_count,
    show_gate,
    show_interval,
    show_ms,
    show_name,
    show_percent,
)
from onnx_basisprune.results import EvaluationReport, Speedup


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
    """Print for every measurement a table of the models, the verdict on two, and the nodes if they were profiled."""
    names = _name_models(report)
    for position, run in enumerate(report.runs):
        lines = [] if position == 0 else [""]
        print_lines(console, [*lines, _name_run(run, report.environment["execution_provider"]), ""])
        _print_timings(console, run, names)
        if run.speedup is not None:
            print_lines(console, ["", f"{names[1]}: {show_verdict(run.speedup)}"])
            print_lines(console, (f"Gate {show_gate(gate)}" for gate in report.gates[position : position + 1]))
        if run.nodes:
            console.print()
            print_nodes(console, run, names)


def _name_models(report: BenchmarkReport) -> list[str]:
    """Return the models' file names, their whole paths where these are the same."""
    paths = [Path(report.config[key]) for key in ("a", "b") if report.config[key] is not None]
    same = len({path.name for path in paths}) < len(paths)
    return [show_name(str(path) if same else path.name) for path in paths]


def _name_run(run: BenchmarkRun, provider: str) -> str:
    """Return what a measurement was made on."""
    threads = "default threads" if run.threads is None else f"{run.threads} thread{'s' * (run.threads != 1)}"
    return f"Batch {run.batch_size}, {threads}, {provider}"


def _print_timings(console: Console, run: BenchmarkRun, names: Sequence[str]) -> None:
    """Print a row per model."""
    timings = [timing for timing in (run.a, run.b) if timing is not None]
    cold = any(timing.load_ms is not None for timing in timings)
    table = build_table(["model"], ["median", "p90", "images/s", *(["load", "first run", "memory"] if cold else [])])
    for name, timing in zip(names, timings, strict=True):
        table.add_row(name, *_list_figures(timing, cold=cold))
    console.print(table)


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


def show_verdict(speedup: Speedup) -> str:
    """Return in words how much faster or slower the second model is."""
    median, low, high = speedup.median, speedup.low, speedup.high
    if low <= 1 <= high:
        return f"no difference that this machine can show (speed-up {median:.2f}x, 95 % {low:.2f} to {high:.2f})"
    if low > 1:
        return f"{median:.2f}x faster (95 % {low:.2f} to {high:.2f})"
    return f"{1 / median:.2f}x slower (95 % {1 / high:.2f} to {1 / low:.2f})"
