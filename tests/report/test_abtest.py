"""The page of an experiment: in a real browser, offline, sound and broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from abtest_cases import database, experiment, simulate
from browser import Browser, check_drawn_offline, check_fits, needs_browser, opened

from unimixer.abtest.analysis.reading import Reading, read_experiment
from unimixer.report.abtest import check_table, effect_table, headline, markdown_report, page, write_reading

METRICS = [
    {"name": "ctr", "kind": "ratio", "event": "click", "denominator": "view"},
    {"name": "views", "kind": "mean", "event": "view", "guardrail": True, "margin": 0.2},
]


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    plan = experiment(segments=["country"], metrics=METRICS, description="The mixer against <the> control & more.")
    rows = simulate(plan, rates={"mixer": 0.25})
    with closing(database(tmp_path_factory.mktemp("e") / "e.sqlite", plan, *rows)) as events:
        return read_experiment(plan, events, as_of=plan.end_us)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    plan = experiment()
    exposures, outcomes = simulate(plan, units=600)
    one_arm = [row for row in exposures if row.arm == "mixer"]
    with closing(database(tmp_path_factory.mktemp("e") / "e.sqlite", plan, one_arm, outcomes)) as events:
        return read_experiment(plan, events, as_of=plan.end_us)


@pytest.fixture(scope="module")
def file(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (written,) = write_reading(reading, html=tmp_path_factory.mktemp("page") / "r.html")
    return written


@pytest.fixture(scope="module")
def browser(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(file, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@needs_browser
def test_the_page_draws_offline_and_without_a_word_on_the_console(browser: Browser, file: Path) -> None:
    check_drawn_offline(browser, file, ["effects", "units"], "ranker: ship mixer")


@needs_browser
def test_the_plot_shows_the_effects_of_the_table(browser: Browser, reading: Reading) -> None:
    drawn = browser.run("document.getElementById('effects').data.map(t => t.x[0])")
    assert drawn == pytest.approx([100 * (effect.relative or 0) for effect in reading.effects])
    units = browser.run("document.getElementById('units').data.map(t => [...t.y].reduce((a, b) => a + b))")
    assert units == [reading.units["control"], reading.units["mixer"]]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_every_window(browser: Browser, dark: bool, width: int) -> None:
    check_fits(browser, "effects", dark=dark, width=width)


def test_the_page_says_the_verdict_its_reasons_and_what_to_do(reading: Reading) -> None:
    html = page(reading)
    assert "The mixer against &lt;the&gt; control &amp; more." in html
    for words in (*reading.verdict.next_steps, "all guardrails hold", "country=de", "one look"):
        assert words in html
    assert '<span class="badge better">ship</span>' in html


def test_tables_show_what_was_found(reading: Reading) -> None:
    rows = {row[0]: row for row in effect_table(reading).rows}
    assert rows["ctr"][-1] == "better"
    assert rows["views"][-2:] == ("\N{EN DASH}", "guardrail holds")
    assert {row[1] for row in check_table(reading).rows} == {"passed"}
    text = markdown_report(reading)
    assert text.startswith(f"# {headline(reading)}\n\n- mixer: ctr improved by +")
    assert text.count("\n## ") == 3


def test_a_broken_experiment_has_no_effects_on_any_page(broken: Reading, tmp_path: Path) -> None:
    assert headline(broken) == "ranker, 2026-03-15: broken"
    html = page(broken)
    assert "<h2>Effects</h2>" not in html
    assert "is not the configured one" in html
    assert "## Effects" not in markdown_report(broken)
    assert write_reading(broken) == []
