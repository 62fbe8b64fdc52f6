"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from onnx_basisprune.cli.parameter_types import Count, NumberList
from onnx_basisprune.cli.sections import Function, apply_options, option
from onnx_basisprune.config import DEFAULT_PROVIDER, PreprocessConfig

PRESET_NAMES = ("auto", "imagenet", "unit", "tf", "raw", "caffe")
FILE = click.Path(path_type=Path)
_QUIET, _VERBOSE = f"{__name__}.quiet", f"{__name__}.verbose"


class Verbosity(NamedTuple):
    """Whether `-q` was given, and how often `-v`."""

    quiet: bool
    verbose: int


def _join_lists(_ctx: click.Context, _param: click.Parameter, values: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Make one tuple of an option that is given several times, each time with a list."""
    return tuple(number for numbers in values for number in numbers)


def list_option(*names: str, section: str = "Other", **attributes: Any) -> Callable[[Function], Function]:
    """Return a decorator for counts that may be repeated or separated by commas."""
    return option(*names, section=section, type=NumberList(int, 1), multiple=True, callback=_join_lists, **attributes)


def preprocess_options() -> Callable[[Function], Function]:
    """Return the options that say how images become the model's input."""
    section = "How images become the model's input"
    return apply_options(
        option(
            "--preprocess",
            section=section,
            is_shared=True,
            type=click.Choice(PRESET_NAMES),
            default=PreprocessConfig.preprocess,
            help="Preset: auto tries them all against the labels and says what it chose; imagenet (mean and "
            "std of ImageNet), unit (0..1), tf (-1..1), raw (0..255), caffe (BGR, means subtracted). The "
            "options below override single values of it.",
        ),
        option(
            "--mean",
            section=section,
            is_shared=True,
            type=NumberList(float),
            metavar="M,M,M",
            help="Subtracted per channel, after --scale.",
        ),
        option(
            "--std",
            section=section,
            is_shared=True,
            type=NumberList(float),
            metavar="S,S,S",
            help="Divided by per channel, after --mean.",
        ),
        option(
            "--scale",
            section=section,
            is_shared=True,
            type=float,
            metavar="F",
            help="Multiplies the pixel values 0..255 first, e.g. 0.00392157 for 1/255.",
        ),
        option(
            "--resize",
            section=section,
            is_shared=True,
            type=Count(0),
            metavar="PIXELS",
            help="Shorter side before the crop; 0 for no resize.  [default: what covers the model's size]",
        ),
        option(
            "--crop",
            section=section,
            is_shared=True,
            type=Count(0),
            metavar="PIXELS",
            help="Side of the centre crop; 0 for none.  [default: the model's size]",
        ),
        option(
            "--color",
            section=section,
            is_shared=True,
            type=click.Choice(["rgb", "bgr", "gray"]),
            help="Order of the channels.  [default: the preset's]",
        ),
        option(
            "--layout",
            section=section,
            is_shared=True,
            type=click.Choice(["nchw", "nhwc"]),
            help="Where the channels stand in the model's input.  [default: read from the model]",
        ),
    )


def labels_option(section: str) -> Callable[[Function], Function]:
    """Return `--labels`."""
    return option(
        "--labels",
        section=section,
        is_shared=True,
        type=FILE,
        metavar="FILE",
        help="JSON from folder or file name to class index, where the sorted names of the class folders "
        "aren't the model's class order.",
    )


def scores_option(section: str) -> Callable[[Function], Function]:
    """Return `--scores`; `--output` would be the word, but names the file that is written."""
    return option(
        "--scores",
        section=section,
        is_shared=True,
        metavar="NAME",
        help="The model's output that holds the class scores, where it has several; the others stay outputs.  "
        "[default: the first floating-point one]",
    )


def feed_option(section: str) -> Callable[[Function], Function]:
    """Return `--feed`."""
    return option(
        "--feed",
        section=section,
        is_shared=True,
        multiple=True,
        metavar="NAME=VALUE",
        help="What an input beside the images is fed in every run, such as temperature=1, train=false or "
        "size=224,224: one number fills it, several are one image's; can be repeated.",
    )


def provider_option(section: str) -> Callable[[Function], Function]:
    """Return `--provider`."""
    return option(
        "--provider",
        section=section,
        is_shared=True,
        default=DEFAULT_PROVIDER,
        metavar="NAME",
        help="onnxruntime's execution provider for whatever it runs, one that the installed onnxruntime offers.",
    )


def json_options() -> Callable[[Function], Function]:
    """Return `--json` and the `--force` that goes with it."""
    return apply_options(
        option(
            "--json",
            "json_target",
            section="Output",
            type=FILE,
            metavar="FILE|-",
            help="Write the result as JSON; - prints it to stdout instead of the table.",
        ),
        option("--force", section="Output", is_flag=True, help="Replace an existing --json file."),
    )


def verbosity_options() -> Callable[[Function], Function]:
    """Return `-q` and `-v`; what was given is told by `read_verbosity`."""
    return apply_options(
        option(
            "-q",
            "--quiet",
            section="Output",
            is_flag=True,
            expose_value=False,
            callback=_store_quiet,
            help="No progress and no notes, only errors and warnings.",
        ),
        option(
            "-v",
            "--verbose",
            section="Output",
            count=True,
            expose_value=False,
            callback=_store_verbose,
            show_default=False,
            help="More detail: steps with their times, tracebacks of internal errors (-vv: of all errors).",
        ),
    )


def _store_quiet(ctx: click.Context, _param: click.Parameter, quiet: bool) -> None:
    """Keep the flag where `read_verbosity` finds it."""
    ctx.meta[_QUIET] = quiet


def _store_verbose(ctx: click.Context, _param: click.Parameter, count: int) -> None:
    """Keep the count where `read_verbosity` finds it."""
    ctx.meta[_VERBOSE] = count


def read_verbosity(ctx: click.Context) -> Verbosity:
    """Return what was given to the command that runs, or has just failed, in this context or below it."""
    return Verbosity(bool(ctx.meta.get(_QUIET, False)), int(ctx.meta.get(_VERBOSE, 0)))
