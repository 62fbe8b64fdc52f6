"""What all tables on stdout have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from onnx_basisprune.numbers import (
    show_interval,
    show_name,
)
from onnx_basisprune.results import (
    Accuracy,
    GroupReport,
    Interval,
)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines whole: the terminal may wrap them, nothing is cut or hyphenated."""
    for line in lines:
        console.print(line, soft_wrap=True)


def build_table(texts: Sequence[str], figures: Sequence[str]) -> Table:
    """Return a table whose first columns hold text; the others are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for title in texts:
        table.add_column(title, overflow="fold")
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def show_drop(drop: Interval, accuracy: Accuracy, other: str) -> str:
    """Return the accuracy drop with its interval and the number of images it rests on."""
    images = f"{accuracy.n:,} image{'s' * (accuracy.n != 1)}"
    interval = show_interval(drop)
    if accuracy.top1 is None:
        return f"Disagreement with {other}: {drop.estimate:.2f} % ({interval}; {images}, no labels)"
    return f"Accuracy drop against {other}: {drop.estimate:.2f} pp ({interval}; {images})"


def list_blocked(groups: Iterable[GroupReport]) -> list[str]:
    """Return a line per reason why channels must stay, with the groups that it keeps."""
    names: dict[str, list[str]] = {}
    for group in groups:
        if group.blocked_by:
            names.setdefault(group.blocked_by, []).append(f"{show_name(group.name)} ({group.channels:,})")
    return [f"Channels that must stay, {show_name(reason)}: {', '.join(items)}" for reason, items in names.items()]
