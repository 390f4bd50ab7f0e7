"""The page: complete in itself, and numbers that can be read back out of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, needs_browser

from unimixer.inspection import Inspection, inspect_run
from unimixer.report.inspection import interaction_table, page, panels, rank_table, sharpness_table
from unimixer.report.inspection_figures import draw_inspection
from unimixer.training.run import RunFolder

VOID = {"meta", "link", "img", "input"}


class Reader(HTMLParser):
    """Checks that tags close in order and collects what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def found(toy_run: RunFolder) -> Inspection:
    return inspect_run(toy_run.folder, rows=64)


def test_the_page_loads_nothing_and_holds_all_figures_and_numbers(found: Inspection) -> None:
    pictures = draw_inspection(found)
    assert set(pictures) == {"global.png", "local.png", "interactions.png", "effective-rank.png", "temperature.png"}
    assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in pictures.values())
    text = page(found, pictures)
    reader = Reader(text)
    assert all(load.startswith("data:") for load in reader.loads)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest", text)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(image) for image in images] == list(pictures.values())
    for row in [*rank_table(found).rows, *sharpness_table(found).rows, *interaction_table(found, 5).rows]:
        assert all(f">{cell}</td>" in text for cell in row if cell)


def test_the_explorer_gets_every_matrix_to_16_bits(found: Inspection) -> None:
    text = page(found, {})
    shown = json.loads(re.search(r'id="values">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert shown == panels(found)
    (mixing,) = found.mixings
    assert [panel["title"] for panel in shown] == [
        "layer 1: between blocks",
        *(f"layer 1: inside block {block}" for block in mixing.shown_blocks),
    ]
    for index, at in enumerate(mixing.at):
        assert at.local_matrices is not None
        for matrix, panel in zip([at.global_matrix, *at.local_matrices], shown, strict=True):
            coded = panel["at"][index]
            steps = np.frombuffer(base64.b64decode(coded["codes"]), "<u2").astype(float)
            values = coded["low"] + steps / 65535 * (coded["high"] - coded["low"])
            assert coded["words"] == at.words
            error = torch.from_numpy(values.reshape(coded["rows"], coded["columns"])) - matrix
            assert error.abs().max() <= (coded["high"] - coded["low"]) / 65535


def test_names_of_a_run_cannot_break_the_page(found: Inspection) -> None:
    text = page(replace(found, run="</title><script>alert(1)</script>", notes=["a < b & c"]), {})
    Reader(text)
    assert "<script>alert" not in text
    assert "A &lt; b &amp; c." in text


def test_without_learned_mixing_there_is_no_explorer(found: Inspection) -> None:
    text = page(replace(found, mixings=[], notes=["rankmixer has none"]), {})
    Reader(text)
    assert "<script" not in text
    assert "Rankmixer has none." in text


@pytest.fixture(scope="module")
def path(found: Inspection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspection") / "inspect.html"
    path.write_text(page(found, draw_inspection(found)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.look(1280, 1000)
        opened.open(path)
        yield opened
        assert opened.problems == []  # of everything that the tests did


@needs_browser
def test_the_page_opens_offline_with_every_matrix_under_its_layer(
    browser: Browser, path: Path, found: Inspection
) -> None:
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]
    assert browser.problems == []
    assert browser.run("[...document.querySelectorAll('.layer h3')].map(h => h.textContent)") == ["layer 1"]
    sizes = browser.run("[...document.querySelectorAll('canvas')].map(c => [c.width, c.height])")
    (mixing,) = found.mixings
    assert mixing.trained.local_matrices is not None
    matrices = [mixing.trained.global_matrix, *mixing.trained.local_matrices]
    assert sizes == [[matrix.shape[1], matrix.shape[0]] for matrix in matrices]


@needs_browser
def test_the_slider_starts_at_the_trained_temperature_and_changes_the_matrices(
    browser: Browser, found: Inspection
) -> None:
    (mixing,) = found.mixings
    words = "document.getElementById('temperature-words').value"
    caption = "document.querySelector('canvas + *').textContent"
    assert browser.run(words) == mixing.trained.words
    browser.run("document.getElementById('temperature').value = 0")
    browser.run("document.getElementById('temperature').dispatchEvent(new Event('input'))")
    assert browser.run(words) == mixing.at[0].words
    shown = re.fullmatch(r"between blocks, (\S+) to (\S+)", browser.run(caption))
    assert shown is not None
    assert float(shown[1]) == 0.0
    assert float(shown[2]) == pytest.approx(mixing.at[0].global_matrix.max().item(), rel=0.05)
    browser.run("document.getElementById('one-scale').click()")
    assert browser.run(caption) == "between blocks, 0.0 to 1.0"


@needs_browser
def test_the_pointer_shows_a_value(browser: Browser, found: Inspection) -> None:
    point = (
        "(() => { const c = document.querySelector('canvas'), b = c.getBoundingClientRect(); "
        "c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + 1, clientY: b.top + 1})); "
        "return document.getElementById('tip').textContent; })()"
    )
    value = found.mixings[0].at[0].global_matrix[0, 0].item()
    match = re.fullmatch(r"to block 0 from 0: (\S+)", browser.run(point))
    assert match is not None
    assert float(match[1]) == pytest.approx(value, abs=1e-3)


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_wide_and_narrow_light_and_dark(browser: Browser, dark: bool, width: int) -> None:
    browser.look(width, 1000, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    channels = re.findall(r"\d+", browser.run("getComputedStyle(document.body).color"))
    assert (sum(map(int, channels[:3])) > 380) == dark
    boxes = browser.run(
        "[...document.querySelectorAll('canvas, img')].map(c => [c.clientWidth, c.parentElement.clientWidth])"
    )
    assert all(0 < inner <= outer for inner, outer in boxes)
