"""Progress, notes and warnings on stderr, results on stdout."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from onnx_basisprune import render_json
from onnx_basisprune.cli.options import Verbosity
from onnx_basisprune.files import check_writable, write_atomically

_STDOUT = Path("-")
# Where nobody looks, nothing is cut to a window's width: names must stay whole for grep.
_WIDTH_OF_FILES = 1000
_SECONDS_BETWEEN_DRAWS = 0.2


def open_console(*, stderr: bool = False) -> Console:
    """Return a console that takes all text literally: names come from strangers' files."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


class ConsoleProgress:
    """The `onnx_basisprune.progress.Progress` of the command line; a context manager.

    Args:
        verbosity: Quiet shows warnings only; verbose leaves a line with the time of each stage.
    """

    def __init__(self, verbosity: Verbosity) -> None:
        self._console = open_console(stderr=True)
        self._quiet, self._verbose = verbosity
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage, self._started, self._drawn = "", 0.0, 0.0

    def __enter__(self) -> ConsoleProgress:  # noqa: PYI034  # Self needs Python 3.11
        if not self._quiet and self._console.is_terminal and not self._console.is_dumb_terminal:
            # No thread that draws in the background: it would disturb what a benchmark measures.
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if error is None:
            self._finish_stage()

    def start(self, stage: str, total: float | None = None) -> None:
        """Put the stage's bar in the place of the last one's."""
        self._finish_stage()
        self._stage, self._started = stage, perf_counter()
        if self._bars is not None:
            self._task = self._bars.add_task(stage, total=total)
            self._draw()

    def advance(self, amount: float) -> None:
        """Move the bar on."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, amount)
            if perf_counter() - self._drawn > _SECONDS_BETWEEN_DRAWS:
                self._draw()

    def note(self, message: str) -> None:
        """Print a line unless quiet."""
        if not self._quiet:
            self._console.print(message, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a line, always."""
        # A style of its own: that of `print` would colour the bar, too.
        self._console.print(Text(f"Warning: {message}", style="yellow"), soft_wrap=True)

    def _draw(self) -> None:
        """Bring the bar on the terminal up to date."""
        if self._bars is not None:
            self._bars.refresh()
            self._drawn = perf_counter()

    def _finish_stage(self) -> None:
        """Take the bar away; leave a line with the stage's time where details are wanted."""
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        if self._stage and self._verbose and not self._quiet:
            seconds = perf_counter() - self._started
            self._console.print(Text(f"{self._stage}: {seconds:.1f} s", style="dim"), soft_wrap=True)
        self._stage = ""


def check_json_target(target: Path | None, *, force: bool) -> None:
    """Refuse, before any work is done, a `--json` file that couldn't be written.

    Raises:
        OutputError: See `check_writable`.
    """
    if target is not None and target != _STDOUT:
        check_writable(target, force=force)


def write_json(report: Any, target: Path | None, *, force: bool) -> bool:
    """Write a result where `--json` says.

    Returns:
        Whether stdout is free for a table: not after `--json -`.

    Raises:
        OutputError: See `write_atomically`.
    """
    if target is None:
        return True
    text = render_json(report)
    if target == _STDOUT:
        click.echo(text, nl=False)
        return False
    write_atomically(text.encode(), target, force=force)
    return True
