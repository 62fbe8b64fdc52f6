"""The verdict as Markdown, for a CI's step summary or a merge request's comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnx_basisprune.numbers import show_amount, show_change, show_gate, show_ms, show_name, show_percent
from onnx_basisprune.results import Accuracy, CompressionReport, Gate, ModelMeasurement

# Whatever Markdown, its tables or HTML would take for markup.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&])")


def render_markdown(subject: str, gates: Sequence[Gate], report: CompressionReport | None = None) -> str:
    """Return the gates, and the figures before and after, as GitHub's Markdown.

    Args:
        subject: What was judged, such as the report's file.
        gates: A row each.
        report: Whose figures are shown; `None` for none.

    Returns:
        A section with its heading, with an empty line at the end so that another one can follow.
    """
    failed = sum(not gate.passed for gate in gates)
    verdict = f"{failed} of {len(gates)} gates failed" if failed else f"all {len(gates)} gates passed"
    lines = [f"### {'❌' if failed else '✅'} basisprune: {verdict if gates else 'no gates'}", "", _escape(subject), ""]
    if gates:
        lines += ["| | gate |", "|---|---|"]
        lines += [f"| {'✅' if gate.passed else '❌'} | {_escape(show_gate(gate))} |" for gate in gates]
        lines.append("")
    if report is not None:
        lines += ["| | before | after | change |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in _list_rows(report)]
        lines.append("")
    return "\n".join(lines) + "\n"


def _list_rows(report: CompressionReport) -> list[tuple[str, str, str, str]]:
    """Return the figures before and after."""
    old, new = report.original, report.compressed
    ms = [model.latency.median_ms if model.latency else None for model in (old, new)]
    rows = [
        ("multiply-adds", show_amount(old.macs), show_amount(new.macs), show_change(old.macs, new.macs)),
        (
            "parameters",
            show_amount(old.parameters),
            show_amount(new.parameters),
            show_change(old.parameters, new.parameters),
        ),
        (
            "file size",
            show_amount(old.file_bytes, "B"),
            show_amount(new.file_bytes, "B"),
            show_change(old.file_bytes, new.file_bytes),
        ),
        ("median latency", show_ms(ms[0]), show_ms(ms[1]), show_change(*ms)),
    ]
    return [*rows, _make_accuracy_row(old, new)]


def _make_accuracy_row(old: ModelMeasurement, new: ModelMeasurement) -> tuple[str, str, str, str]:
    """Return the row about top-1 accuracy, or about the agreement where there are no labels."""
    before, after = (model.accuracy or Accuracy(0) for model in (old, new))
    if before.top1 is None:
        return "agreement with the original", show_percent(None), show_percent(after.agreement), show_percent(None)
    change = show_percent(None) if after.top1 is None else f"{100 * (after.top1 - before.top1):+.2f} pp"
    return "top-1 accuracy", show_percent(before.top1), show_percent(after.top1), change


def _escape(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", show_name(text))
