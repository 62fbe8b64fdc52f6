"""`basisprune inspect`: what a model consists of."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_basisprune.cli.options import (
    FILE,
    feed_option,
    json_options,
    verbosity_options,
)
from onnx_basisprune.cli.parameter_types import NumberList
from onnx_basisprune.cli.sections import SectionCommand, option


@click.command(cls=SectionCommand)
@click.argument("model", type=FILE)
@option(
    "--input-shape",
    section="What is shown",
    type=NumberList(int, 1),
    metavar="N,C,H,W",
    help="The input's shape, where the model leaves height or width open.",
)
@option(
    "--exclude",
    section="What is shown",
    multiple=True,
    metavar="NODE",
    help="Show this node as left out; can be repeated.",
)
@feed_option("What is shown")
@option(
    "--all",
    "every_node",
    section="What is shown",
    is_flag=True,
    help="List every node, not only those with parameters or multiply-adds.",
)
@json_options()
@verbosity_options()
def inspect(
    *,
    model: Path,
    input_shape: tuple[int, ...] | None,
    exclude: tuple[str, ...],
    feed: tuple[str, ...],
    every_node: bool,
    json_target: Path | None,
    force: bool,
) -> None:
    """Show what MODEL consists of and what can be pruned.

    Lists the nodes with their cost, and for each whether it can be decomposed, or why not.

    MACs are multiply-adds for one image. The full rank is where a decomposed Conv is exact; up to the
    break-even rank it takes fewer MACs than before.
    """
    from onnx_basisprune import inspection
    from onnx_basisprune.cli.console import check_json_target, open_console, write_json
    from onnx_basisprune.cli.inspection_table import print_inspection

    check_json_target(json_target, force=force)
    result = inspection.inspect_model(model, exclude, input_shape, feed)
    if write_json(result, json_target, force=force):
        print_inspection(open_console(), result, every_node=every_node)
