"""Options from a file: `basisprune.toml`, or `[tool.basisprune]` in `pyproject.toml`.

At the top stand the options of `compress`, each by its name without the dashes; those of another command stand in a
table of its name. Options that describe the model (how images become its input, its labels, what runs it) hold for
every command that has them. Paths are relative to the file.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from onnx_basisprune.cli.parameter_types import Count, NumberList
from onnx_basisprune.cli.sections import CONFIG_FILE_NAME, MAIN_COMMAND
from onnx_basisprune.errors import ConfigError, quote, summarize_error

_PROJECT_FILE_NAME = "pyproject.toml"
_STDOUT = "-"
# Options take a few kilobytes; a `pyproject.toml` may hold much else.
_MOST_BYTES = 2**20
_LONGEST_VALUE = 60
_LONGEST_MESSAGE = 300
_BEYOND = 2**63
Commands = Mapping[str, click.Command]


class ConfigFile(NamedTuple):
    """A file with options.

    Attributes:
        path: The file.
        content: What it sets.
    """

    path: Path
    content: Mapping[str, Any]


class Kind(NamedTuple):
    """What an option's value is in the file.

    Attributes:
        types: Of a value, or of each of a list.
        words: The same for people.
        is_list: Whether it is a list.
    """

    types: tuple[type, ...]
    words: str
    is_list: bool


def find_config() -> ConfigFile | None:
    """Return the file nearest to the working directory, in it or above it.

    In each folder `basisprune.toml` goes before a `pyproject.toml`; one without `[tool.basisprune]` doesn't count.

    Raises:
        ConfigError: A file can't be read or isn't TOML.
    """
    try:
        above = Path.cwd().parents
    except OSError:  # it was removed
        return None
    # Relative where that is enough: what is in reports should be what people would type.
    for folder in (Path(), *above):
        path = folder / CONFIG_FILE_NAME
        # Also a folder, or a link that leads nowhere: to pass it over would be to run without what the user has set.
        if os.path.lexists(path):
            return read_config(path)
        path = folder / _PROJECT_FILE_NAME
        if os.path.isfile(path) and _read_project(path) is not None:  # noqa: PTH113  # Path's raises where it may not look
            return read_config(path)
    return None


def read_config(path: Path) -> ConfigFile:
    """Read a file that sets options.

    Raises:
        ConfigError: The file can't be read, isn't TOML, or is a `pyproject.toml` without `[tool.basisprune]`.
    """
    if path.name != _PROJECT_FILE_NAME:
        return ConfigFile(path, _read_toml(path))
    content = _read_project(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{quote(path)} has no table [tool.basisprune]: add one, or name another file.")
    return ConfigFile(path, content)


def _read_project(path: Path) -> Any:
    """Return what `[tool.basisprune]` holds, `None` where there is none."""
    tools = _read_toml(path).get("tool")
    return tools.get("basisprune") if isinstance(tools, dict) else None


def _read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's content."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no regular file"
            raise ConfigError(f"{quote(path)} is {kind}; expected a file of options: rename or remove it.")
        if state.st_size > _MOST_BYTES:
            raise ConfigError(
                f"{quote(path)} has {state.st_size:,} bytes; expected a file of options, at most {_MOST_BYTES:,} bytes."
            )
        # Some editors begin a file with a mark of the byte order.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{quote(path)} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{quote(path)} isn't TOML: {summarize_error(error)}.") from error


def choose_defaults(config: ConfigFile, commands: Commands, name: str) -> dict[str, Any]:
    """Return what a file sets for a command, by parameter name, as the command line would hand it over.

    Args:
        config: The file; the whole of it is checked.
        commands: All commands that can take options from a file.
        name: The one that runs.

    Raises:
        ConfigError: A key isn't the name of an option, or its value is of the wrong type.
    """
    # `report = "FILE"` is an option of the main command, `[report]` the table of the command of this name.
    options = list_keys(commands[MAIN_COMMAND])
    names = [key for key in commands if key != MAIN_COMMAND]
    tables = {
        key: value
        for key, value in config.content.items()
        if key in names and (isinstance(value, dict) or key not in options)
    }
    top = {key: value for key, value in config.content.items() if key not in tables}
    found = {MAIN_COMMAND: _read_table(config.path, "", top, commands, MAIN_COMMAND)}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{quote(config.path)}: {key} is {_show_value(table)}; expected a table, [{key}].")
        found[key] = _read_table(config.path, f"{key}.", table, commands, key)
    if name == MAIN_COMMAND:
        return found[name]
    shared = {param.name for param in commands[name].params if getattr(param, "is_shared", False)}
    return {
        **{key: value for key, value in found[MAIN_COMMAND].items() if key in shared},
        **found.get(name, {}),
    }


def list_keys(command: click.Command) -> dict[str, click.Parameter]:
    """Return the parameters that a file can set by their keys, in the order of the help."""
    return {name_key(param): param for param in command.params if not getattr(param, "is_about_files", False)}


def name_key(param: click.Parameter) -> str:
    """Return what a parameter is called in a file: its long option without the dashes, or an argument's name."""
    names = [name for name in param.opts if name.startswith("--")]
    return names[0][2:] if names else str(param.name)


