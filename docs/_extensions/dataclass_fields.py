"""A directive that lists a dataclass's fields, and those of the dataclasses in it, from their docstrings.

    ```{dataclass-fields}
    onnx_basisprune.results.CompressionReport
    ```

What isn't documented is an error: the pages that say what a report holds can't fall behind the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

_ENTRY = re.compile(r"^(\w+): (.*)$")


class DataclassFields(Directive):
    """A section per dataclass with a table of its fields: name, type, meaning."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the tables: the named classes, each followed by those that it brings along."""
        try:
            lines = [line for kind in find_dataclasses(self.content) for line in describe_dataclass(kind)]
        except (ImportError, AttributeError, ValueError) as error:
            raise self.error(str(error)) from error
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(StringList(lines, source="dataclass-fields"), 0, holder, match_titles=True)
        return holder.children


def find_dataclasses(paths: Iterable[str]) -> list[type]:
    """Return the dataclasses at these dotted paths and all that their fields hold, each once."""
    found: list[type] = []
    for path in paths:
        module, _, name = path.rpartition(".")
        queue = [getattr(importlib.import_module(module), name)]
        for kind in queue:
            if kind not in found:
                found.append(kind)
                queue += [inner for hint in get_type_hints(kind).values() for inner in list_dataclasses(hint)]
    return found


def list_dataclasses(hint: Any) -> Iterator[type]:
    """Yield the dataclasses that a type hint names."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for inner in get_args(hint):
        yield from list_dataclasses(inner)


def describe_dataclass(kind: type) -> Iterator[str]:
    """Yield the Markdown of a dataclass: a heading, its purpose, a row per field.

    Raises:
        ValueError: A field isn't documented.
    """
    meanings = read_attributes(kind)
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    missing = [name for name in names if name not in meanings]
    if missing:
        raise ValueError(f"{kind.__name__} doesn't say in its docstring what {', '.join(missing)} mean")
    purpose = (kind.__doc__ or "").strip().splitlines()[0]
    yield from (f"### {kind.__name__}", "", purpose, "", "| key | type | meaning |", "|---|---|---|")
    for name in names:
        yield f"| `{name}` | {show_type(hints[name])} | {meanings[name]} |"
    yield ""


def read_attributes(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each attribute (Google style)."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, text = (base.__doc__ or "").partition("Attributes:\n")
        name, indent = "", 0
        for line in text.splitlines():
            depth = len(line) - len(line.lstrip())
            entry = _ENTRY.match(line.strip())
            if entry and depth <= (indent or depth):
                name, indent = entry[1], depth
                meanings[name] = entry[2]
            elif line.strip() and name:
                meanings[name] += f" {line.strip()}"
    # What Python calls None is null in JSON; a bar would end the table's cell.
    return {name: text.replace("`None`", "null").replace("|", r"\|") for name, text in meanings.items()}


def show_type(hint: Any) -> str:
    """Return a type as a reader of JSON knows it; dataclasses link to their section."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if origin in (Union, types.UnionType):
        return " or ".join(show_type(part) for part in arguments)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {show_type(arguments[0])}"
        return f"list of {len(arguments)}: {', '.join(map(show_type, arguments))}"
    names = {type(None): "null", str: "text", bool: "true/false", int: "integer", float: "number", dict: "object"}
    return names.get(origin or hint, "any")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("dataclass-fields", DataclassFields)
    return {"parallel_read_safe": True}
