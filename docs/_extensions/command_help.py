"""A directive that shows the help of every command, option by option, under the same headings as `--help`.

    ```{command-help}
    ```

Each option gets an anchor, such as `#cmdoption-basisprune-compress-target-macs`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from onnx_basisprune.cli.main import basisprune

# click's mark of a paragraph whose lines stay as they are.
_VERBATIM = "\b\n"
_NAME = "basisprune"


class CommandHelp(Directive):
    """A section per command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections, in the order of `basisprune --help`."""
        root = click.Context(basisprune, info_name=_NAME, **basisprune.context_settings)
        commands = [(name, basisprune.get_command(root, name)) for name in basisprune.list_commands(root)]
        lines = [line for name, command in commands if command for line in describe_command(name, command, root)]
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(StringList(lines, source="command-help"), 0, holder, match_titles=True)
        return holder.children


def describe_command(name: str, command: click.Command, root: click.Context) -> Iterator[str]:
    """Yield the Markdown of one command: usage, what it does, its options."""
    context = click.Context(command, parent=root, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"## {name}", "", "```text", f"{_NAME} {name} {usage}", "```", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = paragraph.removeprefix(_VERBATIM)
        yield from (text, "") if text == paragraph else ("```text", text, "```", "")
    sections: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines = sections.setdefault(getattr(parameter, "section", "Other"), [])
            # Two spaces before a default are for terminals.
            lines += ["", f".. option:: {record[0]}", "", f"   {re.sub(' +', ' ', record[1])}"]
    for title, lines in sections.items():
        yield from (f"### {title}", "", "```{eval-rst}", f".. program:: {_NAME} {name}", *lines, "```", "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
