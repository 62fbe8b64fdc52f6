"""`basisprune report`: a report as a page to look at."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_basisprune.cli.options import FILE
from onnx_basisprune.cli.sections import SectionCommand, option


@click.command(cls=SectionCommand)
@click.argument("report", type=FILE)
@option("--html", section="Output", type=FILE, required=True, metavar="FILE.html", help="Where the page goes.")
@option("--force", section="Output", is_flag=True, help="Replace an existing page.")
def report(report: Path, html: Path, force: bool) -> None:
    """Make a page of REPORT, the JSON that `compress --report` wrote.

    One file without scripts and without anything to load: it can be mailed, attached to a build, or printed.
    """
    from onnx_basisprune import read_report, render_html
    from onnx_basisprune.errors import OutputError, quote
    from onnx_basisprune.files import check_writable, write_atomically

    if html.exists() and report.exists() and html.samefile(report):
        raise OutputError(f"{quote(html)} is the report itself, which is never written over: choose another --html.")
    check_writable(html, force=force)
    write_atomically(render_html(read_report(report)).encode(), html, force=force)
