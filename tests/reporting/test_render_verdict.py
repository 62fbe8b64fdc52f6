"""The verdict for machines and for people: JUnit, Markdown, GitHub's annotations."""

from __future__ import annotations

import dataclasses
from math import nan
from xml.etree import ElementTree as ET

import junitparser

from onnx_basisprune.reporting.render_annotations import render_annotations
from onnx_basisprune.reporting.render_junit import render_junit
from onnx_basisprune.reporting.render_markdown import render_markdown
from onnx_basisprune.results import Accuracy, CompressionReport, Gate

GATES = (
    Gate("max_drop", 1.0, 0.5, True, "95 % interval 0.10 to 0.90"),
    Gate("min_speedup", 2.0, 1.5, False),
    Gate("max_file_bytes", 100, nan, False, "can't be judged: the report has no file size"),
)
# Ends of every kind of markup, and what XML can't hold: control characters, a lone surrogate, a non-character.
HOSTILE = "a<b>&\"' `c` |d| %e :: ,f\r\n::error::\x00\x1b\u2028\udcff\uffff]]>"


def test_junit_is_read_back_by_a_parser() -> None:
    suites = junitparser.JUnitXml.fromstring(render_junit("report.json", GATES))
    (suite,) = suites
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == ("report.json", 3, 1, 1, 0)
    passed, failed, unjudged = suite
    assert [case.name for case in suite] == ["max_drop", "min_speedup", "max_file_bytes"]
    assert passed.result == []
    assert passed.system_out == "max_drop passed: 0.5 pp, at most 1 pp asked (95 % interval 0.10 to 0.90)"
    assert isinstance(failed.result[0], junitparser.Failure)
    assert failed.result[0].message == "min_speedup FAILED: 1.5x, at least 2x asked"
    assert isinstance(unjudged.result[0], junitparser.Error)
    assert "has no file size" in unjudged.result[0].message


def test_junit_holds_any_text() -> None:
    xml = render_junit(HOSTILE, (Gate(HOSTILE, 1, 2, False, HOSTILE),))
    assert xml.isascii()
    (suite,) = junitparser.JUnitXml.fromstring(xml)
    assert suite.name.startswith("a<b>&\"' `c` |d| %e :: ,f")
    assert "\x1b" not in suite.name
    (case,) = suite
    assert case.name.count("\ufffd") == 4
    assert ET.fromstring(xml).tag == "testsuites"  # noqa: S314  # our own XML


def test_no_gates_are_an_empty_suite() -> None:
    (suite,) = junitparser.JUnitXml.fromstring(render_junit("report.json", ()))
    assert (suite.tests, list(suite)) == (0, [])


def test_markdown_has_a_row_per_gate_and_per_figure(full_report: CompressionReport) -> None:
    text = render_markdown("report.json", GATES, full_report)
    lines = text.splitlines()
    assert lines[0] == "### ❌ basisprune: 2 of 3 gates failed"
    assert "| ✅ | max\\_drop passed: 0.5 pp, at most 1 pp asked (95 % interval 0.10 to 0.90) |" in lines
    assert "| ❌ | min\\_speedup FAILED: 1.5x, at least 2x asked |" in lines
    assert "| multiply-adds | 100 | 60 | -40.0 % |" in lines
    assert "| median latency | 3.00 ms | 2.00 ms | -33.3 % |" in lines
    assert "| top-1 accuracy | 90.00 % | 80.00 % | -10.00 pp |" in lines
    assert text.endswith("\n\n")
    assert render_markdown("r", GATES[:1]).startswith("### ✅ basisprune: all 1 gates passed")


def test_markdown_of_a_dry_run_without_labels_has_dashes(full_report: CompressionReport) -> None:
    report = dataclasses.replace(
        full_report,
        original=dataclasses.replace(full_report.original, accuracy=Accuracy(10), latency=None),
        compressed=dataclasses.replace(full_report.compressed, accuracy=None, latency=None, file_bytes=None),
    )
    lines = render_markdown("r", (), report).splitlines()
    assert lines[0].endswith("basisprune: no gates")
    assert "| median latency | - | - | - |" in lines
    assert "| agreement with the original | - | - | - |" in lines


def test_markdown_shows_any_text_as_it_is() -> None:
    text = render_markdown(HOSTILE, (Gate(HOSTILE, 1, 2, False, HOSTILE),))
    assert len(text.splitlines()) == 8
    assert "\\<b\\>\\&" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| ❌"))
    assert row.replace("\\|", "").count("|") == 3


def test_annotations_are_one_command_per_gate() -> None:
    lines = render_annotations(GATES).splitlines()
    assert lines[0] == (
        "::notice title=basisprune%3A max_drop::max_drop passed: 0.5 pp, at most 1 pp asked "
        "(95 %25 interval 0.10 to 0.90)"
    )
    assert [line.split(" ")[0] for line in lines] == ["::notice", "::error", "::error"]


def test_no_text_ends_an_annotation_or_begins_one() -> None:
    text = render_annotations((Gate("a,b:c%\n::x", 1, 2, False, HOSTILE),))
    assert text.count("\n") == 1
    assert text.startswith("::error title=basisprune%3A a%2Cb%3Ac%25\\n%3A%3Ax::")
    assert "\x1b" not in text
