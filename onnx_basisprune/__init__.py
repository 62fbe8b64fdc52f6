"""Make trained ONNX image classifiers smaller and faster after training.

    import onnx_basisprune as bp

    report = bp.compress("model.onnx", data="calib/", target_macs=0.5)
    print(report.speedup, report.drop_pp)

Nothing heavy (onnx, torch, onnxruntime) is imported before a function here needs it.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from onnx_basisprune.benchmark_report import BenchmarkReport
from onnx_basisprune.config import CompressionConfig, PreprocessConfig
from onnx_basisprune.errors import (
    BasispruneError,
    ConfigError,
    DataError,
    MissingLibraryError,
    ModelError,
    OutputError,
    PlanError,
    ReportError,
    UnsupportedOpError,
    ValidationError,
)
from onnx_basisprune.inspection_report import Inspection
from onnx_basisprune.limits import GateLimits, Slack
from onnx_basisprune.measurement_config import BenchmarkConfig, EvaluationConfig
from onnx_basisprune.options import AnyPath, BenchmarkOptions, CompressionOptions, EvaluationOptions
from onnx_basisprune.progress import Progress
from onnx_basisprune.results import CompressionReport, EvaluationReport, Gate

if TYPE_CHECKING:
    from typing_extensions import Unpack  # of `typing` from Python 3.11 on

    from onnx_basisprune.reporting.render_json import Report

__all__ = [
    "BasispruneError",
    "BenchmarkConfig",
    "BenchmarkOptions",
    "BenchmarkReport",
    "CompressionConfig",
    "CompressionOptions",
    "CompressionReport",
    "ConfigError",
    "DataError",
    "EvaluationConfig",
    "EvaluationOptions",
    "EvaluationReport",
    "Gate",
    "GateLimits",
    "Inspection",
    "MissingLibraryError",
    "ModelError",
    "OutputError",
    "PlanError",
    "PreprocessConfig",
    "Progress",
    "ReportError",
    "Slack",
    "UnsupportedOpError",
    "ValidationError",
    "benchmark_models",
    "check_report",
    "compress",
    "evaluate_model",
    "inspect_model",
    "read_report",
    "read_schema",
    "render_html",
    "render_json",
]

_Config = TypeVar("_Config", CompressionConfig, EvaluationConfig, BenchmarkConfig)
_Function = TypeVar("_Function", bound=Callable[..., object])


def _show_options(kind: type[Any]) -> Callable[[_Function], _Function]:
    """Return a decorator that names a config's fields in a function's signature.

    Type checkers read `Unpack[...]`; `help()`, notebooks and consoles complete by the signature.
    """

    def decorate(function: _Function) -> _Function:
        shown = inspect.signature(function)
        own = [item for item in shown.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in dataclasses.fields(kind)
            if field.name not in shown.parameters
        ]
        signature = shown.replace(parameters=[*own, *options])
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate


@_show_options(CompressionConfig)
def compress(
    model: AnyPath, data: AnyPath, *, progress: Progress | None = None, **options: Unpack[CompressionOptions]
) -> CompressionReport:
    """Compress a trained ONNX classifier.

    Args:
        model: The ONNX file; never written to.
        data: Calibration images: a folder or an `.npz`.
        progress: Told what goes on; the default is silence.
        **options: Fields of `CompressionConfig`, such as `target_macs=0.5`.

    Returns:
        The report; `report.config["output"]` is the file that was written.

    Raises:
        BasispruneError: The model, the images, an option or the output can't be used.
        TypeError: An option doesn't exist.
    """
    from onnx_basisprune import pipeline

    config = _make_config(CompressionConfig, options, model=Path(model), data=Path(data))
    return pipeline.compress(config, progress)


def inspect_model(
    model: AnyPath,
    *,
    exclude: Collection[str] = (),
    input_shape: Sequence[int] | None = None,
    feed: Collection[str] = (),
) -> Inspection:
    """Describe a model's nodes, their cost, and which of them can be decomposed.

    Args:
        model: The ONNX file.
        exclude: Names of nodes that are to be left as they are.
        input_shape: Shape of the input with the batch first; needed where the model leaves it open.
        feed: What inputs beside the images are fed, each as `NAME=VALUE`.

    Raises:
        BasispruneError: The model or an option can't be used.
    """
    from onnx_basisprune import inspection

    return inspection.inspect_model(Path(model), exclude, input_shape, feed)


@_show_options(EvaluationConfig)
def evaluate_model(
    model: AnyPath, data: AnyPath, *, progress: Progress | None = None, **options: Unpack[EvaluationOptions]
) -> EvaluationReport:
    """Measure how often a classifier is right.

    Args:
        model: The ONNX file.
        data: Images: a folder or an `.npz`.
        progress: Told what goes on; the default is silence.
        **options: Fields of `EvaluationConfig`, such as `reference="original.onnx"`.

    Raises:
        BasispruneError: The model, the images or an option can't be used.
        TypeError: An option doesn't exist.
    """
    from onnx_basisprune import measurement

    config = _make_config(EvaluationConfig, options, model=Path(model), data=Path(data))
    return measurement.evaluate_model(config, progress)


@_show_options(BenchmarkConfig)
def benchmark_models(
    a: AnyPath, b: AnyPath | None = None, *, progress: Progress | None = None, **options: Unpack[BenchmarkOptions]
) -> BenchmarkReport:
    """Time one model, or two in turns.

    Args:
        a: The ONNX file to time.
        b: The one to time against it.
        progress: Told what goes on; the default is silence.
        **options: Fields of `BenchmarkConfig`, such as `batch_size=(1, 8)`.

    Raises:
        BasispruneError: A model or an option can't be used.
        TypeError: An option doesn't exist.
    """
    from onnx_basisprune import measurement

    config = _make_config(BenchmarkConfig, options, a=Path(a), b=None if b is None else Path(b))
    return measurement.benchmark_models(config, progress)


def check_report(
    path: AnyPath, limits: GateLimits, *, baseline: AnyPath | None = None, slack: Slack | None = None
) -> tuple[Gate, ...]:
    """Hold a compression report to bounds, and to that of the last release.

    Args:
        path: The JSON that `--report` wrote.
        limits: The bounds, such as `GateLimits(max_drop=1.0)`.
        baseline: The last release's report.
        slack: How much worse than the baseline the model may be; by default what can't be told from the same.

    Returns:
        A gate per bound and per figure that is compared; one whose figure isn't known hasn't passed.

    Raises:
        ConfigError: There is neither a bound nor a baseline.
        ReportError: A file can't be read, or isn't such a report.
    """
    from onnx_basisprune import checking

    old = None if baseline is None else Path(baseline)
    return checking.check_report(Path(path), limits, old, slack or Slack(strict=limits.strict)).gates


def read_report(path: AnyPath) -> CompressionReport:
    """Return a compression report from the JSON that `--report` wrote.

    Args:
        path: The JSON file.

    Raises:
        ReportError: The file can't be read, or isn't such a report.
    """
    from onnx_basisprune.reporting import read_report as module

    return module.read_report(Path(path))


def read_schema(command: Literal["compress", "evaluate", "benchmark"]) -> str:
    """Return the JSON Schema (draft 2020-12) of what a command writes, as JSON text."""
    from importlib.resources import files

    path = files("onnx_basisprune") / "reporting" / "schemas" / f"{command}.schema.json"
    return path.read_text(encoding="utf-8")


def render_html(report: CompressionReport) -> str:
    """Return a compression report as an HTML page without scripts, as `report --html` writes it.

    Raises:
        MissingLibraryError: jinja2 isn't installed.
    """
    from onnx_basisprune.reporting import render_html as module

    return module.render_html(report)


def render_json(report: Report) -> str:
    """Return a report as JSON text, as `--report` and `--json` write it."""
    from onnx_basisprune.reporting import render_json as module

    return module.render_json(report)


def _make_config(kind: type[_Config], options: Mapping[str, Any], **required: Path | None) -> _Config:
    """Return a config; paths may be given as text and tuples as lists.

    Raises:
        ConfigError: A value isn't of its option's type, or none that a run can use.
    """
    from onnx_basisprune.option_types import check_types

    check_types(kind, {**required, **options})
    values: dict[str, Any] = dict(required)
    paths = {field.name for field in dataclasses.fields(kind) if "Path" in str(field.type)}
    for name, value in options.items():
        if name in paths and value is not None:
            value = Path(value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def __getattr__(name: str) -> str:
    """Look the version up only when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("basisprune")
    except PackageNotFoundError:
        return "unknown"
