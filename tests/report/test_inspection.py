"""The page: complete in itself, and numbers that can be read back out of it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from unimixer.inspection import Inspection, inspect_run
from unimixer.report.inspection import page, panels, rank_table, sharpness_table
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
    assert set(pictures) == {"global.png", "local.png", "effective-rank.png", "temperature.png"}
    assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in pictures.values())
    text = page(found, pictures)
    reader = Reader(text)
    assert all(load.startswith("data:") for load in reader.loads)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttpRequest", text)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(image) for image in images] == list(pictures.values())
    for row in [*rank_table(found).rows, *sharpness_table(found).rows]:
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
