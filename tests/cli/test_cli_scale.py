"""``unimixer scale fit`` and ``unimixer scale report``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
PAPER = Path(__file__).parents[1] / "analysis" / "paper.csv"
UNITS = ("--units", "params=M,metric=percent")


def test_fit_prints_laws_pairs_predictions_and_warnings(cli: Cli) -> None:
    done = cli("scale", "fit", PAPER, *UNITS, "--replicates", 200, "--at", "1B")
    assert done.code == 0
    for words in ("dAUC = a (N/1M)^b", "RankMixer", "0.116", "exponents compared", "not told apart", "1.00B"):
        assert words in done.out
    assert "warning: RankMixer: as many sizes as coefficients" in done.out


def test_fit_as_json_holds_every_number(cli: Cli) -> None:
    done = cli("scale", "fit", PAPER, *UNITS, "--replicates", 200, "--models", "UniMixer,UniMixing-Lite", "--json")
    values = done.json
    assert values["laws"]["UniMixer"]["b"] == pytest.approx(0.1329, abs=1e-3)
    assert values["unit"] == 1e6
    assert [pair["verdict"] for pair in values["pairs"]] == ["not told apart"]
    assert values["predicted"][0]["far"] is False
    assert values["joint"] == {}


def test_report_writes_page_markdown_and_pictures(cli: Cli, tmp_path: Path) -> None:
    done = cli("scale", "report", PAPER, *UNITS, "--out", "out", "--replicates", 100, "--json")
    assert done.code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["figures", "scaling.html", "scaling.md"]
    assert done.json["page"] == "out/scaling.html"
    assert len(done.json["files"]) == 4


def test_mistakes_are_one_sentence(cli: Cli, tmp_path: Path) -> None:
    nan = tmp_path / "nan.csv"
    nan.write_text("model,params,metric\na,1e6,nan\n")
    for arguments, message in (
        ((PAPER,), "paper.csv, line 2 (RankMixer): params=4.44 is too few for a ranker"),
        ((nan,), "nan.csv, line 2 (a): metric=nan: not a finite number"),
        (("none.csv",), "none.csv: no such file"),
        ((PAPER, *UNITS, "--form", "loss"), "--form='loss' is not one of gain, error"),
        ((PAPER, *UNITS, "--best-auc", "0.8", "--floor", "0.2"), "--floor and --best-auc both say"),
        ((PAPER, *UNITS, "--at", "many"), "--at 'many' is not a number, such as 64M"),
        ((PAPER, *UNITS, "--models", "RankMixr"), "no model 'RankMixr'; did you mean 'RankMixer'?"),
        ((PAPER, *UNITS, "--x", "flops"), "no flops; fill the column, or fit over another: params"),
    ):
        assert message in cli("scale", "fit", *arguments).error