def drop_overridden(
    defaults: Mapping[str, Any], params: Collection[click.Parameter], given: Collection[str]
) -> dict[str, Any]:
    """Return what a file sets without what the command line puts something else in the place of.

    Args:
        defaults: What the file sets, by parameter name.
        params: The command's.
        given: Names of those on the command line.
    """
    dropped = {name for param in params if param.name in given for name in getattr(param, "overrides", ())}
    return {name: value for name, value in defaults.items() if name in given or name not in dropped}


def _read_table(path: Path, prefix: str, table: Mapping[str, Any], commands: Commands, name: str) -> dict[str, Any]:
    """Return a table's values by parameter name."""
    params, values = list_keys(commands[name]), {}
    for key, value in table.items():
        param = params.get(key.replace("_", "-"), params.get(key))
        if param is None or param.name is None:
            raise ConfigError(f"{quote(path)}: {quote(prefix + key)} isn't an option{_suggest(key, commands, name)}")
        if param.name in values:
            raise ConfigError(f"{quote(path)}: {quote(prefix + key)} is there twice, with - and with _.")
        values[param.name] = _check_value(path, prefix + key, value, param, commands[name])
    return values


def _suggest(key: str, commands: Commands, name: str) -> str:
    """Return the end of the message about an unknown key: what may be meant."""
    if key == MAIN_COMMAND:
        return f": the options of {MAIN_COMMAND} stand at the top, in no table of their own."
    spelled = key.replace("_", "-")
    owners = [other for other, command in commands.items() if spelled in list_keys(command)]
    if owners:
        where = "at the top of the file" if owners[0] == MAIN_COMMAND else f"in the table [{owners[0]}]"
        return f" of {name}, but of {owners[0]}: put it {where}."
    known = [*list_keys(commands[name]), *(() if name != MAIN_COMMAND else commands)]
    nearest = difflib.get_close_matches(spelled, known, n=1)
    return f"; did you mean {quote(nearest[0])}?" if nearest else f" of {name}; `basisprune {name} --help` lists them."


def _check_value(path: Path, key: str, value: Any, param: click.Parameter, command: click.Command) -> Any:
    """Return a value as the command line would hand it over.

    Raises:
        ConfigError: It isn't what the option takes.
    """
    kind = describe_kind(param)
    items = value if isinstance(value, list) and kind.is_list else [value]
    if (not items and not param.multiple) or any(type(item) not in kind.types or _is_beyond(item) for item in items):
        raise ConfigError(f"{quote(path)}: {key} is {_show_value(value)}; expected {kind.words}.")
    if isinstance(param.type, click.Path):
        items = [item if item == _STDOUT else str(path.parent / item) for item in items]
    ready: Any = items if param.multiple or param.nargs != 1 else items[0]
    if isinstance(param.type, NumberList) and not param.multiple:
        ready = ",".join(map(str, items))
    try:
        param.type_cast_value(click.Context(command), ready)
    except click.BadParameter as error:
        raise ConfigError(f"{quote(path)}: {key}: {_shorten(error.message, _LONGEST_MESSAGE)}") from error
    return ready


def _is_beyond(item: Any) -> bool:
    """Return whether a value is none that an option could have: a number over TOML's 64 bits, or a text with a NUL."""
    return (type(item) is int and abs(item) >= _BEYOND) or (isinstance(item, str) and "\0" in item)


def _show_value(value: Any) -> str:
    """Return a value as it stands in a file, more or less, on one line."""
    try:
        return _shorten(json.dumps(value, default=str), _LONGEST_VALUE)
    except (ValueError, RecursionError):  # thousands of digits, or of tables within each other
        return "too large to be shown"


def _shorten(text: str, length: int) -> str:
    """Return the begin of a text."""
    return text if len(text) <= length else f"{text[:length]}…"


def describe_kind(param: click.Parameter) -> Kind:
    """Return what a parameter's value is in a file."""
    is_list = isinstance(param.type, NumberList) or param.multiple or param.nargs != 1
    types, word = _find_type(param)
    if not is_list:
        return Kind(types, f"{'' if types == (bool,) or word == 'text' else 'a '}{word}", is_list=False)
    many = {"text": "texts", "text or number": "texts or numbers"}.get(word, f"{word}s")
    return Kind(types, f"a list of {many}", is_list=True)


def _find_type(param: click.Parameter) -> tuple[tuple[type, ...], str]:
    """Return the types of a single value, and a word for it."""
    kind = param.type
    if getattr(param, "is_flag", False):
        return (bool,), "true or false"
    if getattr(param, "count", False) or isinstance(kind, (Count, click.types.IntParamType)):
        return (int,), "whole number"
    if isinstance(kind, NumberList):
        return ((int,), "whole number") if kind.is_whole else ((int, float), "number")
    if isinstance(kind, click.types.FloatParamType):
        return (int, float), "number"
    if isinstance(kind, (click.Path, click.Choice, click.types.StringParamType)):
        return (str,), "text"
    return (str, int, float), "text or number"


def list_used(ctx: click.Context) -> Iterator[str]:
    """Go through the keys of a file that hold in a run, by the names on the command line."""
    for param in ctx.command.params:
        if ctx.get_parameter_source(str(param.name)) is click.core.ParameterSource.DEFAULT_MAP:
            yield name_key(param)
