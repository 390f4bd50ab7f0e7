"""The report of scaling laws: in a real browser, in Markdown and as pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from browser import Browser, check_drawn_offline, check_fits, needs_browser, opened, press

from unimixer.analysis.points import Points, check_points, read_points
from unimixer.analysis.scaling_laws import Analysis, analyze
from unimixer.analysis.simulated_points import Truth, simulate
from unimixer.report.scaling import AnalysisOptions, write_report
from unimixer.report.scaling_tables import law_cells

PLOTS = ["curves", "exponents", "residuals"]
SIZES = [2.5e5, 1e6, 4e6, 16e6, 64e6]


@pytest.fixture(scope="module")
def points() -> Points:
    rng = np.random.default_rng(4)
    truths = {"a <b> & c": Truth(0.9, 0.16, 0.22, "error"), "lite": Truth(1.5, 0.21, 0.22, "error")}
    frames = []
    for rows in (1e6, 4e6, 16e6):
        frame = simulate(truths, SIZES, generator=rng, seed_noise=0.002)
        error = frame["metric"] + 0.02 * (rows / 1e6) ** -0.4
        frames.append(frame.with_columns(metric=1 - error, rows=pl.lit(rows)))
    frame = pl.concat(frames).with_columns(
        auc=pl.col("metric"), best_auc=pl.lit(0.78), latency_ms=1 + pl.col("params") / 2e6
    )
    return check_points(frame, source="points.csv")


@pytest.fixture(scope="module")
def files(points: Points, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scaling")
    return write_report(points, folder, title="How <it> grows & why", options=AnalysisOptions(replicates=200))


@pytest.fixture(scope="module")
def over_params(points: Points) -> Analysis:
    return analyze(points, replicates=200)


@pytest.fixture(scope="module")
def browser(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(files[0], tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def lines(browser: Browser, axis: str) -> list[list[Any]]:
    """Of the curves plot, the values of every line that is solid or dotted."""
    script = f"document.getElementById('curves').data.filter(t => t.line && t.line.dash).map(t => [...t.{axis}])"
    found: list[list[Any]] = browser.run(script)
    return found


@needs_browser
def test_the_page_draws_offline_and_without_a_word_on_the_console(browser: Browser, files: list[Path]) -> None:
    check_drawn_offline(browser, files[0], PLOTS, "How <it> grows & why")
    types = browser.run("['xaxis', 'yaxis'].map(a => document.getElementById('curves').layout[a].type)")
    assert types == ["log", "log"]


@needs_browser
def test_curves_are_the_laws_and_choices_change_them(browser: Browser, over_params: Analysis) -> None:
    law = over_params.laws["lite"]
    assert lines(browser, "y")[1] == pytest.approx(law.at(lines(browser, "x")[1]).tolist())
    assert len(lines(browser, "x")) == 2
    press(browser, "reach", "to 8 times")
    assert len(lines(browser, "x")) == 4  # a dotted part for each
    assert max(lines(browser, "x")[-1]) == pytest.approx(8 * 64e6)
    press(browser, "above", "above the floor")
    x, y = lines(browser, "x")[0], lines(browser, "y")[0]
    slopes = np.diff(np.log(y)) / np.diff(np.log(x))
    assert slopes == pytest.approx(np.full(len(slopes), -over_params.laws["a <b> & c"].b))  # straight
    before = browser.run("document.querySelector('#table td:nth-child(2)').textContent")
    press(browser, "size", "latency, ms")
    title = browser.run("document.getElementById('curves').layout.xaxis.title.text")
    assert title == "latency, ms"
    assert browser.run("document.querySelector('#table td:nth-child(2)').textContent") != before
    assert "(ms)^" in browser.run("document.querySelector('.law').textContent")
    for name, words in (("size", "dense parameters"), ("above", "as measured"), ("reach", "at the runs")):
        press(browser, name, words)
    cells = browser.run("[...document.querySelectorAll('#table tbody tr:last-child td')].map(c => c.textContent)")
    assert cells == law_cells(over_params, "lite")


@needs_browser
def test_a_dot_tells_its_run_and_a_column_sorts(browser: Browser, points: Points) -> None:
    dots = browser.run(
        "(() => { const t = document.getElementById('curves').data.filter(t => t.mode === 'markers')[0]; "
        "return [t.text[0], t.customdata[0][0], t.x.length]; })()"
    )
    first = next(point for point in points.points if point.rows == 16e6)
    assert dots == ["250K, seed 0", f"{1 - first.metric:.4g}", 10]
    click = "document.querySelectorAll('#table th button')[1].click()"
    browser.run(click)
    down = browser.run("[...document.querySelectorAll('#table td:nth-child(2)')].map(c => Number(c.textContent))")
    assert down == sorted(down, reverse=True)


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_fits_wide_and_narrow_light_and_dark(browser: Browser, dark: bool, width: int) -> None:
    check_fits(browser, "curves", dark=dark, width=width)
    ticks = browser.run(
        "[...document.querySelectorAll('#curves .xtick text')].map(t => t.getBoundingClientRect())"
        ".filter(b => b.width).map(b => [b.left, b.right])"
    )
    assert len(ticks) >= 2
    assert all(one[1] <= two[0] for one, two in pairwise(ticks))  # none lies over the next


@needs_browser
def test_points_can_be_taken_from_the_page_and_fitted_again(
    browser: Browser, points: Points, tmp_path: Path, over_params: Analysis
) -> None:
    link = browser.run("document.querySelector('a[download]').href")
    path = tmp_path / "points.csv"
    path.write_bytes(base64.b64decode(link.removeprefix("data:text/csv;base64,")))
    again = read_points(path, metric="auc")
    assert [point.metric for point in again.points] == [point.metric for point in points.points]
    assert analyze(again, replicates=100).laws["lite"].b == pytest.approx(over_params.laws["lite"].b)


def test_the_page_names_warnings_method_and_escapes_names(files: list[Path]) -> None:
    text = files[0].read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # without the plotting library
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert "a &lt;b&gt; &amp; c" in own
    assert "<b> & c" not in own
    for words in (
        "before you use this",
        "Over parameters and data",
        "Holm",
        "bootstrap",
        "those of 16,000,000 training",
    ):
        assert words in own


def test_markdown_and_pictures_say_the_same(files: list[Path], over_params: Analysis) -> None:
    _, page, *pictures = files
    text = page.read_text(encoding="utf-8")
    for cell in law_cells(over_params, "lite"):
        assert cell in text
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (page.parent / target).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in pictures) == sorted(
        f"scaling-{x}.{kind}" for x in ("params", "flops", "latency_ms", "rows") for kind in ("png", "svg")
    )
    svg = next(path for path in pictures if path.name == "scaling-params.svg")
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_gains_of_two_rows_make_a_page_too(tmp_path: Path) -> None:
    frame = pl.DataFrame({"model": ["a", "a"], "params": [1e6, 1e8], "metric": [0.001, 0.002]})
    page, *_ = write_report(check_points(frame), tmp_path, title="two", options=AnalysisOptions(replicates=100))
    text = page.read_text(encoding="utf-8")
    assert "any law fits" in text
    assert "dAUC = a (N/1M)^b" in text
