"""``unimixer evaluate``: splits, files, hardened mixings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from toy import toy_frames, toy_tables

from unimixer.data.coverage import Coverage
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.training.run import RunFolder

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_evaluate_measures_a_split_and_a_file(cli: Cli, toy_run: RunFolder, rows: Path, toy_folder: Path) -> None:
    for split in ("validation", "test"):
        values = cli("evaluate", toy_run.folder, "--split", split, "--json").json
        shares = Coverage.of_split(Dataset(toy_folder), split).shares()
        assert values == {"run": str(toy_run.folder), "on": split, "tasks": (toy_run.result or {})[split], **shares}
    assert cli("evaluate", toy_run.folder, "--input", rows, "--json").json["tasks"]["is_click"]["num_rows"] == 50
    assert "is_click" in cli("evaluate", toy_run.folder, "--data", toy_folder).out
    assert "unknown split 'tset'" in cli("evaluate", toy_run.folder, "--split", "tset").error


def test_evaluate_refuses_other_data(cli: Cli, toy_run: RunFolder, tmp_path: Path) -> None:
    prepare(toy_tables(seed=1), tmp_path / "other")
    assert "evaluate other data as raw rows, with --input" in cli("evaluate", toy_run.folder, "--data", "other").error


def test_evaluate_hardens_on_request(cli: Cli, toy_run: RunFolder) -> None:
    done = cli("evaluate", toy_run.folder, "--harden", "permutation", "--json")
    assert set(done.json["tasks"]) == {"test", "test, permutation"}
    assert "in the probability" in cli("evaluate", toy_run.folder, "--harden", "top-2").out
    asked = cli("evaluate", toy_run.folder, "--harden", "top-2", "--metric", "ece", "--json").json["tasks"]
    assert all(values["is_click"]["ece"] >= 0 for values in asked.values())
    assert "leave --input out" in cli("evaluate", toy_run.folder, "--harden", "top-2", "--input", "x.csv").error


def test_evaluate_measures_a_file_of_scores(cli: Cli, tmp_path: Path) -> None:
    rows = {"click": [0, 1, 0, 1], "p": [0.1, 0.4, 0.4, 0.8], "user": [7, 7, 8, 8]}
    pl.DataFrame(rows).write_csv(tmp_path / "scores.csv")
    given = ("evaluate", "--predictions", "scores.csv", "--label", "click", "--score", "p", "--user", "user")
    click = cli(*given, "--metric", "NDCG@1", "--json").json["tasks"]["click"]
    assert (click["auc"], click["uauc"], click["ndcg@1"]) == (0.875, 1.0, 1.0)
    shown = cli(*given, "--metric", "hitrate@1").out
    assert "PCOC" in shown
    assert "hitrate@1" in shown
    done = cli(*given, "--reliability", "pictures/click")
    assert "wrote pictures/click.png, pictures/click.svg" in done.err
    assert (tmp_path / "pictures" / "click.svg").exists()
    assert ". is a folder; name the file to write" in cli(*given, "--reliability", ".").error
    assert "needs the column of the label: --label COLUMN" in cli("evaluate", "--predictions", "scores.csv").error
    assert "leave the run folder out" in cli("evaluate", "run", "--predictions", "scores.csv").error
    assert "give a run folder, or a file of scores" in cli("evaluate").error
    for words, option in ((("--weight", "w"), "--weight"), (("--logits",), "--logits"), (("--score", "p"), "--score")):
        assert f"{option} describes a file of scores" in cli("evaluate", "run", *words).error
    assert "leave one of them out" in cli("evaluate", "run", "--input", "x.csv", "--data", "d").error
    assert "leave one of them out" in cli("evaluate", "run", "--input", "x.csv", "--split", "train").error
    assert "leave --split out" in cli(*given, "--split", "train").error


def test_evaluate_adds_metrics_to_those_of_the_recipe(cli: Cli, toy_run: RunFolder, rows: Path) -> None:
    for words in ((), ("--input", rows)):
        found = cli("evaluate", toy_run.folder, *words, "--metric", "ndcg@5", "--metric", "ece", "--json").json
        for values in found["tasks"].values():
            assert 0 < values["ndcg@5"] <= 1
            assert len(values["reliability"]) <= 10
    assert "did you mean 'ndcg'" in cli("evaluate", toy_run.folder, "--metric", "ndgc@5").error
