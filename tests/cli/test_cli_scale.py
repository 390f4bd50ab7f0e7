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
    for words in ("dAUC = a (N/1M)^b", "RankMixer", "0.116", "exponents compared", "inconclusive", "1.00B"):
        assert words in done.out
    assert "warning: RankMixer: as many sizes as coefficients" in done.out


def test_fit_as_json_holds_every_number(cli: Cli) -> None:
    done = cli("scale", "fit", PAPER, *UNITS, "--replicates", 200, "--models", "UniMixer,UniMixing-Lite", "--json")
    values = done.json
    assert values["laws"]["UniMixer"]["b"] == pytest.approx(0.1329, abs=1e-3)
    assert values["unit"] == 1e6
    assert [pair["verdict"] for pair in values["pairs"]] == ["inconclusive"]
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
        ((PAPER, *UNITS, "--models", ","), "',' names nothing; give one or more names"),
        ((PAPER, *UNITS, "--at", ","), "--at ',' names no size; give one, such as 64M"),
        ((PAPER, *UNITS, "--seed", "-1"), "Invalid value for '--seed': Input should be greater than or equal to 0"),
        ((PAPER, *UNITS, "--floor", "0.2"), "--floor is of an error, and a gain has no floor; leave it out"),
        ((PAPER, *UNITS, "--base-auc", "0.7"), "--base-auc is what a gain counts from where the file holds AUCs"),
        ((PAPER, "--units", "flops=M"), "paper.csv: no column 'flops', for which a unit is given"),
    ):
        assert message in cli("scale", "fit", *arguments).error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rankmixer", "--width", "-8"), "width=-8 must be a number greater than 0"),
        (("rankmixer", "--width", "nan"), "width=nan must be a number greater than 0"),
        (("rankmixer", "--width", "inf"), "width=inf must be a number greater than 0"),
        (("rankmixer", "--params", ","), "sizes ',': no size is named; give one or more"),
        (("", "--params", "1M"), "'' names no model; name one or more, such as rankmixer,mlp"),
        (("rankmixer", "rankmixer", "--params", "1M"), "model 'rankmixer' is given twice; name every model once"),
        (("mlp", "--data", "x", "--num-tokens", "8"), "--num-tokens is of a backbone alone; with --data give --set"),
    ],
)
def test_what_cannot_be_counted_is_named(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    assert message in cli("scale", "count", *arguments).error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-params", "1M,2M"), "--max-params '1M,2M': one number here"),
        (("--max-params", "1M", "--cores", "2"), "--cores are those that serve --qps; give both, or leave --cores out"),
        (("--latency-ms", "4", "--candidates", "9"), "--candidates is of requests that are measured for the folder"),
    ],
)
def test_advice_names_options_without_effect(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    points = tmp_path / "points.csv"
    points.write_text("model,params,metric,latency_ms\n" + "".join(f"a,{n}e5,0.0{n},{n}\n" for n in (1, 2, 4, 8)))
    assert "at most 4 ms a request\n" in cli("scale", "advise", points, "--latency-ms", "4").out
    assert message in cli("scale", "advise", points, *arguments).error
