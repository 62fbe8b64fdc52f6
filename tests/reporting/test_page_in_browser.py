"""The page in a real browser: no message, nothing that sticks out, no violation of accessibility, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnx_basisprune.reporting.render_html import render_html
from onnx_basisprune.results import ClassReport, CompressionReport, GroupReport, LayerReport

playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python isn't installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the machine's own browser; none is ever downloaded."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        process = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield process
        process.close()


@pytest.fixture
def long_report(full_report: CompressionReport) -> CompressionReport:
    """Return a report with many layers, names that don't break and names that try to be more than text."""
    assert full_report.search is not None
    names = [f"/features/{'deep' * 20}/{i}/Conv" for i in range(60)] + ["<script>document.title='taken'</script>"]
    return replace(
        full_report,
        layers=tuple(
            LayerReport(name, "Conv", True, "", 64, i, 10**9, 10**7 * i, 9, 9, 0.1, 1.5, i / 40)
            for i, name in enumerate(names)
        ),
        groups=tuple(GroupReport(name, 64, 32, "") for name in names) + full_report.groups,
        per_class=tuple(ClassReport(i, name, 50, 0.9, 0.9 - i / 200, i / 2 - 5) for i, name in enumerate(names)),
        frontier=tuple(
            replace(full_report.frontier[i % 3], unit=name, target=i / 61, macs=100 - i, parameters=50 - i // 2)
            for i, name in enumerate(names)
        ),
        search=replace(full_report.search, minimize=names[0], looks=full_report.search.looks * 30),
        warnings=("W" * 300, "<img src=x onerror=\"document.title='taken'\">"),
    )


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["full_report", "long_report"])
def test_the_page_is_sound(
    browser: Any,
    full_report: CompressionReport,
    long_report: CompressionReport,
    tmp_path: Path,
    kind: str,
    scheme: str,
    width: int,
) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(full_report if kind == "full_report" else long_report), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("requestfailed", lambda request: messages.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    results = axe.Axe().run(page)
    title = page.title()
    page.close()
    assert messages == []
    assert sizes[0] == sizes[1] == width
    assert (sum(map(int, background[4:-1].split(","))) > 384) == (scheme == "light")
    assert title == "Failed: 1 of 2 gates · a.onnx · basisprune"
    assert [(item["id"], item["nodes"][0]["html"]) for item in results.response["violations"]] == []
