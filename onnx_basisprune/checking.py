"""What `check` does: reports held to bounds and to the last release; and the verdict as files that a CI shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_basisprune.errors import ConfigError, OutputError, describe_write_error, quote
from onnx_basisprune.files import check_writable, write_atomically
from onnx_basisprune.limits import GateLimits, Slack
from onnx_basisprune.reporting.gates import judge_limits
from onnx_basisprune.reporting.read_report import read_report
from onnx_basisprune.reporting.regressions import judge_regressions
from onnx_basisprune.reporting.render_annotations import render_annotations
from onnx_basisprune.reporting.render_junit import render_junit
from onnx_basisprune.reporting.render_markdown import render_markdown
from onnx_basisprune.results import CompressionReport, Gate

# Where GitHub Actions, and those that follow it, have a job's page take Markdown from.
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_NO_SLACK = Slack()


@dataclass(frozen=True)
class CheckReport:
    """A report and how it was judged."""

    report: CompressionReport
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class VerdictFiles:
    """Where a verdict goes beside the terminal.

    Attributes:
        junit: A JUnit file to write.
        markdown: A file that Markdown is appended to; the CI's step summary gets it, too, where there is one.
        github: Whether annotations for GitHub are wanted; its step summary then gets the Markdown, too.
        force: Allow an existing JUnit file to be replaced.
    """

    junit: Path | None = None
    markdown: Path | None = None
    github: bool = False
    force: bool = False

    def check(self, inputs: Sequence[Path | None] = ()) -> None:
        """Refuse, before any work is done, places that couldn't be written.

        Args:
            inputs: Files that the command reads or writes otherwise; `None` for those that it doesn't.

        Raises:
            OutputError: See `check_writable`, or a place is one of `inputs`.
        """
        for path, may_exist in ((self.junit, self.force), (self.markdown, True)):
            if path is None:
                continue
            for other in (*inputs, self.markdown if path is self.junit else None):
                if other is not None and path.resolve() == other.resolve():
                    raise OutputError(f"{quote(path)} can't be the verdict, it is another of the files given.")
            check_writable(path, force=may_exist)


def check_report(path: Path, limits: GateLimits, baseline: Path | None = None, slack: Slack = _NO_SLACK) -> CheckReport:
    """Hold a report to bounds, and to that of the last release.

    Args:
        path: The JSON that `compress --report` wrote.
        limits: The bounds.
        baseline: The last release's report; `None` for none.
        slack: How much worse than the baseline the model may be.

    Raises:
        ConfigError: There is neither a bound nor a baseline: nothing could fail.
        ReportError: A file isn't such a report.
    """
    if baseline is None and not limits.has_any:
        raise ConfigError(
            "there is no gate, so nothing could fail: give at least one, such as --max-drop 1, or --baseline OLD.json."
        )
    report = read_report(path)
    gates = judge_limits(report, limits)
    if baseline is not None:
        gates += judge_regressions(read_report(baseline), report, slack)
    return CheckReport(report, gates)


def write_verdict(
    files: VerdictFiles, subject: str, gates: Sequence[Gate], report: CompressionReport | None = None
) -> str:
    """Write a verdict to all files that were asked for.

    Args:
        files: Where it goes.
        subject: What was judged.
        gates: How.
        report: Whose figures the Markdown shows; `None` for none.

    Returns:
        The annotations to print; empty where none are wanted.

    Raises:
        OutputError: A file can't be written.
    """
    if files.junit is not None:
        write_atomically(render_junit(subject, gates).encode(), files.junit, force=files.force)
    for path in _list_markdown_targets(files):
        _append(render_markdown(subject, gates, report), path)
    return render_annotations(gates) if files.github else ""


def _list_markdown_targets(files: VerdictFiles) -> list[Path]:
    """Return where Markdown goes: the file that is named and the CI's step summary, once where they are the same."""
    targets = [] if files.markdown is None else [files.markdown]
    summary = os.environ.get(SUMMARY_VARIABLE)
    wanted = files.github or files.markdown is not None
    if wanted and summary and all(path.resolve() != Path(summary).resolve() for path in targets):
        targets.append(Path(summary))
    return targets


def _append(text: str, path: Path) -> None:
    """Add text at the end of a file, which is made where it doesn't exist.

    Raises:
        OutputError: It can't be written.
    """
    try:
        # Names from files may have lone surrogates, which UTF-8 can't hold.
        with path.open("a", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(text)
    except OSError as error:
        raise OutputError(describe_write_error(path, error, len(text))) from error
