"""`basisprune schema`: what the JSON of the other commands looks like."""

from __future__ import annotations

import click

from onnx_basisprune import read_schema


@click.command()
@click.argument("command", type=click.Choice(["compress", "evaluate", "benchmark"]), default="compress")
def schema(command: str) -> None:
    """Print the JSON Schema of what COMMAND writes.

    That is the report of compress (the default), or the JSON of evaluate or benchmark.
    """
    click.echo(read_schema(command), nl=False)
