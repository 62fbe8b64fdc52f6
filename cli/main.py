"""The command `basisprune`: its subcommands, and what every error, interrupt and closed pipe comes to."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

import onnx_basisprune
from onnx_basisprune.cli.benchmark import benchmark
from onnx_basisprune.cli.check import check
from onnx_basisprune.cli.compress import compress
from onnx_basisprune.cli.evaluate import evaluate
from onnx_basisprune.cli.exit_codes import ERROR, INTERRUPTED, TERMINATED, WRONG_USAGE
from onnx_basisprune.cli.init import init
from onnx_basisprune.cli.inspect import inspect
from onnx_basisprune.cli.options import read_verbosity
from onnx_basisprune.cli.report import report
from onnx_basisprune.cli.schema import schema
from onnx_basisprune.errors import BasispruneError, ConfigError, quote

# From this -v count on, expected errors show where they were raised, too.
_TRACEBACK_OF_EXPECTED = 2
# Signals that asked the process to end.
_received: list[int] = []


class CommandGroup(click.Group):
    """Turns what its commands raise into one line on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        """Return the commands in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command.

        Raises:
            click.exceptions.Exit: The command failed; what there is to say has been said.
        """
        _allow_any_text()
        try:
            return super().invoke(ctx)
        except BasispruneError as error:
            _print_error(str(error), show_traceback=read_verbosity(ctx).verbose >= _TRACEBACK_OF_EXPECTED)
            ctx.exit(WRONG_USAGE if isinstance(error, ConfigError) else ERROR)
        except KeyboardInterrupt:
            _end_interrupted(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:  # files are dealt with where they are written
            _print_error(_describe_fault(error), show_traceback=read_verbosity(ctx).verbose >= 1)
            ctx.exit(ERROR)
        except MemoryError:
            _print_error("Out of memory: try a smaller --batch-size.", show_traceback=False)
            ctx.exit(ERROR)
        except Exception as error:  # noqa: BLE001  # the last resort: whatever is left is a bug of ours
            if _received:  # a native module that was being loaded makes an error of its own of it
                _end_interrupted(ctx)
            verbose = read_verbosity(ctx).verbose >= 1
            hint = "" if verbose else " (run again with -v for the details)"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            _print_error(f"internal error, please report it{hint}: {reason}", show_traceback=verbose)
            ctx.exit(ERROR)


def _allow_any_text() -> None:
    """Let streams replace what their encoding can't show (Windows' cp1252, the C locale)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")


def _print_error(message: str, *, show_traceback: bool) -> None:
    """Print one line, after the traceback of the error being handled where that is wanted."""
    if show_traceback:
        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"Error: {message}", err=True)


def _describe_fault(error: OSError) -> str:
    """Return in one line what the system refused; what has no name of its own is what is printed."""
    return f"{quote(error.filename) if error.filename else 'standard output'}: {error.strerror or error}."


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and stop."""
    if wanted and not ctx.resilient_parsing:
        click.echo(f"basisprune {onnx_basisprune.__version__}")
        ctx.exit()


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def basisprune() -> None:
    """Make trained ONNX image classifiers smaller and faster.

    Takes the ONNX file and a folder of images; needs no training code.

    \b
    A first run:
      basisprune compress model.onnx --data calib/
    """  # noqa: D301  # click's backspace character, not a backslash


for _command in (compress, check, inspect, evaluate, benchmark, report, init, schema):
    basisprune.add_command(_command)


def _end_interrupted(ctx: click.Context) -> NoReturn:
    """Say that the run was interrupted, and end with the exit code of the signal."""
    click.echo("Interrupted.", err=True)
    ctx.exit(_choose_code())


def _choose_code() -> int:
    """Return the exit code of the signal that was received."""
    return TERMINATED if signal.SIGTERM in _received else INTERRUPTED


def _leave_at_once(code: object) -> NoReturn:
    """End the process with this exit code and no other.

    A signal that comes while C code runs Python (an import of PyTorch does) is remembered by the interpreter, which in
    the end would kill itself by SIGINT, whatever was made of the signal since.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) and code != ERROR else _choose_code())


def _stop(number: int, _: FrameType | None) -> None:
    """End the run as Ctrl-C does: SIGTERM, as CI systems send it, cleans up too, and is heeded once."""
    _received.append(number)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _replace_closed_streams() -> None:
    """Print to nowhere where the shell has closed a stream (`>&-`): Python has `None` there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # open to the end


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _replace_closed_streams()
    try:
        basisprune(prog_name="basisprune")
    except OSError as error:  # help and version, which are printed before a command runs
        _print_error(_describe_fault(error), show_traceback=False)
        sys.exit(ERROR)
    except SystemExit as end:
        if not _received:
            raise
        _leave_at_once(end.code)


if __name__ == "__main__":
    main()
