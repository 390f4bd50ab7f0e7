"""The page in a real browser: it draws without network and without a word on the console, and its choices work."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browser import Browser, check_drawn_offline, check_fits, needs_browser, opened, press
from fake_study import fake_study

from unimixer.analysis.comparison import ComparisonReport, Question, compare_models
from unimixer.experiments.results import load_rows
from unimixer.report.study_page import page

PLOTS = ["differences", "seeds", "speed", "budgets", "search"]
CHOICE = "document.querySelector('input[name={}]:checked').value"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonReport, str]:
    folder = tmp_path_factory.mktemp("study")
    fake_study(folder, datasets=("one", "two"), params=(1_000_000, 4_000_000), failed=[("dcnv2", 1)], rows=800)
    frame = load_rows(folder)
    return compare_models(frame.to_dicts(), folder, replicates=60), frame.write_csv()


@pytest.fixture(scope="module")
def path(found: tuple[ComparisonReport, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(found[0], title="A <study> & more", csv=found[1]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with opened(path, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def shown(browser: Browser, plot: str) -> list[list[Any]]:
    """The x values of every trace of a plot."""
    found: list[list[Any]] = browser.run(f"document.getElementById({plot!r}).data.map(trace => [...trace.x])")
    return found


@needs_browser
def test_the_page_draws_offline_and_without_a_word_on_the_console(browser: Browser, path: Path) -> None:
    check_drawn_offline(browser, path, PLOTS, "A <study> & more")


@needs_browser
def test_choices_change_every_plot_and_the_table(browser: Browser, found: tuple[ComparisonReport, str]) -> None:
    before = {plot: shown(browser, plot) for plot in PLOTS}
    for name, words in (("group", "two, 4M parameters"), ("task", "long_view"), ("metric", "log loss")):
        press(browser, name, words)
    judgement = found[0]
    table = judgement.table(judgement.groups[3], "long_view", "log_loss")
    assert table is not None
    compared = [line.compared for line in table.lines if line.compared is not None]
    after = shown(browser, "differences")
    assert [x for (x,) in after[: len(compared)]] == pytest.approx([one.estimate for one in compared])
    assert after[len(compared) :] == [pytest.approx(list(one.by_seed)) for one in compared]
    assert shown(browser, "seeds") != before["seeds"]
    verdicts = browser.run("[...document.querySelectorAll('#table tbody tr td:last-child')].map(c => c.textContent)")
    assert verdicts == [line.conclusion for line in table.lines]
    assert "two, 4M parameters · log loss of long_view" in browser.run("document.querySelector('.where').textContent")
    title = browser.run("document.getElementById('differences').layout.xaxis.title.text")
    assert title == "log loss of long_view: difference to rankmixer, lower is better"
    assert shown(browser, "budgets")[0] == [1_000_000, 4_000_000]
    assert shown(browser, "search")[0] == [5e-4, 1e-3, 2e-3]
    for name, words in (("group", "one, 1M parameters"), ("task", "click"), ("metric", "AUC")):
        press(browser, name, words)
    assert {plot: shown(browser, plot) for plot in PLOTS} == before


@needs_browser
def test_the_table_sorts_by_a_column_both_ways(browser: Browser) -> None:
    press(browser, "metric", "AUC")
    means = "[...document.querySelectorAll('#table tbody tr td:nth-child(6)')].map(cell => Number(cell.textContent))"
    click = "document.querySelectorAll('#table th button')[5].click()"
    browser.run(click)
    down = browser.run(means)
    browser.run(click)
    assert down == sorted(down, reverse=True)
    assert browser.run(means) == sorted(down)
    assert browser.run("document.querySelectorAll('#table th')[5].ariaSort") == "ascending"


@needs_browser
def test_a_legend_entry_hides_its_model(browser: Browser) -> None:
    hidden = browser.run(
        "(async () => { const plot = document.getElementById('speed'); "
        "await Plotly.restyle(plot, {visible: 'legendonly'}, [0]); "
        "const left = plot.querySelectorAll('.scatterlayer .trace').length; "
        "await Plotly.restyle(plot, {visible: true}, [0]); "
        "return [plot.querySelectorAll('.legend .traces').length, left]; })()"
    )
    assert hidden == [4, 3]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_readable_on_light_and_dark_wide_and_narrow(browser: Browser, dark: bool, width: int) -> None:
    check_fits(browser, "seeds", dark=dark, width=width)
    inside = "[...document.querySelectorAll('.plot')].every(p => { const a = p.getBoundingClientRect(), "
    inside += "b = p.closest('figure').getBoundingClientRect(); return a.bottom <= b.bottom && a.right <= b.right; })"
    assert browser.run(inside)
    for place, minimum in (("body", 7), (".soft", 4.5), (".badge.better", 4.5), (".badge.worse", 4.5), ("a", 4.5)):
        assert contrast(browser, place) > minimum, place


@needs_browser
def test_rows_can_be_taken_from_the_page(browser: Browser, found: tuple[ComparisonReport, str]) -> None:
    link = browser.run("document.querySelector('a[download]').href")
    text = base64.b64decode(link.removeprefix("data:text/csv;base64,")).decode()
    assert text == found[1]
    assert pl.read_csv(text.encode()).height == len(found[0].rows)


def test_the_page_is_whole_and_names_from_outside_are_escaped(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<title>A &lt;study&gt; &amp; more</title>" in text
    assert "&lt;b&gt;lower&lt;/b&gt;" in text
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # without the plotting library
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert own.count("<details") == 4
    assert "How it is computed" in own


def test_without_a_browser_the_reason_is_said() -> None:
    assert "apt-get install chromium" in needs_browser.kwargs["reason"]


def contrast(browser: Browser, place: str) -> float:
    """Of text to its ground, as WCAG 2 defines it."""
    colours = browser.run(
        f"(() => {{ let e = document.querySelector({place!r}), ink = getComputedStyle(e).color, ground; "
        "do { ground = getComputedStyle(e).backgroundColor; e = e.parentElement; } "
        "while (e && ground === 'rgba(0, 0, 0, 0)'); return [ink, ground]; })()"
    )
    light = sorted(luminance([int(n) for n in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(channels: list[int]) -> float:
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_browser
def test_a_search_is_drawn_at_the_chosen_rate_of_the_mixing(tmp_path: Path) -> None:
    models = ("rankmixer", "unimixer-lite:num_blocks=4")
    fake_study(tmp_path / "study", models=models, mixing_rates=(1e-3, 1e-2), seeds=1, rows=300)
    report = compare_models(load_rows(tmp_path / "study").to_dicts(), tmp_path / "study", replicates=20)
    path = tmp_path / "report.html"
    path.write_text(page(report, title="rates", csv=""), encoding="utf-8")
    with opened(path, tmp_path / "profile") as browser:
        assert shown(browser, "search") == [[5e-4, 1e-3, 2e-3]] * 2
        assert (
            browser.run("document.querySelector('#table tbody').textContent").count(" · ") == 3
        )  # one has three rates


@needs_browser
def test_long_names_of_models_stay_inside_their_plots(tmp_path: Path) -> None:
    longer = "token-mixer, mixing balanced-permutation, expansion 0.75, pre-norm, dense muon: "
    folder = tmp_path / "study"
    fake_study(folder, seeds=2, rows=400)
    rows = [{**row, "variant": longer + row["variant"]} for row in load_rows(folder).to_dicts()]
    report = compare_models(rows, folder, Question(f"{longer}rankmixer", ("click",), ("log_loss",)), replicates=20)
    path = tmp_path / "report.html"
    path.write_text(page(report, title="long", csv=""), encoding="utf-8")
    with opened(path, tmp_path / "profile") as browser:
        texts = browser.run(
            """["differences", "seeds", "speed"].map(id => {
              const plot = document.getElementById(id), { left, right, bottom } = plot.getBoundingClientRect();
              const texts = [...plot.querySelectorAll("svg text")].filter(one => one.textContent.length > 8);
              const out = texts.map(one => one.getBoundingClientRect())
                .filter(box => box.left < left - 1 || box.right > right + 1 || box.bottom > bottom + 1);
              const inner = plot.querySelector(".nsewdrag").getBoundingClientRect().width / (right - left);
              return [texts.length, out.length, inner];
            })"""
        )
    assert all(count > 1 and not cut and inner > 0.4 for count, cut, inner in texts), texts
