"""A report as a page: what it says, and that nothing in a report can be more than text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from onnx_basisprune.errors import MissingLibraryError
from onnx_basisprune.reporting.render_html import render_html
from onnx_basisprune.results import (
    ClassReport,
    CompressionReport,
    Gate,
    GroupReport,
    Interval,
    LayerReport,
    Speedup,
)

VOID = {"meta", "link"}


class Page(HTMLParser):
    """A page's elements and its text; fails where elements don't close in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def read_text(report: CompressionReport) -> str:
    """Return a page's text with single spaces."""
    return " ".join(Page(render_html(report)).text.split())


def test_a_page_has_every_part(full_report: CompressionReport) -> None:
    page = Page(render_html(full_report))
    ids = {
        "verdict",
        "gates",
        "warnings",
        "comparison",
        "tradeoff",
        "layers",
        "search",
        "recovery",
        "classes",
        "groups",
    }
    ids.add("run")
    assert ids <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    references = [value for key, value in page.attributes if key in {"href", "src"}]
    assert references == ["data:,"]
    assert page.tags.count("svg") > 6
    drawings = page.attributes.count(("role", "img"))
    assert drawings == page.tags.count("desc") >= 4
    text = " ".join(page.text.split())
    for part in ("Failed: 1 of 2 gates", "1.50× faster, 40 % smaller", "careful", "it is the model's output", "cat"):
        assert part in text
    assert "None" not in text
    assert "nan" not in text


def test_the_verdict_says_no_more_than_was_measured(full_report: CompressionReport) -> None:
    assert "no measurable change of accuracy" in read_text(full_report)
    worse = replace(full_report, drop_pp=Interval(3.0, 1.0, 5.0), speedup=Speedup(0.5, 0.4, 0.6))
    assert "2.00× slower, 40 % smaller, accuracy down by 3.00 pp" in read_text(worse)
    better = replace(full_report, drop_pp=Interval(-3.0, -5.0, -1.0), speedup=Speedup(1.01, 0.9, 1.1))
    assert "No measurable change of speed, 40 % smaller, accuracy up by 3.00 pp" in read_text(better)


@pytest.mark.parametrize(
    ("gates", "label"),
    [
        ((), "No gates"),
        ((Gate("max_drop", 1.0, 0.5, True),), "Passed: the gate"),
        ((Gate("max_drop", 1.0, 0.5, True), Gate("not_slower", 1.0, 0.5, False)), "Failed: 1 of 2 gates"),
    ],
)
def test_the_verdict_follows_the_gates(full_report: CompressionReport, gates: tuple[Gate, ...], label: str) -> None:
    html = render_html(replace(full_report, gates=gates))
    assert f"<title>{label} · a.onnx · basisprune</title>" in html


def test_the_trade_off_shows_each_size_with_its_intervals(full_report: CompressionReport) -> None:
    page = Page(render_html(full_report))
    text = " ".join(page.text.split())
    assert "3 sizes of this model, all on the same 80 images. The dashed line is the original with 90.00 %" in text
    assert page.ids.count("tradeoff-1-title") == page.ids.count("tradeoff-3-title") == 1
    # A title and a description for each plot, the points' own titles, and the row that stands out.
    assert (
        "From 90.00 % with all of the multiply-adds to 55.00 % with 24 % left; the model that was written has "
        "80.00 % with 60 % left. The table below has the figures." in text
    )
    assert "written: 66.7 % of the time left, 80.00 %" in text
    assert "written 60.00 % 40.00 % 1.50×1.40 to 1.60× 80.00 %70.00 to 88.00 % 10.00 pp6.00 to 14.00 pp" in text
    assert "25 % of the MACsrecovered 24.00 % 16.00 % 2.50×" in text
    assert page.attributes.count(("r", "7")) == 3
    # The original's accuracy in each, and the original's speed in the plot of the speed-up.
    assert page.attributes.count(("class", "reference")) == 4
    assert text.count("the original: 100 % of the") == 3


def test_a_trade_off_without_times_has_no_plot_of_them(full_report: CompressionReport) -> None:
    untimed = tuple(replace(point, speedup=None) for point in full_report.frontier)
    page = Page(render_html(replace(full_report, frontier=untimed)))
    assert {"tradeoff-1-title", "tradeoff-2-title"} <= set(page.ids)
    assert "tradeoff-3-title" not in page.ids
    assert "% of the time left" not in page.text


