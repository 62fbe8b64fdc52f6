"""`basisprune evaluate`: how often a model is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_basisprune.cli.options import (
    FILE,
    feed_option,
    json_options,
    labels_option,
    preprocess_options,
    provider_option,
    read_verbosity,
    scores_option,
    verbosity_options,
)
from onnx_basisprune.cli.parameter_types import Count
from onnx_basisprune.cli.sections import SectionCommand, option
from onnx_basisprune.measurement_config import EvaluationConfig


@click.command(cls=SectionCommand)
@click.argument("model", type=FILE)
@option(
    "--data",
    section="Images",
    type=FILE,
    required=True,
    metavar="DIR|FILE.npz",
    help="Images: a folder of class folders, a flat folder (needs --reference), or an .npz with x and y.",
)
@labels_option("Images")
@scores_option("Images")
@feed_option("Images")
@option(
    "--limit",
    section="Images",
    type=Count(1),
    metavar="N",
    help="At most N images, drawn at random, evenly over the classes.  [default: all]",
)
@option(
    "--seed",
    section="Images",
    type=Count(0),
    default=EvaluationConfig.seed,
    metavar="N",
    show_default=True,
    help="Seeds the draw.",
)
@option(
    "--reference",
    section="How it is measured",
    type=FILE,
    metavar="MODEL",
    help="The model that MODEL was made from: adds the agreement of the two and the accuracy drop.",
)
@option(
    "--batch-size",
    section="How it is measured",
    type=Count(1),
    default=EvaluationConfig.batch_size,
    metavar="N",
    help="Images per batch; fewer take less memory.",
)
@option(
    "--threads",
    section="How it is measured",
    type=Count(1),
    metavar="N",
    help="onnxruntime's threads.  [default: onnxruntime's own choice]",
)
@provider_option("How it is measured")
@preprocess_options()
@json_options()
@verbosity_options()
@click.pass_context
def evaluate(ctx: click.Context, /, *, model: Path, json_target: Path | None, force: bool, **options: Any) -> None:
    """Measure the accuracy of MODEL on labelled images.

    Top-1 and top-5 with a 95 % confidence interval; with --reference also how far it agrees with
    another model, which needs no labels.
    """
    config = EvaluationConfig(model=model, **options)

    from onnx_basisprune import measurement
    from onnx_basisprune.cli.console import ConsoleProgress, check_json_target, open_console, write_json
    from onnx_basisprune.cli.measurement_tables import print_evaluation

    check_json_target(json_target, force=force)
    with ConsoleProgress(read_verbosity(ctx)) as progress:
        report = measurement.evaluate_model(config, progress)
    if write_json(report, json_target, force=force):
        print_evaluation(open_console(), report)
