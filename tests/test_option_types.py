"""Options given in Python: values of other types are refused by name, before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx_basisprune
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.errors import ConfigError
from onnx_basisprune.measurement_config import BenchmarkConfig
from onnx_basisprune.option_types import check_types

WRONG: list[tuple[str, Any, str]] = [
    ("max_drop", "1", "a number or None"),
    ("time_limit", "20m", "a number or None"),
    ("recover_steps", "10", "a whole number"),
    ("recover_steps", 2.5, "a whole number"),
    ("recover_steps", True, "a whole number"),
    ("recover_steps", None, "a whole number"),
    ("limit", 60.5, "a whole number or None"),
    ("batch_size", 16.0, "a whole number"),
    ("cache", "no", "True or False"),
    ("exclude", "abc", "a list, each text"),
    ("exclude", 3, "a list, each text"),
    ("exclude", [3], "a list, each text"),
    ("mean", [0.5, "0.5"], "a list, each a number or None"),
    ("output", 3, "a path or None"),
    ("align", "some", "a whole number or 'auto'"),
    ("minimize", "speed", "one of 'latency', 'macs', 'params'"),
    ("prune", ["double"], "one of 'basis', 'channels', 'double'"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_values_of_another_type_are_refused(name: str, value: Any, expected: str) -> None:
    message = f"--{name.replace('_', '-')} is {value!r}; expected {expected}."
    options: Any = {name: value}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        onnx_basisprune.compress("nowhere.onnx", "nowhere", **options)


def test_values_of_the_right_type_pass() -> None:
    check_types(
        CompressionConfig,
        {
            "max_drop": 1,
            "time_limit": np.float64(3),
            "seed": np.int64(2),
            "limit": None,
            "mean": (0.5, 1),
            "exclude": ["a", "b"],
            "output": "a.onnx",
            "val": Path("val"),
            "align": "auto",
            "minimize": "macs",
            "color": None,
            "cache": False,
        },
    )


def test_every_option_of_every_config_is_described() -> None:
    for kind in (CompressionConfig, BenchmarkConfig):
        config: Any = kind()
        check_types(kind, vars(config))
        for name in vars(config):
            with pytest.raises(ConfigError, match=r"expected (a |one of|text|True or)"):
                check_types(kind, {name: object()})


def test_other_names_are_left_to_the_function() -> None:
    with pytest.raises(TypeError, match="nothing"):
        onnx_basisprune.compress("nowhere.onnx", "nowhere", nothing=1)  # type: ignore[call-arg]
