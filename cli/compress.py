"""`basisprune compress`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_basisprune.cli.compress_options import compression_options
from onnx_basisprune.cli.exit_codes import DONE, GATE_FAILED
from onnx_basisprune.cli.gate_options import report_verdict, take_verdict_options
from onnx_basisprune.cli.options import FILE, read_verbosity
from onnx_basisprune.cli.sections import SectionCommand
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.numbers import show_gate


@click.command(cls=SectionCommand)
@click.argument("model", type=FILE)
@compression_options
@click.pass_context
def compress(ctx: click.Context, /, *, model: Path, **options: Any) -> None:
    """Compress MODEL, a trained ONNX image classifier.

    Writes a smaller and faster ONNX file with the same inputs and outputs, and shows speed and accuracy before
    and after, measured on images that were not calibrated on.

    \b
    Exit codes: 0 done, 1 error, 2 wrong usage, 3 the target was not reached or a gate failed
    (the best valid model is written all the same), 130 or 143 interrupted.
    """  # noqa: D301  # click's backspace character, not a backslash
    verdict = take_verdict_options(options)
    config = CompressionConfig(model=model, **options)

    from onnx_basisprune import pipeline
    from onnx_basisprune.checking import VerdictFiles
    from onnx_basisprune.cli.compression_table import print_compression
    from onnx_basisprune.cli.console import ConsoleProgress, open_console

    files = VerdictFiles(**verdict, force=config.force)
    files.check([value for value in vars(config).values() if isinstance(value, Path)])
    with ConsoleProgress(read_verbosity(ctx)) as progress:
        report = pipeline.compress(config, progress)
    verbosity = read_verbosity(ctx)
    if not verbosity.quiet:
        print_compression(open_console(), report, layers=config.dry_run or verbosity.verbose > 0)
    for gate in [item for item in report.gates if not item.passed]:
        progress.warn(f"gate {show_gate(gate)}.")
    passed = report_verdict(files, str(model), report.gates, report)
    ctx.exit(DONE if passed else GATE_FAILED)