def test_a_trade_off_of_odd_figures_is_still_a_page(full_report: CompressionReport) -> None:
    nan, huge = float("nan"), 2**63 - 1
    point = full_report.frontier[0]
    accuracy = replace(point.accuracy, top1=None, agreement=None, interval=Interval(nan, nan, nan))
    odd = (
        replace(point, target=nan, macs=huge, parameters=huge, speedup=Speedup(nan, nan, nan)),
        replace(
            point, target=1e300, speedup=Speedup(0.0, 0.0, 0.0), accuracy=accuracy, drop_pp=Interval(nan, nan, nan)
        ),
        replace(point, speedup=Speedup(1e-320, 0.0, 1e300), drop_pp=Interval(1e300, -1e300, 1e308)),
    )
    for original in (full_report.original, replace(full_report.original, macs=0, parameters=0)):
        html = render_html(replace(full_report, frontier=odd, original=original))
        assert "nan" not in Page(html).text
        assert len(html) < 100_000


def test_the_search_shows_what_it_tried(full_report: CompressionReport) -> None:
    text = read_text(full_report)
    assert "As little of the time as a drop of 1 pp allows: 1 candidate tried on 80 images" in text
    assert "51.00 % of the time 0.20 pp± 0.10 yes yes 2.5" in text
    assert {"search", "tradeoff"}.isdisjoint(Page(render_html(replace(full_report, search=None, frontier=()))).ids)


def test_layers_have_times_where_these_were_looked_at(full_report: CompressionReport) -> None:
    (layer,) = full_report.layers
    unknown = replace(layer, name="d", ms_before=None, ms_after=None)
    text = read_text(replace(full_report, layers=(layer, unknown, replace(layer, name="e", ms_after=None))))
    assert "their time goes from 0.250 ms to 0.125 ms" in text
    assert "0.250 ms → 0.125 ms" in text
    untimed = read_text(replace(full_report, layers=(unknown,)))
    assert "Predicted time" not in untimed
    assert "latency table" not in untimed


def test_no_drop_has_no_minus_sign(full_report: CompressionReport) -> None:
    text = read_text(replace(full_report, drop_pp=Interval(0.0, -1.0, 1.0)))
    assert "+0.00 pp" in text
    assert "−0.00" not in text


def test_gates_that_failed_come_first(full_report: CompressionReport) -> None:
    gates = (Gate("max_drop", 1.0, 0.5, True), Gate("min_speedup", 2.0, float("nan"), False, "the report has none"))
    text = read_text(replace(full_report, gates=gates))
    assert text.index("min_speedup") < text.index("max_drop")
    assert "the report has none" in text


def test_a_dry_run_claims_no_measurement(full_report: CompressionReport) -> None:
    dry = replace(
        full_report,
        config={**full_report.config, "dry_run": True, "output": None},
        original=replace(full_report.original, latency=None, accuracy=None),
        compressed=replace(full_report.compressed, latency=None, accuracy=None, file_bytes=None),
        speedup=None,
        drop_pp=None,
        recovery=None,
        per_class=(),
    )
    page = Page(render_html(dry))
    text = " ".join(page.text.split())
    assert "A dry run: sizes are predicted, nothing was measured or written." in text
    assert "40 % fewer MACs" in text
    assert "None" not in text
    assert {"recovery", "classes"}.isdisjoint(page.ids)
    assert "faster" not in text


def test_without_labels_agreement_stands_in(full_report: CompressionReport) -> None:
    accuracy = full_report.compressed.accuracy
    assert accuracy is not None
    unlabelled = replace(
        full_report,
        original=replace(full_report.original, accuracy=None),
        compressed=replace(full_report.compressed, accuracy=replace(accuracy, top1=None, top5=None)),
        per_class=(),
        frontier=tuple(
            replace(
                point, accuracy=replace(point.accuracy, top1=None, agreement=0.5), drop_pp=Interval(50.0, 40.0, 60.0)
            )
            for point in full_report.frontier
        ),
    )
    text = read_text(unlabelled)
    assert "The dashed line is the original with 100.00 %" in text
    assert "same answer as the original on 90.0 % of the images" in text
    assert "There were no labels" in text
    assert "Top-1" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\"' onload=x>", "\"' onload=x>"),
        ("</style></title><img src=x>", "</style></title><img src=x>"),
        ("a\x00\x1b[2J\nb", "a\\x00\\x1b[2J\\nb"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("half \ud800", "half \\ud800"),
        ("{{ 7 * 7 }}{% raw %}", "{{ 7 * 7 }}{% raw %}"),
    ],
)
def test_names_are_only_text(full_report: CompressionReport, name: str, shown: str) -> None:
    plain = render_html(rename_all(full_report, "plain"))
    html = render_html(rename_all(full_report, name))
    page = Page(html)
    html.encode()  # as it is written
    assert page.tags == Page(plain).tags
    assert {key for key, _ in page.attributes} == {key for key, _ in Page(plain).attributes}
    # As often as a harmless name; attributes hold none.
    assert page.text.count(shown) == Page(plain).text.count("plain") >= 10
    assert not any(ord(character) < 32 and character != "\n" for character in html)


