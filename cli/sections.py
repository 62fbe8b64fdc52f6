"""Options under headings, and commands that take what isn't on the command line from a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from onnx_basisprune.errors import ConfigError, quote

Function = TypeVar("Function", bound=Callable[..., Any])
CONFIG_FILE_NAME = "basisprune.toml"
# The command whose options stand at the top of such a file.
MAIN_COMMAND = "compress"
_CONFIG = f"{__name__}.config"


class SectionOption(click.Option):
    """An option that stands under a heading of its own in the help.

    A flag `--x` has a `--no-x`, which the help doesn't show: it takes back what a file sets.

    Args:
        section: The heading.
        is_shared: Whether it describes the model and not what a command does: one value in a file holds for all.
        overrides: Names of parameters that it puts out of force where a file sets them and not the command line.
        is_about_files: Whether a file can't set it.
    """

    def __init__(
        self,
        param_decls: Sequence[str] | None = None,
        *,
        section: str = "Other",
        is_shared: bool = False,
        overrides: Sequence[str] = (),
        is_about_files: bool = False,
        **attributes: Any,
    ) -> None:
        names = list(param_decls or ())
        self._hides_no = bool(attributes.get("is_flag")) and not is_about_files and "/" not in "".join(names)
        if self._hides_no:
            names = [f"{name}/--no-{name[2:]}" if name.startswith("--") else name for name in names]
        super().__init__(names, **attributes)
        self.section, self.is_shared, self.overrides, self.is_about_files = (
            section,
            is_shared,
            overrides,
            is_about_files,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the names and the help."""
        record = super().get_help_record(ctx)
        return (record[0].partition(" / ")[0], record[1]) if record and self._hides_no else record


class SectionCommand(click.Command):
    """A command whose help lists its options under headings, in the order of their first option.

    What isn't on the command line comes from a file, see `config_file`.

    Args:
        reads_config: Whether that is so.
    """

    def __init__(self, *args: Any, reads_config: bool = True, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.reads_config = reads_config
        if reads_config:
            self.params += [_make_config_option(), _make_isolated_option()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all options, those without a section last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            if isinstance(param, SectionOption) and param.section != "Other":
                sections.setdefault(param.section, []).append(record)
            else:
                others.append(record)
        for title, records in {**sections, "Other": others}.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at the command line, and take what it leaves open from a file.

        Raises:
            ConfigError: The file can't be used.
        """
        group = ctx.find_root().command
        if self.reads_config and isinstance(group, click.Group) and not ctx.resilient_parsing:
            values, _, order = self.make_parser(ctx).parse_args(list(args))
            # An eager option, such as --help, is all that is done.
            if not values.get("isolated") and not any(param.is_eager for param in order):
                given = {str(param.name) for param in order if values.get(str(param.name)) is not False}
                self._read_defaults(ctx, group, values.get("config_file"), given)
        return super().parse_args(ctx, args)

    def _read_defaults(self, ctx: click.Context, group: click.Group, path: str | None, given: set[str]) -> None:
        """Let a file set what the command line doesn't."""
        from onnx_basisprune.cli import config_file

        config = config_file.read_config(Path(path)) if isinstance(path, str) else config_file.find_config()
        if config is None:
            return
        commands = {name: item for name, item in group.commands.items() if getattr(item, "reads_config", False)}
        defaults = config_file.choose_defaults(config, commands, str(self.name))
        ctx.default_map = config_file.drop_overridden(defaults, self.params, given)
        ctx.meta[_CONFIG] = config.path

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say what comes from a file.

        Raises:
            ConfigError: What the options say together can't be done.
        """
        path = ctx.meta.get(_CONFIG)
        if path is None:
            return super().invoke(ctx)
        from onnx_basisprune.cli.config_file import list_used
        from onnx_basisprune.cli.options import read_verbosity

        used = list(list_used(ctx))
        if used and not read_verbosity(ctx).quiet:
            click.echo(f"From {quote(path)}: {', '.join(used)}.", err=True)
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            named = [key for key in used if re.search(rf"--{re.escape(key)}(?![\w-])", str(error))]
            if not named:
                raise
            raise ConfigError(f"{error} {quote(path)} sets {' and '.join(named)}.") from error


def _make_config_option() -> click.Option:
    """Return `--config`."""
    return SectionOption(
        ["--config", "config_file"],
        is_about_files=True,
        expose_value=False,
        type=click.Path(),
        metavar="FILE.toml",
        help="Take options that aren't given here from this file; what is a flag there, --no-FLAG takes back.  "
        "[default: the nearest basisprune.toml, or pyproject.toml with [tool.basisprune], in or above the working "
        "directory]",
    )


def _make_isolated_option() -> click.Option:
    """Return `--isolated`."""
    return SectionOption(
        ["--isolated", "--no-config", "isolated"],
        is_about_files=True,
        is_flag=True,
        expose_value=False,
        help="Take no options from any file.",
    )


def option(*names: str, section: str = "Other", **attributes: Any) -> Callable[[Function], Function]:
    """Return a decorator that adds an option under a heading, with its default shown."""
    attributes.setdefault("show_default", attributes.get("default") not in (None, False, ()))
    return click.option(*names, cls=SectionOption, section=section, **attributes)


def apply_options(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Return one decorator that adds several options, listed in this order in the help."""

    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
