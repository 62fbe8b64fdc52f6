"""`basisprune init`: a file of options for a model."""

from __future__ import annotations

import os
from pathlib import Path

import click

from onnx_basisprune.cli.options import FILE, read_verbosity, verbosity_options
from onnx_basisprune.cli.parameter_types import NumberList
from onnx_basisprune.cli.sections import CONFIG_FILE_NAME, MAIN_COMMAND, SectionCommand, option


@click.command(cls=SectionCommand, reads_config=False)
@click.argument("model", type=FILE)
@option(
    "--input-shape",
    section="What is looked at",
    type=NumberList(int, 1),
    metavar="N,C,H,W",
    help="The input's shape, where the model leaves height or width open.",
)
@option(
    "-o",
    "--output",
    section="Output",
    type=FILE,
    default=CONFIG_FILE_NAME,
    show_default=True,
    metavar="FILE.toml",
    help="Where it goes; what is found by itself is called so.",
)
@option("--force", section="Output", is_flag=True, help="Replace an existing file.")
@verbosity_options()
@click.pass_context
def init(ctx: click.Context, /, *, model: Path, input_shape: tuple[int, ...] | None, output: Path, force: bool) -> None:
    """Write a basisprune.toml for MODEL.

    Says what was found in the model, and lists every option with its meaning and its default, commented out.
    """
    from onnx_basisprune import inspection
    from onnx_basisprune.cli.config_template import render_template
    from onnx_basisprune.cli.inspection_table import list_findings
    from onnx_basisprune.files import check_writable, write_atomically

    check_writable(output, force=force)
    findings = list_findings(inspection.inspect_model(model, (), input_shape))
    group = ctx.find_root().command
    commands = group.commands if isinstance(group, click.Group) else {}
    configured = {name: command for name, command in commands.items() if getattr(command, "reads_config", False)}
    text = render_template(configured, _find_way(output.parent, model), findings)
    write_atomically(text.encode(errors="replace"), output, force=force)
    if read_verbosity(ctx).quiet:
        return
    for line in findings:
        click.echo(line)
    click.echo(f"Written: {output}. Set data in it, then run `basisprune {MAIN_COMMAND}`.")


def _find_way(folder: Path, model: Path) -> str:
    """Return a model's path as seen from a folder, with slashes; the whole one where there is no other."""
    try:
        return Path(os.path.relpath(model, folder)).as_posix()
    except ValueError:  # another drive
        return model.resolve().as_posix()
