"""`basisprune check`: whether a report is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_basisprune.cli.exit_codes import DONE, GATE_FAILED
from onnx_basisprune.cli.gate_options import (
    max_drop_gate_option,
    report_verdict,
    size_and_accuracy_gate_options,
    speedup_gate_options,
    take_verdict_options,
    verdict_options,
)
from onnx_basisprune.cli.options import FILE, read_verbosity, verbosity_options
from onnx_basisprune.cli.sections import SectionCommand, option
from onnx_basisprune.limits import GateLimits, Slack
from onnx_basisprune.numbers import show_gate

_BASELINE = "Against the last release"


@click.command(cls=SectionCommand)
@click.argument("report", type=FILE)
@max_drop_gate_option()
@speedup_gate_options()
@size_and_accuracy_gate_options()
@option(
    "--baseline",
    section=_BASELINE,
    type=FILE,
    metavar="OLD.json",
    help="The last release's report: accuracy, speed-up and sizes mustn't be worse.",
)
@option(
    "--slack-accuracy",
    section=_BASELINE,
    type=float,
    metavar="PP",
    help="Percentage points of accuracy that may be lost.  [default: what the intervals can't tell from none]",
)
@option(
    "--slack-speedup",
    section=_BASELINE,
    type=float,
    metavar="PERCENT",
    help="How much of the speed-up may be lost.  [default: what the intervals can't tell from none, at least 4]",
)
@option(
    "--slack-size",
    section=_BASELINE,
    type=float,
    metavar="PERCENT",
    help=f"How much multiply-adds, parameters and file may grow.  [default: {Slack.size:g}]",
)
@verdict_options()
@option("--force", section="Output", is_flag=True, help="Replace an existing --junit file.")
@verbosity_options()
@click.pass_context
def check(
    ctx: click.Context,
    /,
    *,
    report: Path,
    baseline: Path | None,
    slack_accuracy: float | None,
    slack_speedup: float | None,
    slack_size: float | None,
    force: bool,
    **options: Any,
) -> None:
    """Judge REPORT, the JSON that `compress --report` wrote.

    Prints a line per gate. A gate whose figure the report doesn't have fails.

    \b
    Exit codes: 0 all gates passed, 1 no readable report, 2 wrong usage (no gate given, say),
    3 a gate failed.
    """  # noqa: D301  # click's backspace character, not a backslash
    from onnx_basisprune.checking import VerdictFiles, check_report

    files = VerdictFiles(**take_verdict_options(options), force=force)
    limits = GateLimits(**options)
    given = {"accuracy": slack_accuracy, "speedup": slack_speedup, "size": slack_size}
    slack = Slack(**{name: value for name, value in given.items() if value is not None}, strict=limits.strict)
    files.check([report, baseline])
    checked = check_report(report, limits, baseline, slack)
    for gate in checked.gates:
        if not (gate.passed and read_verbosity(ctx).quiet):
            click.echo(show_gate(gate))
    passed = report_verdict(files, str(report), checked.gates, checked.report)
    ctx.exit(DONE if passed else GATE_FAILED)
