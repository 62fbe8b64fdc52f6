"""`basisprune benchmark`: how fast a model is, or how much faster than another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_basisprune.cli.exit_codes import DONE, GATE_FAILED
from onnx_basisprune.cli.gate_options import (
    report_verdict,
    speedup_gate_options,
    take_verdict_options,
    verdict_options,
)
from onnx_basisprune.cli.options import (
    FILE,
    feed_option,
    json_options,
    list_option,
    provider_option,
    read_verbosity,
    verbosity_options,
)
from onnx_basisprune.cli.parameter_types import Count, NumberList
from onnx_basisprune.cli.sections import SectionCommand, option
from onnx_basisprune.measurement_config import BenchmarkConfig
from onnx_basisprune.numbers import show_gate

_WHAT = "What is measured"
_HOW = "How long"


@click.command(cls=SectionCommand)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE, required=False)
@list_option(
    "--batch-size",
    section=_WHAT,
    metavar="N[,N...]",
    help="Images in a run; several are measured one after the other.  [default: the model's own, or 1]",
)
@list_option(
    "--threads",
    section=_WHAT,
    metavar="N[,N...]",
    help="onnxruntime's threads; several are measured one after the other.  [default: onnxruntime's own choice]",
)
@provider_option(_WHAT)
@option(
    "--input-shape",
    section=_WHAT,
    type=NumberList(int, 1),
    metavar="N,C,H,W",
    help="The input's shape, where the model leaves height or width open.",
)
@feed_option(_WHAT)
@option(
    "--cold-start/--no-cold-start",
    section=_WHAT,
    default=BenchmarkConfig.cold_start,
    show_default=True,
    help="Measure load time, first run and peak memory, each in a fresh process.",
)
@option(
    "--profile",
    section=_WHAT,
    is_flag=True,
    help="Show where the time goes, node by node; with two models a decomposed Conv beside the pair that replaced it.",
)
@option(
    "--rounds",
    section=_HOW,
    type=Count(1),
    default=BenchmarkConfig.rounds,
    metavar="N",
    help="Rounds at least; in each, every model is timed once.",
)
@option(
    "--min-seconds",
    section=_HOW,
    type=float,
    default=BenchmarkConfig.min_seconds,
    metavar="S",
    help="Seconds at least, for each measurement.",
)
@option(
    "--max-seconds",
    section=_HOW,
    type=float,
    default=BenchmarkConfig.max_seconds,
    metavar="S",
    help="Seconds at most, however many rounds were done (but five).",
)
@option(
    "--seed",
    section=_HOW,
    type=Count(0),
    default=BenchmarkConfig.seed,
    metavar="N",
    show_default=True,
    help="Seeds the input and the interval.",
)
@speedup_gate_options()
@verdict_options()
@json_options()
@verbosity_options()
@click.pass_context
def benchmark(
    ctx: click.Context,
    /,
    *,
    a: Path,
    b: Path | None,
    json_target: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Time model A, or A and B in turns, with onnxruntime.

    With two models the speed-up is the time of A divided by the time of B, with its 95 % confidence interval;
    as both run in turns, what else the machine does hits both alike.
    """
    verdict = take_verdict_options(options)
    config = BenchmarkConfig(a=a, b=b, **options)

    from onnx_basisprune import measurement
    from onnx_basisprune.checking import VerdictFiles
    from onnx_basisprune.cli.console import ConsoleProgress, check_json_target, open_console, write_json
    from onnx_basisprune.cli.measurement_tables import print_benchmark

    check_json_target(json_target, force=force)
    files = VerdictFiles(**verdict, force=force)
    files.check([a, b, json_target])
    with ConsoleProgress(read_verbosity(ctx)) as progress:
        report = measurement.benchmark_models(config, progress)
    has_stdout = write_json(report, json_target, force=force)
    if has_stdout:
        print_benchmark(open_console(), report)
    for gate in report.gates:
        if not gate.passed:
            progress.warn(f"gate {show_gate(gate)}.")
    subject = f"{a} -> {b}" if b is not None else str(a)
    passed = report_verdict(files, subject, report.gates, to_stderr=not has_stdout)
    ctx.exit(DONE if passed else GATE_FAILED)
