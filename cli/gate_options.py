"""Options that say what a model is held to, and where the verdict goes; for every command that judges."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from onnx_basisprune.cli.options import FILE
from onnx_basisprune.cli.parameter_types import Amount, Fraction
from onnx_basisprune.cli.sections import Function, apply_options, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_basisprune.results import CompressionReport, Gate

_GATES = "Gates (exit code 3 where one fails)"
_VERDICT = "The verdict as files"
_VERDICT_NAMES = ("junit", "markdown", "github")


def max_drop_gate_option() -> Callable[[Function], Function]:
    """Return `--max-drop` as a gate only."""
    return option(
        "--max-drop",
        section=_GATES,
        type=float,
        metavar="PP",
        help="At most PP percentage points of accuracy lost (without labels, of agreement).",
    )


def size_and_accuracy_gate_options() -> Callable[[Function], Function]:
    """Return the gates that need a compression report."""
    return apply_options(
        option("--max-macs", section=_GATES, type=Amount(), metavar="N", help="At most N multiply-adds, such as 300M."),
        option("--max-parameters", section=_GATES, type=Amount(), metavar="N", help="At most N parameters."),
        option("--max-file-bytes", section=_GATES, type=Amount(), metavar="N", help="At most N bytes on disk."),
        option(
            "--min-accuracy",
            section=_GATES,
            type=Fraction(),
            metavar="A",
            help="Top-1 accuracy of at least A, a fraction or a percentage: 0.75 or 75%.",
        ),
    )


def speedup_gate_options() -> Callable[[Function], Function]:
    """Return `--min-speedup` and `--strict`."""
    return apply_options(
        option(
            "--min-speedup",
            section=_GATES,
            type=float,
            metavar="X",
            help="Old time / new time of at least X.",
        ),
        option(
            "--strict",
            section=_GATES,
            is_flag=True,
            help="Judge accuracy and speed by the pessimistic end of their 95 % interval, not by the estimate.",
        ),
    )


def verdict_options() -> Callable[[Function], Function]:
    """Return the options that `take_verdict_files` takes."""
    return apply_options(
        option(
            "--junit",
            section=_VERDICT,
            type=FILE,
            metavar="FILE.xml",
            help="Write the gates as a JUnit file, a test case each.",
        ),
        option(
            "--markdown",
            section=_VERDICT,
            type=FILE,
            metavar="FILE.md",
            help="Append gates and figures to FILE.md as Markdown, and to $GITHUB_STEP_SUMMARY where that is set.",
        ),
        option(
            "--github",
            section=_VERDICT,
            is_flag=True,
            help="Print an annotation per gate for GitHub Actions, and append the Markdown to its step summary.",
        ),
    )


def take_verdict_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of `verdict_options` from a command's, and return them."""
    return {name: options.pop(name) for name in _VERDICT_NAMES}


def report_verdict(
    files: Any, subject: str, gates: Sequence[Gate], report: CompressionReport | None = None, *, to_stderr: bool = False
) -> bool:
    """Write the verdict's files and print the annotations.

    Args:
        files: A `checking.VerdictFiles`.
        subject: What was judged.
        gates: How.
        report: Whose figures the Markdown shows.
        to_stderr: Where stdout is taken by JSON; GitHub reads annotations in both.

    Returns:
        Whether all gates passed.
    """
    from onnx_basisprune.checking import write_verdict

    click.echo(write_verdict(files, subject, gates, report), nl=False, err=to_stderr)
    return all(gate.passed for gate in gates)
