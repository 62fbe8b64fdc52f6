"""What a compression run came to: before and after, layers, gates."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnx_basisprune.cli.tables import build_table, list_blocked, print_lines, show_drop
from onnx_basisprune.numbers import (
    UNKNOWN,
    show_amount,
    show_budget,
    show_change,
    show_gate,
    show_interval,
    show_ms,
    show_name,
    show_percent,
)
from onnx_basisprune.results import (
    Accuracy,
    CompressionReport,
    GroupReport,
    LayerReport,
    ModelMeasurement,
    SearchReport,
    TimingReport,
)

# What a layer's times need beside the other columns.
_LEAST_WIDTH = 110


def print_compression(console: Console, report: CompressionReport, *, layers: bool) -> None:
    """Print what a compression run came to.

    Args:
        console: On stdout.
        report: The run's report.
        layers: Whether to print a row per Conv and per dependency group, too.
    """
    if layers:
        _print_layers(console, report.layers)
        _print_groups(console, report.groups)
    before, after = report.original, report.compressed
    predicted = after.file_bytes is None
    table = build_table([""], ["before", "predicted" if predicted else "after", "change"])
    for row in _list_changes(before, after):
        table.add_row(*row)
    console.print(table)
    console.print()
    if report.frontier:
        _print_frontier(console, report)
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
        ("Top-1 accuracy", before.top1, after.top1 if after is not None else None),
        ("Top-5 accuracy", before.top5, after.top5 if after is not None else None),
    ):
        if old is not None:
            change = UNKNOWN if new is None else f"{100 * (new - old):+.2f} pp"
            rows.append((title, show_percent(old), show_percent(new), change))
    if before.top1 is None and after is not None:
        rows.append(("Agreement with the original", UNKNOWN, show_percent(after.agreement), UNKNOWN))
    return rows


def _print_frontier(console: Console, report: CompressionReport) -> None:
    """Print the trade-off, a row for each size."""
    title = "Agreement" if report.frontier[0].accuracy.top1 is None else "Top-1"
    table = build_table([""], ["MACs", "parameters", "speed-up", title, "drop", "95 % interval"])
    for point in report.frontier:
        accuracy = point.accuracy.agreement if point.accuracy.top1 is None else point.accuracy.top1
        table.add_row(
            "written" if point.chosen else show_budget(point.unit, point.target),
            show_percent(point.macs / report.original.macs if report.original.macs else 1.0),
            show_percent(point.parameters / report.original.parameters if report.original.parameters else 1.0),
            UNKNOWN if point.speedup is None else f"{point.speedup.median:.2f}x",
            show_percent(accuracy),
            f"{point.drop_pp.estimate:.2f} pp",
            f"{point.drop_pp.low:.2f} to {point.drop_pp.high:.2f}",
        )
    console.print(table)
    print_lines(console, [f"The trade-off, on the same {report.frontier[0].accuracy.n:,} images."])
    console.print()


def _list_findings(report: CompressionReport) -> list[str]:
    """Return what stands below the table, a line each."""
    lines = []
    if report.speedup is not None and report.compressed.latency is not None:
        batch = report.compressed.latency.batch_size
        threads = report.environment.get("threads")
        where = f"batch {batch}, {_name_threads(threads)}"
        slower = ", which is slower" if report.speedup.high < 1 else ""
        lines.append(f"Speed-up: {report.speedup.median:.2f}x{slower} ({show_interval(report.speedup)}; {where})")
    if report.timing is not None and report.timing.predicted is not None:
        lines.append(_describe_timing(report.timing))
    if report.search is not None:
        lines.append(_describe_search(report.search))
    accuracy = report.compressed.accuracy
    if report.drop_pp is not None and accuracy is not None:
        lines.append(show_drop(report.drop_pp, accuracy, "the original"))
    if report.recovery is not None:
        course = report.recovery
        losses = f"held-out loss {course.held_out_loss_before:.3g} -> {course.held_out_loss_after:.3g}"
        # Where a learning rate was too high, it began anew.
        attempts = " in several attempts" * (course.steps > report.config.get("recover_steps", course.steps))
        lines.append(f"Recovery: {course.steps:,} steps{attempts}, {losses}{'' if course.kept else ' (not kept)'}")
    lines += [f"Gate {show_gate(gate)}" for gate in report.gates]
    output = report.config.get("output")
    if output is not None:
        lines.append(f"Written: {show_name(str(output))}")
    elif report.config.get("dry_run"):
        lines.append("Dry run: no model was written.")
    else:
        lines.append("Nothing was written: the model is the same as before.")
    plan = report.config.get("save_plan")
    if plan is not None:
        lines.append(f"Plan: {show_name(str(plan))}")
    return lines


def _describe_search(search: SearchReport) -> str:
    """Return how the model was found."""
    count = len(search.looks)
    tries = f"{count} candidate{'' if count == 1 else 's'} tried on {search.images:,} images"
    claims = {0: "never", 1: "once"}.get(search.claims, f"{search.claims} times")
    end = "; the time limit ended it" * search.stopped
    return f"Search: {tries}; the images for the claim were looked at {claims}{end}"


def _describe_timing(timing: TimingReport) -> str:
    """Return what the latency table predicted, and how the clock found it."""
    predicted = f"Time left by the latency table: {show_percent(timing.predicted)}"
    if timing.measured is None:
        return predicted
    plans = f"{timing.plans} plan{'s' * (timing.plans != 1)} timed"
    return f"{predicted}, by the clock: {show_percent(timing.measured)} ({plans})"


def _name_threads(threads: object) -> str:
    """Return onnxruntime's threads in words."""
    return "onnxruntime's default threads" if threads is None else f"{threads} thread{'s' * (threads != 1)}"


