"""Progress on stderr: bars on terminals only, text taken literally."""

from __future__ import annotations

import io
import sys

import pytest

from onnx_basisprune.cli.console import ConsoleProgress
from onnx_basisprune.cli.options import Verbosity

BAR = "\u2501"


class Stream(io.StringIO):
    """Text that says whether it is a terminal."""

    encoding = "utf-8"

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def run(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False, verbose: int = 0, term: str = "xterm"
) -> str:
    """Return what a short run writes on stderr."""
    stream = Stream(terminal=terminal)
    for variable in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream)
    with ConsoleProgress(Verbosity(quiet, verbose)) as progress:
        progress.start("first [bold]stage", 4)
        progress.advance(4)
        progress.note("a [red]note[/red] :smile: of " + "many words " * 30)
        progress.start("second")
        progress.warn("look [blue]here")
    return stream.getvalue()


def test_a_terminal_gets_bars_that_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(monkeypatch, terminal=True)
    assert BAR in text
    assert "first [bold]stage" in text
    # The last thing is the cursor shown again and the line of the bar erased.
    assert text.rstrip().endswith("\x1b[2K")
    assert "\x1b[?25h" in text
    assert "[progress" not in text


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_what_is_no_capable_terminal_gets_lines_only(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(monkeypatch, terminal=term == "dumb", term=term)
    assert BAR not in text
    assert "\x1b" not in text
    assert "stage" not in text


def test_text_is_literal_and_lines_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run(monkeypatch, terminal=False).splitlines()
    assert first.startswith("a [red]note[/red] :smile: of many words")
    assert first.count("many words") == 30
    assert second == "Warning: look [blue]here"


def test_quiet_leaves_warnings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, terminal=False, quiet=True) == "Warning: look [blue]here\n"
    assert BAR not in run(monkeypatch, terminal=True, quiet=True)


def test_verbose_leaves_a_line_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(monkeypatch, terminal=False, verbose=1).splitlines()
    assert lines[1] == "first [bold]stage: 0.0 s"
    assert lines[-1] == "second: 0.0 s"


def test_a_failing_run_takes_the_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(terminal=True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)

    def fail() -> None:
        with ConsoleProgress(Verbosity(quiet=False, verbose=1)) as progress:
            progress.start("stage", 4)
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert "\x1b[?25h" in stream.getvalue()
    assert "stage: " not in stream.getvalue()
