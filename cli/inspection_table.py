"""What a model consists of, a row per node."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onnx_basisprune.cli.tables import build_table, list_blocked, print_lines
from onnx_basisprune.inspection_report import Inspection, NodeInspection
from onnx_basisprune.numbers import (
    UNKNOWN,
    show_amount,
    show_count,
    show_name,
    show_shape,
)


def print_inspection(console: Console, inspection: Inspection, *, every_node: bool) -> None:
    """Print a row per node, and the totals.

    Args:
        console: On stdout.
        inspection: Of a model.
        every_node: Whether nodes without parameters and multiply-adds get a row, too.
    """
    print_lines(console, _list_headlines(inspection))
    console.print()
    table = build_table(["node", "op"], ["output", "parameters", "MACs", "full\nrank", "break-\neven"])
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


def list_findings(inspection: Inspection) -> list[str]:
    """Return what there is to say about a model without a table."""
    lines = _list_headlines(inspection)
    shape = inspection.outputs[0].shape if inspection.outputs else None
    if shape is not None and len(shape) == 2 and shape[1] is not None:
        lines.append(f"Classes: {shape[1]:,}")
    lines.append(f"MACs: {show_count(inspection.macs)}, parameters: {show_count(inspection.parameters)}")
    return lines + _list_prunable(inspection)


def _list_totals(inspection: Inspection) -> list[str]:
    """Return what stands below the table."""
    lines = []
    if inspection.parameters != inspection.normalized_parameters:
        lines.append(
            f"Parameters in the file: {inspection.parameters:,}; the table counts them after batch "
            "normalisations are folded."
        )
    return lines + _list_prunable(inspection)


def _list_prunable(inspection: Inspection) -> list[str]:
    """Return what can be pruned and what can't."""
    eligible = [node for node in inspection.nodes if node.eligible]
    lines = []
    share = ""
    # A share of what happens to be known would mislead.
    if inspection.macs and not inspection.uncounted_ops:
        macs = sum(node.macs or 0 for node in eligible)
        share = f" with {100 * macs / inspection.macs:.1f} % of the MACs"
    lines.append(f"Eligible: {len(eligible)} nodes{share}.")
    if inspection.groups:
        free = [group for group in inspection.groups if not group.blocked_by]
        removable, total = (sum(group.channels for group in groups) for groups in (free, inspection.groups))
        lines.append(f"Coupled channels: {removable:,} of {total:,} can go, in {len(free)} groups.")
        lines += list_blocked(inspection.groups)
    if inspection.uncounted_ops:
        ops = ", ".join(show_name(op) for op in inspection.uncounted_ops)
        lines.append(f"MACs not counted for: {ops}.")
    if any(node.output_shape is None for node in eligible):
        lines.append("Shapes aren't all known: give --input-shape, e.g. 1,3,224,224, to count all MACs.")
    return lines
