"""What `check` judges, and where the verdict goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_basisprune.checking import SUMMARY_VARIABLE, VerdictFiles, check_report, write_verdict
from onnx_basisprune.errors import ConfigError, OutputError
from onnx_basisprune.limits import GateLimits, Slack
from onnx_basisprune.results import Gate

GATES = (Gate("max_macs", 10, 5, True),)


@pytest.fixture(autouse=True)
def _no_step_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUMMARY_VARIABLE, raising=False)


def test_without_a_gate_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no gate"):
        check_report(tmp_path / "missing.json", GateLimits(strict=True))
    with pytest.raises(ConfigError, match="there is no gate"):
        check_report(tmp_path / "missing.json", GateLimits(), slack=Slack(accuracy=1.0))


def test_the_verdict_goes_where_it_is_asked_for(tmp_path: Path) -> None:
    junit, markdown = tmp_path / "junit.xml", tmp_path / "summary.md"
    assert write_verdict(VerdictFiles(), "r.json", GATES) == ""
    assert list(tmp_path.iterdir()) == []
    assert write_verdict(VerdictFiles(junit, markdown, github=True), "r.json", GATES).startswith("::notice ")
    assert "<testsuites" in junit.read_text(encoding="utf-8")
    once = markdown.read_text(encoding="utf-8")
    write_verdict(VerdictFiles(markdown=markdown), "r.json", GATES)
    assert markdown.read_text(encoding="utf-8") == 2 * once


@pytest.mark.parametrize(
    ("named", "github", "times"), [("summary.md", False, 1), ("other.md", False, 1), (None, True, 1), (None, False, 0)]
)
def test_the_step_summary_gets_the_markdown_once(
    named: str | None, github: bool, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv(SUMMARY_VARIABLE, str(summary))
    write_verdict(VerdictFiles(markdown=None if named is None else tmp_path / named, github=github), "r", GATES)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.count("basisprune: all 1 gates passed") == times
    if named == "other.md":
        assert (tmp_path / named).read_text(encoding="utf-8").count("all 1 gates passed") == 1


def test_places_are_tried_before_any_work(tmp_path: Path) -> None:
    existing = tmp_path / "junit.xml"
    existing.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        VerdictFiles(existing).check()
    VerdictFiles(existing, force=True).check()
    VerdictFiles(markdown=existing).check()
    with pytest.raises(OutputError, match="another of the files given"):
        VerdictFiles(existing, force=True).check([None, tmp_path / "." / "junit.xml"])
    with pytest.raises(OutputError, match="another of the files given"):
        VerdictFiles(tmp_path / "new", tmp_path / "new").check()
    with pytest.raises(OutputError, match="doesn't exist"):
        VerdictFiles(markdown=tmp_path / "no" / "m.md").check()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_cant_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.md"
    path.touch(mode=0o400)
    with pytest.raises(OutputError, match="can't be written"):
        write_verdict(VerdictFiles(markdown=path), "r", GATES)


def test_a_folder_instead_of_the_step_summary_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUMMARY_VARIABLE, str(tmp_path))
    with pytest.raises(OutputError, match="can't be written"):
        write_verdict(VerdictFiles(github=True), "r", GATES)
