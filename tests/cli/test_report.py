"""`basisprune report`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnx_basisprune import render_json
from onnx_basisprune.cli.main import basisprune
from onnx_basisprune.results import CompressionReport, ModelMeasurement


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Write a dry run's report."""
    original, compressed = ModelMeasurement(100, 50, 1000), ModelMeasurement(60, 25, None)
    values = CompressionReport({"model": "a.onnx"}, {}, original, compressed, None, None, (), (), (), None, {})
    path = tmp_path / "report.json"
    path.write_text(render_json(values), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(basisprune, ["report", *map(str, arguments)])


def test_a_page_is_written(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(report, "--html", page)
    assert (result.exit_code, result.output) == (0, "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "40 % fewer MACs" in page.read_text(encoding="utf-8")


def test_an_existing_page_is_replaced_only_by_force(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    result = run(report, "--html", page)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert page.read_text(encoding="utf-8") == "mine"
    assert run(report, "--html", page, "--force").exit_code == 0
    assert page.read_text(encoding="utf-8") != "mine"


def test_the_report_itself_is_never_written_over(report: Path) -> None:
    before = report.read_bytes()
    result = run(report, "--html", report, "--force")
    assert result.exit_code == 1
    assert "is the report itself" in result.stderr
    assert report.read_bytes() == before


def test_what_is_no_report_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[]", encoding="utf-8")
    result = run(path, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_where_the_page_goes_must_be_said(report: Path) -> None:
    result = run(report)
    assert result.exit_code == 2
    assert "--html" in result.stderr


def test_compress_writes_the_page_in_one_go(tmp_path: Path) -> None:
    samples = Path(__file__).resolve().parents[2] / "sample_models"
    page = tmp_path / "page.html"
    arguments = [
        "--data",
        samples / "digits" / "calib",
        "--limit",
        "40",
        "--target-macs",
        "0.5",
        "--dry-run",
        "--allow-slower",
        "-q",
    ]
    given = ["compress", samples / "digits.onnx", *arguments, "--html", page]
    assert CliRunner().invoke(basisprune, list(map(str, given))).exit_code == 0
    assert "digits.onnx · basisprune</title>" in page.read_text(encoding="utf-8")


def test_compress_looks_for_what_makes_the_page_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = CliRunner().invoke(basisprune, ["compress", "none.onnx", "--data", "none", "--html", str(tmp_path / "p")])
    assert result.exit_code == 1
    assert "pip install 'basisprune[report]'" in result.stderr
