"""Results as tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_basisprune.cli.numbers import (
    UNKNOWN,
    show_amount,
    show_change,
    show_count,
    show_interval,
    show_ms,
    show_name,
    show_percent,
    show_shape,
)
from onnx_basisprune.results import (
    Accuracy,
    BenchmarkReport,
    BenchmarkRun,
    CompressionReport,
    EvaluationReport,
    Inspection,
    Interval,
    LayerReport,
    ModelMeasurement,
    ModelTiming,
    NodeInspection,
)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines whole: the terminal may wrap them, nothing is cut or hyphenated."""
    for line in lines:
        console.print(line, soft_wrap=True)


def _build_table(texts: Sequence[str], figures: Sequence[str]) -> Table:
    """Return a table whose first columns hold text; the others are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for title in texts:
        table.add_column(title, overflow="fold")
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def print_compression(console: Console, report: CompressionReport, *, layers: bool) -> None:
    """Print what a compression run came to.

    Args:
        console: On stdout.
        report: The run's report.
        layers: Whether to print a row per Conv, too.
    """
    if layers:
        _print_layers(console, report.layers)
    before, after = report.original, report.compressed
    predicted = after.file_bytes is None
    table = _build_table([""], ["before", "predicted" if predicted else "after", "change"])
    for row in _list_changes(before, after):
        table.add_row(*row)
    console.print(table)
    console.print()
    print_lines(console, _list_findings(report))


def _list_changes(before: ModelMeasurement, after: ModelMeasurement) -> list[tuple[str, str, str, str]]:
    """Return the rows of the before/after table; figures that weren't taken have none."""
    rows = [
        ("MACs", show_amount(before.macs), show_amount(after.macs), show_change(before.macs, after.macs)),
        (
            "Parameters",
            show_amount(before.parameters),
            show_amount(after.parameters),
            show_change(before.parameters, after.parameters),
        ),
    ]
    if before.file_bytes is not None and after.file_bytes is not None:
        sizes = show_amount(before.file_bytes, "B"), show_amount(after.file_bytes, "B")
        rows.append(("File size", *sizes, show_change(before.file_bytes, after.file_bytes)))
    if before.latency is not None and after.latency is not None:
        old, new = before.latency.median_ms, after.latency.median_ms
        rows.append(("Median latency", show_ms(old), show_ms(new), show_change(old, new)))
    if before.accuracy is not None:
        rows.extend(_list_accuracy_rows(before.accuracy, after.accuracy))
    return rows


def _list_accuracy_rows(before: Accuracy, after: Accuracy | None) -> list[tuple[str, str, str, str]]:
    """Return the rows about accuracy: top-1 and top-5, or the agreement where there are no labels."""
    rows = []
    for title, old, new in (
        ("Top-1 accuracy", before.top1, after and after.top1),
        ("Top-5 accuracy", before.top5, after and after.top5),
    ):
        if old is not None:
            change = UNKNOWN if new is None else f"{100 * (new - old):+.2f} pp"
            rows.append((title, show_percent(old), show_percent(new), change))
    if before.top1 is None and after is not None:
        rows.append(("Agreement with the original", UNKNOWN, show_percent(after.agreement), UNKNOWN))
    return rows


def _list_findings(report: CompressionReport) -> list[str]:
    """Return what stands below the table, a line each."""
    lines = []
    if report.speedup is not None and report.compressed.latency is not None:
        batch = report.compressed.latency.batch_size
        threads = report.environment.get("threads")
        where = f"batch {batch}, {_name_threads(threads)}"
        lines.append(f"Speed-up: {report.speedup.median:.2f}x ({show_interval(report.speedup)}; {where})")
    accuracy = report.compressed.accuracy
    if report.drop_pp is not None and accuracy is not None:
        lines.append(_show_drop(report.drop_pp, accuracy, "the original"))
    lines += [
        f"Gate {show_name(gate.name)}: {'passed' if gate.passed else 'FAILED'} "
        f"(asked {gate.asked:g}, reached {gate.reached:.4g})"
        for gate in report.gates
    ]
    output = report.config.get("output")
    if output is not None:
        lines.append(f"Written: {show_name(str(output))}")
    elif report.config.get("dry_run"):
        lines.append("Dry run: nothing was written.")
    else:
        lines.append("Nothing was written: the model is the same as before.")
    return lines


def _name_threads(threads: object) -> str:
    """Return onnxruntime's threads in words."""
    return "onnxruntime's default threads" if threads is None else f"{threads} thread{'s' * (threads != 1)}"


def _show_drop(drop: Interval, accuracy: Accuracy, other: str) -> str:
    """Return the accuracy drop with its interval and the number of images it rests on."""
    images = f"{accuracy.n:,} image{'s' * (accuracy.n != 1)}"
    interval = show_interval(drop)
    if accuracy.top1 is None:
        return f"Disagreement with {other}: {drop.estimate:.2f} % ({interval}; {images}, no labels)"
    return f"Accuracy drop against {other}: {drop.estimate:.2f} pp ({interval}; {images})"