def rename_all(report: CompressionReport, name: str) -> CompressionReport:
    """Return a report whose every text from outside is one name."""
    return replace(
        report,
        config={**report.config, "output": name, name: name},
        environment={"cpu": name, name: {name: name}},
        layers=(LayerReport(name, "Conv", True, name, 8, 3, 9, 5, 4, 2, 0.5),),
        groups=(GroupReport(name, 8, 8, name), GroupReport(name, 8, 4, "")),
        gates=(Gate(name, 1.0, 2.0, False, name),),
        per_class=(ClassReport(0, name, 4, 1.0, 0.75, 25.0),),
        compressed=replace(report.compressed, uncounted_ops=(name,)),
        warnings=(name,),
        timings={name: 1.0},
        frontier=tuple(replace(point, unit=name, chosen=False) for point in report.frontier),
        search=report.search and replace(report.search, minimize=name),
    )


def test_only_the_worst_ten_classes_are_listed(full_report: CompressionReport) -> None:
    classes = tuple(ClassReport(i, f"class{i:04}", 50, 0.9, 0.9 - i / 2000, i / 20) for i in range(1000))
    html = render_html(replace(full_report, per_class=classes))
    listed = [f"class{i:04}" for i in range(1000) if f"class{i:04}" in html]
    assert listed == [f"class{i:04}" for i in range(990, 1000)]
    assert html.index("class0999") < html.index("class0990")
    assert "Of 1,000 classes, 999 lost and 0 gained." in read_text(replace(full_report, per_class=classes))
    assert len(html.encode()) < 100_000


def test_pages_of_large_networks_stay_small(full_report: CompressionReport) -> None:
    # ResNet-50 has 53 Convs; this is twice that, with long names, and ImageNet's classes.
    names = [f"/model/backbone/layer{i}/block{i}/conv{i}/Conv" for i in range(106)]
    layers = tuple(LayerReport(name, "Conv", True, "", 512, 128, 10**8, 10**7, 10**6, 10**5, 0.5) for name in names)
    groups = tuple(GroupReport(name, 512, 128, "") for name in names)
    classes = tuple(ClassReport(i, f"class {i}", 50, 0.9, 0.9 - i / 2000, i / 20) for i in range(1000))
    html = render_html(replace(full_report, layers=layers, groups=groups, per_class=classes))
    assert len(html.encode()) < 250_000


def test_figures_that_are_no_numbers_are_dashes(full_report: CompressionReport) -> None:
    nan = float("nan")
    odd = replace(
        full_report, speedup=Speedup(nan, nan, nan), drop_pp=Interval(nan, nan, nan), timings={"opening": nan}
    )
    assert "No measurable" not in read_text(odd)
    assert "nan" not in read_text(odd)


def test_without_jinja2_the_error_says_what_to_install(
    full_report: CompressionReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingLibraryError, match=r"jinja2 isn't installed.*pip install 'basisprune\[report\]'"):
        render_html(full_report)


@pytest.mark.parametrize("drop", [("groups",), ("layers",), ("gates", "warnings", "per_class", "timings")])
def test_empty_parts_leave_no_heading(full_report: CompressionReport, drop: tuple[str, ...]) -> None:
    make: Callable[[str], object] = lambda name: {} if name == "timings" else ()  # noqa: E731
    page = Page(render_html(replace(full_report, **{name: make(name) for name in drop})))
    ids = {"per_class": "classes", "timings": "timings"}
    assert {ids.get(name, name) for name in drop}.isdisjoint(page.ids)
