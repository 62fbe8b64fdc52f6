"""Any result as JSON: the dataclasses' field names are the keys."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from onnx_basisprune.benchmark_report import BenchmarkReport
from onnx_basisprune.inspection_report import Inspection
from onnx_basisprune.results import CompressionReport, EvaluationReport

Report = CompressionReport | Inspection | EvaluationReport | BenchmarkReport


def render_json(report: Report) -> str:
    """Return a result as JSON text.

    Args:
        report: What a command found out.

    Returns:
        Strict JSON in ASCII, indented, `format_version` first, then the fields in their order, with a newline at
        the end. Numbers that JSON doesn't know (NaN, infinities) become null.

    Raises:
        TypeError: A value has no form in JSON.
    """
    values = to_plain(report)
    ordered = {"format_version": values["format_version"], **values}
    return json.dumps(ordered, indent=2, allow_nan=False) + "\n"


def to_plain(value: Any) -> Any:
    """Return dataclasses, mappings, sequences, numpy values and paths as what `json` writes.

    Raises:
        TypeError: The value is of another type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    raise TypeError(f"{type(value).__name__} has no form in JSON; expected numbers, text and collections of these.")
