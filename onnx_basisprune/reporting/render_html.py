"""A compression report as one HTML page, without scripts and without anything to load."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from onnx_basisprune.errors import MissingLibraryError
from onnx_basisprune.numbers import (
    UNKNOWN,
    is_lower_bound,
    show_amount,
    show_bound,
    show_count,
    show_ms,
    show_percent,
    show_unit,
)
from onnx_basisprune.reporting import details, headline, plots, tradeoff
from onnx_basisprune.results import CompressionReport

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters, which HTML forbids; those that reverse or hide text; halves of surrogate pairs, which UTF-8 lacks.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_TIMES = re.compile(r"(?<=\d)x$")
# Options that say where files go.
_SHOWN_ELSEWHERE = ("output", "model", "force", "report", "html", "dry_run")


def render_html(report: CompressionReport) -> str:
    """Return a report as an HTML page.

    Args:
        report: What a run found out.

    Returns:
        The page; all text of it can be written as UTF-8. Control characters in names are shown as escapes.

    Raises:
        MissingLibraryError: jinja2 isn't installed.
    """
    template = _open_templates().get_template("report.html.j2")
    model, output = report.config.get("model"), report.config.get("output")
    return template.render(
        report=report,
        name=PurePath(str(model)).name if model else "model",
        model=model,
        output=output,
        verdict=headline.judge(report),
        figures=headline.list_key_figures(report),
        gates=headline.order_gates(report.gates),
        comparisons=headline.list_comparisons(report),
        intervals=headline.plot_comparisons(report),
        tradeoff=tradeoff.describe_tradeoff(report),
        layers=details.describe_layers(report.layers),
        groups=details.describe_groups(report.groups),
        classes=details.describe_classes(report.per_class),
        recovery_plot=details.plot_recovery(report.recovery) if report.recovery else None,
        timings=details.list_timings(report.timings),
        options=details.list_settings(report.config, leave_out=_SHOWN_ELSEWHERE),
        environment=details.list_settings(report.environment),
        plots=plots,
        is_lower_bound=is_lower_bound,
        show_unit=show_unit,
    )


def check_installed() -> None:
    """Refuse to begin what would end without a page.

    Raises:
        MissingLibraryError: jinja2 isn't installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(
            "jinja2 isn't installed, and a page needs it: pip install 'basisprune[report]'."
        ) from error


def _open_templates() -> Environment:
    """Return the templates with the filters that they use; everything is escaped.

    Raises:
        MissingLibraryError: jinja2 isn't installed.
    """
    check_installed()
    import jinja2

    def finalize(value: Any) -> Any:
        """Make what an expression comes to printable; markup that was made by the template is so already."""
        return value if hasattr(value, "__html__") else show_text(str(value))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnx_basisprune.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        amount=show_amount,
        count=show_count,
        number=show_number,
        milliseconds=show_ms,
        reading=show_bound,
        percent=show_percent,
        figure=typeset_figure,
    )
    return environment


def show_text(text: str) -> str:
    """Return text with what can't be shown, or isn't shown as it is, as the escapes that Python writes."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def show_number(value: float, form: str) -> str:
    """Return a number as a format specification says, with a true minus sign; a dash where it isn't finite."""
    return typeset_figure(format(value, form) if isfinite(value) else UNKNOWN)


def typeset_figure(text: str) -> str:
    """Return a figure with true minus and times signs, and a dash where it isn't known."""
    return "–" if text == UNKNOWN else _TIMES.sub("×", text.replace("-", "−"))