def _print_layers(console: Console, layers: Sequence[LayerReport]) -> None:
    """Print a row per Conv: its rank and what it costs before and after."""
    timed = console.width >= _LEAST_WIDTH and any(layer.ms_before is not None for layer in layers)
    table = build_table(["Conv"], ["rank", "MACs", "parameters", *["predicted time"] * timed, "removed score"])
    unchanged: dict[str, list[str]] = {}
    for layer in layers:
        name = show_name(layer.name)
        if not layer.decomposed:
            unchanged.setdefault(show_name(layer.reason), []).append(name)
        table.add_row(
            name,
            f"{layer.rank:,} of {layer.full_rank:,}" if layer.decomposed else "full",
            _show_step(show_amount(layer.macs_before), show_amount(layer.macs_after)),
            _show_step(show_amount(layer.parameters_before), show_amount(layer.parameters_after)),
            *[_show_step(show_ms(layer.ms_before), show_ms(layer.ms_after))] * timed,
            f"{layer.removed_score:.3g}" if layer.decomposed else UNKNOWN,
        )
    console.print(table)
    print_lines(console, (f"Not decomposed, {reason}: {', '.join(names)}" for reason, names in unchanged.items()))
    console.print()


def _print_groups(console: Console, groups: Sequence[GroupReport]) -> None:
    """Print a row per group that lost channels; the others in a line per reason."""
    if not groups:
        return
    changed = [group for group in groups if group.kept < group.channels]
    if changed:
        table = build_table(["Coupled channels of"], ["before", "kept"])
        for group in changed:
            table.add_row(show_name(group.name), f"{group.channels:,}", f"{group.kept:,}")
        console.print(table)
    whole = [show_name(group.name) for group in groups if group.kept == group.channels and not group.blocked_by]
    if whole:
        print_lines(console, [f"All channels kept: {', '.join(whole)}"])
    print_lines(console, list_blocked(groups))
    console.print()


def _show_step(before: str, after: str) -> str:
    """Return a figure before and after, or once where nothing changed."""
    return before if before == after else f"{before} -> {after}"
