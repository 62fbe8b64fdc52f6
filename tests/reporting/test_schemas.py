"""The published JSON Schemas say what the dataclasses say, and real reports keep to them.

`python tests/reporting/test_schemas.py` writes them anew after a dataclass has changed.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from onnx_basisprune.benchmark_report import BenchmarkReport
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.config import CompressionConfig
from onnx_basisprune.measurement_config import BenchmarkConfig, EvaluationConfig
from onnx_basisprune.reporting.render_json import render_json
from onnx_basisprune.results import FORMAT_VERSION, CompressionReport, EvaluationReport

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "onnx_basisprune" / "reporting" / "schemas"
SAMPLES = ROOT / "sample_models"
MODEL, CALIB, VAL = (str(SAMPLES / name) for name in ("digits.onnx", "digits/calib", "digits/val"))
KINDS: dict[str, tuple[type, type]] = {
    "compress": (CompressionReport, CompressionConfig),
    "evaluate": (EvaluationReport, EvaluationConfig),
    "benchmark": (BenchmarkReport, BenchmarkConfig),
}

Schema = dict[str, Any]

# -- the schemas, made from the dataclasses ---------------------------------------------------------------------------

NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FRACTION: Schema = {"type": "number", "minimum": 0, "maximum": 1}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SCALARS: dict[Any, Schema] = {
    type(None): NULL, str: TEXT, Path: TEXT, bool: {"type": "boolean"}, int: COUNT, float: NUMBER, Any: {},
}  # fmt: skip
# What the types alone don't tell. Numbers that may come out as NaN or infinite are null then.
NARROWER: dict[str, Schema] = {
    "Accuracy.top1": FRACTION, "Accuracy.top5": FRACTION, "Accuracy.agreement": FRACTION,
    "ClassReport.n": {"type": "integer", "minimum": 1},
    "ClassReport.top1_before": FRACTION, "ClassReport.top1_after": FRACTION,
    "Gate.reached": {"type": ["number", "null"]},
    "LayerReport.removed_score": {"type": ["number", "null"]},
    "RecoveryReport.held_out_loss_before": {"type": ["number", "null"]},
    "RecoveryReport.held_out_loss_after": {"type": ["number", "null"]},
    "TimingReport.table_sha256": DIGEST,
}  # fmt: skip


def close(properties: Schema, description: str = "") -> Schema:
    """Return the schema of an object with exactly these keys."""
    described = {"description": description} if description else {}
    closed = {"additionalProperties": False, "required": list(properties), "properties": properties}
    return {**described, "type": "object", **closed}


def allow_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


def describe_environment(kind: type) -> Schema:
    versions = {name: allow_null(TEXT) for name in ("basisprune", "onnx", "onnxruntime", "numpy", "torch")}
    values = {
        **dict.fromkeys(("cpu", "system", "machine", "python", "execution_provider"), TEXT),
        **dict.fromkeys(("logical_cores", "physical_cores", "usable_cores", "threads"), allow_null(COUNT)),
        "versions": close(versions),
        "denormals": {"enum": ["flushed to zero", "kept"]},
    }
    if kind is CompressionReport:
        values |= {"calibration_threads": COUNT, "calibration_precision": {"enum": ["float32", "bfloat16"]}}
        values |= {"seed": COUNT, "original_sha256": DIGEST, "compressed_sha256": allow_null(DIGEST)}
    return close(values)


def describe_config(kind: type, config: type, definitions: Schema) -> Schema:
    hints = get_type_hints(config)
    values = {field.name: describe(hints[field.name], definitions) for field in dataclasses.fields(config)}
    if kind is CompressionReport:
        pair = allow_null({"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2})
        numbers = {"type": "array", "items": NUMBER}
        used = {
            "scale": NUMBER,
            "mean": numbers,
            "std": numbers,
            "resize": pair,
            "crop": pair,
            "color": {"enum": ["rgb", "bgr", "gray"]},
            "layout": {"enum": ["nchw", "nhwc"]},
            "dtype": TEXT,
        }
        values["preprocessing"] = {"anyOf": [close({"preset": {"const": "none"}}), close({"preset": TEXT, **used})]}
    return close(values)


def describe(hint: Any, definitions: Schema) -> Schema:
    """Return the schema of a type; dataclasses go to `definitions`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}
            definitions[hint.__name__] = describe_dataclass(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [describe(part, definitions) for part in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        return {"type": "object", "additionalProperties": describe(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": describe(arguments[0], definitions)}
    if origin is tuple:
        items = [describe(part, definitions) for part in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return copy.deepcopy(SCALARS[hint])


def describe_dataclass(kind: type, definitions: Schema) -> Schema:
    """Return the schema of a dataclass as `render_json` writes it, with its docstring's words."""
    hints, meanings = get_type_hints(kind), read_attributes(kind)
    properties = {}
    for field in dataclasses.fields(kind):
        schema = describe(hints[field.name], definitions)
        narrower = NARROWER.get(f"{kind.__name__}.{field.name}")
        if narrower is not None:
            schema = allow_null(narrower) if NULL in schema.get("anyOf", ()) else copy.deepcopy(narrower)
        meaning = meanings.get(field.name)
        properties[field.name] = {"description": meaning, **schema} if meaning else schema
    return close(properties, (kind.__doc__ or "").strip().splitlines()[0].replace("`", ""))


def read_attributes(kind: type) -> dict[str, str]:
    """Return what a Google-style docstring says of each attribute."""
    _, _, text = (kind.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): ((?:.|\n {9,})*)", text, re.MULTILINE)
    return {name: " ".join(meaning.replace("`None`", "null").replace("`", "").split()) for name, meaning in entries}


def build_schema(command: str) -> Schema:
    kind, config = KINDS[command]
    definitions: Schema = {}
    root = describe_dataclass(kind, definitions)
    properties = root["properties"]
    for name, schema in (
        ("config", describe_config(kind, config, definitions)),
        ("environment", describe_environment(kind)),
        ("format_version", {"const": FORMAT_VERSION}),
    ):
        properties[name] = {"description": properties[name].get("description", ""), **schema}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:basisprune:{command}:{FORMAT_VERSION}",
        "title": f"What basisprune {command} writes as JSON",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def render_schema(command: str) -> str:
    return json.dumps(build_schema(command), indent=2) + "\n"


# -- the tests --------------------------------------------------------------------------------------------------------


def load(command: str) -> Schema:
    schema: Schema = json.loads((FOLDER / f"{command}.schema.json").read_text(encoding="utf-8"))
    return schema


def check(command: str, values: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(load(command)).iter_errors(values)]


@pytest.mark.parametrize("command", KINDS)
def test_the_published_schemas_are_those_of_the_dataclasses(command: str) -> None:
    published = (FOLDER / f"{command}.schema.json").read_text(encoding="utf-8")
    assert published == render_schema(command), f"run `python {Path(__file__).relative_to(ROOT)}` to write it anew"
    Draft202012Validator.check_schema(json.loads(published))


@pytest.mark.parametrize("command", KINDS)
def test_the_command_prints_them(command: str) -> None:
    result = CliRunner().invoke(basisprune, ["schema", command])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == load(command)


def test_a_full_report_keeps_to_its_schema(full_report: CompressionReport) -> None:
    values = json.loads(render_json(full_report))
    # The report's config and environment are short ones.
    errors = [error for error in check("compress", values) if not error.startswith(("$.config", "$.environment"))]
    assert errors == []


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Return the JSON of real runs of every kind, with the command that wrote each."""
    folder = tmp_path_factory.mktemp("reports")
    flat = folder / "flat"
    flat.mkdir()
    for index, path in enumerate(sorted(Path(CALIB).rglob("*.png"))[::8]):
        (flat / f"{index}.png").write_bytes(path.read_bytes())
    quick = ["compress", MODEL, "--limit", "20", "--recover-steps", "2", "--threads", "1"]
    labelled = [*quick, "--preprocess", "imagenet", "--data", CALIB, "--val", VAL]
    runs: dict[str, list[str]] = {
        "labelled": [
            *labelled,
            "--target-macs",
            "0.5",
            "--allow-slower",
            "--max-macs",
            "3M",
            "--strict",
            "--exclude",
            "/classifier/Gemm",
        ],
        "unlabelled": [
            *quick,
            "--preprocess",
            "imagenet",
            "--data",
            str(flat),
            "--target-macs",
            "0.5",
            "--allow-slower",
        ],
        "dry": [
            *labelled,
            "--target-macs",
            "0.5",
            "--dry-run",
            "--min-speedup",
            "2",
            "--color",
            "rgb",
            "--crop",
            "16",
            "--resize",
            "0",
        ],
        "search": [
            *labelled,
            "--max-drop",
            "2",
            "--minimize",
            "params",
            "--allow-slower",
            "--recover",
            "none",
            "--time-limit",
            "2m",
        ],
        "latency": [*labelled, "--target-latency", "0.8", "--recover", "none"],
        "evaluate": ["evaluate", MODEL, "--data", VAL, "--reference", MODEL, "--limit", "100", "--labels", "L"],
        "benchmark": ["benchmark", MODEL, MODEL, "--rounds", "2", "--min-seconds", "0", "--max-seconds", "0.02"],
    }
    labels = folder / "labels.json"
    labels.write_text(json.dumps({str(digit): digit for digit in range(10)}))
    written = {}
    for name, arguments in runs.items():
        target = folder / f"{name}.json"
        arguments = [str(labels) if argument == "L" else argument for argument in arguments]
        if arguments[0] == "compress":
            arguments += ["--report", str(target), "-o", str(folder / f"{name}.onnx"), "-q"]
        else:
            arguments += ["--json", str(target), "-q", *["--profile"] * (name == "benchmark")]
        result = CliRunner().invoke(basisprune, arguments)
        # A gate may fail: the images are few.
        assert result.exit_code in (0, 3), result.output
        written[name] = (arguments[0], json.loads(target.read_text(encoding="utf-8")))
    return written


def test_reports_of_real_runs_keep_to_their_schema(reports: dict[str, tuple[str, Any]]) -> None:
    assert {name: check(command, values) for name, (command, values) in reports.items()} == {
        name: [] for name in reports
    }
    values = {name: values for name, (_, values) in reports.items()}
    # The runs are of the kinds that they stand for.
    assert len(values["labelled"]["per_class"]) == 10
    assert values["unlabelled"]["compressed"]["accuracy"]["top1"] is None
    assert values["dry"]["compressed"]["latency"] is None
    assert values["search"]["search"]["looks"]
    assert values["latency"]["timing"]["predicted"] is not None
    assert values["benchmark"]["runs"][0]["nodes"]
    assert values["evaluate"]["reference"] is not None


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys down to every value; of an array, only its first item's."""
    yield place
    children = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in children:
        yield from list_places(item, (*place, key))


def follow(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


@pytest.mark.parametrize("name", ["labelled", "search", "evaluate", "benchmark"])
def test_nothing_may_be_added_left_out_or_of_another_kind(name: str, reports: dict[str, tuple[str, Any]]) -> None:
    command, values = reports[name]
    validator = Draft202012Validator(load(command))
    free = {("timings",)}
    for place in list_places(values):
        changed = copy.deepcopy(values)
        inner = follow(changed, place)
        if isinstance(inner, dict):
            inner["novelty"] = {}
            assert not validator.is_valid(changed), f"{place} takes unknown keys"
        if not place:
            continue
        changed = copy.deepcopy(values)
        holder = follow(changed, place[:-1])
        holder[place[-1]] = {"of": "another kind"}
        assert not validator.is_valid(changed), f"{place} takes anything"
        if isinstance(holder, dict) and place[:-1] not in free:
            del holder[place[-1]]
            assert not validator.is_valid(changed), f"{place} may be missing"


if __name__ == "__main__":
    for each in KINDS:
        (FOLDER / f"{each}.schema.json").write_text(render_schema(each), encoding="utf-8", newline="\n")
