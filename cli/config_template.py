"""A `basisprune.toml` with every option commented out, made from the options themselves."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import click

from onnx_basisprune.cli.config_file import describe_kind, list_keys
from onnx_basisprune.cli.sections import MAIN_COMMAND, SectionOption

_WIDTH = 100


def render_template(commands: Mapping[str, click.Command], model: str, findings: Sequence[str]) -> str:
    """Return the file's text.

    Args:
        commands: Those that can take options from a file.
        model: The model's path, relative to the file.
        findings: What there is to say about the model, a line each.
    """
    lines = [
        *_wrap(
            "Options of basisprune. The command line wins over this file, paths are relative to it, and to take an "
            "option from here remove the # before its name. What stands there now is the default, or in capitals what "
            f"to put in its place. `basisprune {MAIN_COMMAND}` reads what stands above the first [table]; the other "
            "commands read their own table, and how images become the model's input, --labels and --provider from "
            "above, too."
        ),
        "",
        *(line for finding in findings for line in _wrap(finding)),
        "",
        f"model = {_quote(model)}",
    ]
    main = commands[MAIN_COMMAND]
    section = ""
    for key, param in list_keys(main).items():
        if not isinstance(param, SectionOption):
            continue
        if param.section != section:
            section = param.section
            lines += ["", "", f"# {section}", f"# {'-' * len(section)}"]
        lines += ["", *_describe_option(key, param)]
    for name, command in commands.items():
        if name == MAIN_COMMAND:
            continue
        lines += ["", "", f"[{name}]", *_wrap(command.get_short_help_str(limit=_WIDTH))]
        for key, param in list_keys(command).items():
            if isinstance(param, SectionOption) and not param.is_shared:
                lines += ["", *_describe_option(key, param)]
    return "\n".join(lines) + "\n"


def _describe_option(key: str, param: SectionOption) -> Iterator[str]:
    """Go through an option's lines: what it is, and how it is set."""
    text, mark, default = (param.help or "").partition("  [default:")
    choices = f" One of {', '.join(param.type.choices)}." if isinstance(param.type, click.Choice) else ""
    yield from _wrap(f"{text}{choices}{mark}{default}{'  [required]' if param.required else ''}")
    yield f"#{key} = {_show_default(param)}"


def _show_default(param: SectionOption) -> str:
    """Return an option's default as TOML, or a word in capitals for what is to be put there."""
    default = param.to_info_dict()["default"]
    kind = describe_kind(param)
    if isinstance(default, (list, tuple)):
        default = list(default) or None
    if default is not None:
        # JSON writes texts, numbers, truth values and lists as TOML does.
        return json.dumps(default, ensure_ascii=False)
    choices = param.type.choices if isinstance(param.type, click.Choice) else ()
    word = "|".join(choices) or param.metavar or kind.words.upper()
    # Of `N[,N...]` one is enough.
    words = word.partition("[")[0].split(",") if kind.is_list else [word]
    if str in kind.types:
        words = [_quote(item) for item in words]
    return f"[{', '.join(words)}]" if kind.is_list else words[0]


def _quote(text: str) -> str:
    """Return a text as TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _wrap(text: str) -> list[str]:
    """Return a text as lines of a comment."""
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False, break_long_words=False)]