def _print_layers(console: Console, layers: Sequence[LayerReport]) -> None:
    """Print a row per Conv: its rank and what it costs before and after."""
    table = _build_table(
        ["Conv"], ["rank", "of", "MACs before", "MACs after", "parameters before", "after", "removed score"]
    )
    table.add_column("note", overflow="fold")
    for layer in layers:
        table.add_row(
            show_name(layer.name),
            show_count(layer.rank) if layer.decomposed else UNKNOWN,
            show_count(layer.full_rank) if layer.full_rank else UNKNOWN,
            show_amount(layer.macs_before),
            show_amount(layer.macs_after),
            show_amount(layer.parameters_before),
            show_amount(layer.parameters_after),
            f"{layer.removed_score:.3g}" if layer.decomposed else UNKNOWN,
            "" if layer.decomposed else f"unchanged: {show_name(layer.reason)}",
        )
    console.print(table)
    console.print()


def print_inspection(console: Console, inspection: Inspection, *, every_node: bool) -> None:
    """Print a row per node, and the totals.

    Args:
        console: On stdout.
        inspection: Of a model.
        every_node: Whether nodes without parameters and multiply-adds get a row, too.
    """
    print_lines(console, _list_headlines(inspection))
    console.print()
    table = _build_table(["node", "op"], ["output", "parameters", "MACs", "full\nrank", "break-\neven"])
    table.add_column("eligible", overflow="fold")
    for node in inspection.nodes:
        if every_node or node.parameters or node.macs != 0:
            table.add_row(*_describe_row(node))
    total = ("total", "", "", show_count(inspection.normalized_parameters), show_count(inspection.macs))
    table.add_section()
    table.add_row(*total, style="bold")
    console.print(table)
    console.print()
    print_lines(console, _list_totals(inspection))


def _list_headlines(inspection: Inspection) -> list[str]:
    """Return what there is to say about the file."""
    producer = f", by {show_name(inspection.producer)}" if inspection.producer else ""
    size = show_amount(inspection.file_bytes, "B")
    versions = f"opset {inspection.opset}, IR version {inspection.ir_version}"
    lines = [f"{show_name(inspection.model)}: {size}, {versions}{producer}"]
    for title, tensors in (("Input", inspection.inputs), ("Output", inspection.outputs)):
        lines += [
            f"{title} {show_name(spec.name)}: {show_name(spec.dtype)} {show_shape(spec.shape)}" for spec in tensors
        ]
    return lines


def _describe_row(node: NodeInspection) -> Sequence[str | Text]:
    """Return one node's cells."""
    return (
        show_name(node.name),
        show_name(node.op_type),
        show_shape(node.output_shape),
        show_count(node.parameters),
        show_count(node.macs),
        show_count(node.full_rank) if node.eligible else UNKNOWN,
        show_count(node.break_even_rank) if node.eligible else UNKNOWN,
        Text("yes", style="green") if node.eligible else (f"no: {show_name(node.reason)}" if node.reason else ""),
    )


def _list_totals(inspection: Inspection) -> list[str]:
    """Return what stands below the table."""
    eligible = [node for node in inspection.nodes if node.eligible]
    macs = sum(node.macs or 0 for node in eligible)
    share = f" with {macs / inspection.macs:.1%} of the MACs" if inspection.macs else ""
    lines = [
        f"Parameters in the file: {inspection.parameters:,} (the table has batch normalisations folded).",
        f"Eligible: {len(eligible)} nodes{share}.",
    ]
    if inspection.uncounted_ops:
        ops = ", ".join(show_name(op) for op in inspection.uncounted_ops)
        lines.append(f"MACs not counted for: {ops}.")
    if any(node.output_shape is None for node in eligible):
        lines.append("Shapes aren't all known: give --input-shape, e.g. 1,3,224,224, to count all MACs.")
    return lines


def print_evaluation(console: Console, report: EvaluationReport) -> None:
    """Print accuracies with their intervals."""
    columns = ["model"] if report.reference is None else ["reference", "model"]
    accuracies = [item for item in (report.reference, report.accuracy) if item is not None]
    table = _build_table([""], columns)
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
        lines.append(_show_drop(report.drop_pp, report.accuracy, "the reference"))
    print_lines(console, lines)


def print_benchmark(console: Console, report: BenchmarkReport) -> None:
    """Print a row per model and measurement, and the ratio where there are two."""
    cold = any(run.a.load_ms is not None for run in report.runs)
    figures = ["median", "p90", "images/s", *(["load", "first run", "peak memory"] if cold else []), "speed-up"]
    table = _build_table(["batch", "threads", "model"], figures if report.config["b"] is not None else figures[:-1])
    for run in report.runs:
        for name, timing, ratio in _list_contenders(run, report):
            table.add_row(
                str(run.batch_size), "default" if run.threads is None else str(run.threads), name,
                *_list_figures(timing, cold=cold), *ratio,
            )  # fmt: skip
    console.print(table)


def _list_contenders(run: BenchmarkRun, report: BenchmarkReport) -> list[tuple[str, ModelTiming, list[str]]]:
    """Return the models of one measurement with their last column."""
    first = show_name(str(report.config["a"]))
    if run.b is None:
        return [(first, run.a, [])]
    second = show_name(str(report.config["b"]))
    ratio = run.speedup and f"{run.speedup.median:.2f}x ({run.speedup.low:.2f} to {run.speedup.high:.2f})"
    return [(first, run.a, [""]), (second, run.b, [ratio or UNKNOWN])]


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
