"""A report comes back from its JSON as it was, or with one line that says why not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune.errors import ReportError
from onnx_basisprune.reporting.read_report import read_report
from onnx_basisprune.reporting.render_json import render_json
from onnx_basisprune.results import CompressionReport, Gate


@pytest.fixture
def change(full_report: CompressionReport, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Return a function that writes the report after a change of its values."""

    def write(edit: Callable[[dict[str, Any]], Any]) -> Path:
        values = json.loads(render_json(full_report))
        edit(values)
        path = tmp_path / "report.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


def test_a_report_comes_back_as_it_was(full_report: CompressionReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(render_json(full_report), encoding="utf-8")
    assert read_report(path) == full_report


def test_a_dry_runs_report_comes_back(full_report: CompressionReport, tmp_path: Path) -> None:
    predicted = dataclasses.replace(full_report.compressed, file_bytes=None, latency=None, accuracy=None)
    report = dataclasses.replace(
        full_report, compressed=predicted, speedup=None, drop_pp=None, recovery=None, timing=None, search=None
    )
    path = tmp_path / "report.json"
    path.write_text(render_json(report), encoding="utf-8")
    assert read_report(path) == report


def test_no_number_is_read_as_nan(full_report: CompressionReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = dataclasses.replace(full_report, gates=(Gate("target_macs", 0.5, math.nan, False),))
    path.write_text(render_json(report), encoding="utf-8")
    assert math.isnan(read_report(path).gates[0].reached)


def test_what_was_added_later_may_be_missing_and_what_will_be_added_is_passed_over(
    change: Callable[[Callable[[dict[str, Any]], Any]], Path],
) -> None:
    path = change(lambda values: (values.pop("per_class"), values.update(novelty=[1])))
    assert read_report(path).per_class == ()


def test_a_byte_order_mark_does_no_harm(full_report: CompressionReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(render_json(full_report), encoding="utf-8-sig")
    assert read_report(path) == full_report


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(format_version=2), "has format_version 2; expected 1"),
        (lambda v: v.update(format_version=True), "has no format_version"),
        (lambda v: v.pop("format_version"), "has no format_version"),
        (lambda v: v.pop("speedup"), "'speedup' is missing"),
        (lambda v: v["original"].pop("macs"), "'original.macs' is missing"),
        (lambda v: v["compressed"].update(macs=1.5), "'compressed.macs' is '1.5', not a whole number"),
        (lambda v: v["compressed"].update(macs=-1), "'compressed.macs' is '-1', not a whole number"),
        (lambda v: v["compressed"].update(macs=10**400), "not a whole number from 0 to 2^63"),
        (lambda v: v["frontier"][0].update(parameters=2**63), "'frontier[0].parameters' is '9223372036854775808', not"),
        (lambda v: v["layers"][0].update(ms_after=10**400), "'layers[0].ms_after' is a number too large"),
        (lambda v: v["compressed"].update(macs=True), "'compressed.macs' is 'true', not a whole number"),
        (lambda v: v["drop_pp"].update(low="0"), "'drop_pp.low' is '\"0\"', not a number"),
        (lambda v: v["drop_pp"].update(low=10**400), "'drop_pp.low' is a number too large"),
        (lambda v: v["gates"][1].update(passed=1), "'gates[1].passed' is '1', not true or false"),
        (lambda v: v["layers"][0].update(name=None), "'layers[0].name' is 'null', not text"),
        (lambda v: v.update(gates={}), "'gates' is an object, not an array"),
        (lambda v: v.update(original=[]), "'original' is an array, not an object"),
        (lambda v: v["recovery"]["curve"][0].pop(), "'recovery.curve[0]' has 2 items, not 3"),
        (lambda v: v["timings"].update(opening="1 s"), "'timings.opening' is '\"1 s\"', not a number"),
    ],
)
def test_what_is_no_report_is_told_with_its_place(
    change: Callable[[Callable[[dict[str, Any]], Any]], Path], edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = change(edit)
    with pytest.raises(ReportError) as caught:
        read_report(path)
    text = str(caught.value)
    assert message in text
    assert "report.json'" in text
    assert "\n" not in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "isn't valid JSON"),
        (b'{"format_version": 1, "conf', "isn't valid JSON"),
        (b"\xff\xfe\x00", "isn't valid JSON"),
        (b'{"format_version": 1, "x": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "isn't valid JSON"),
        (b"[1]", "holds an array"),
        (b"null", "holds 'null'"),
        (b'{"format_version": 1, "runs": []}', "is the JSON of `basisprune benchmark`"),
        (b'{"format_version": 1, "accuracy": {}}', "is the JSON of `basisprune evaluate`"),
        (b'{"format_version": 1, "nodes": []}', "is the JSON of `basisprune inspect`"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ReportError) as caught:
        read_report(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"can't be read \(No such file or directory\)"):
        read_report(tmp_path / "nowhere.json")
    with pytest.raises(ReportError, match="can't be read"):
        read_report(tmp_path)
