"""``python -m benchmarks.suite``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suite.registry import NAMES
from benchmarks.suite.results import FOLDER, Row, read_rows, save_rows

Cli = Callable[..., Any]
QUICK = ("run", "history-mean", "--cases", "length=10 *", "--threads", "1", "--repeats", "3")


def test_bench_lists_what_there_is(cli: Cli) -> None:
    found = cli("list", "--json").json["benchmarks"]
    assert [entry["name"] for entry in found] == list(NAMES)
    assert all(set(entry["cases"].values()) <= {"small", "all"} for entry in found)
    assert all(name in cli("list").out for name in ("mixing", "startup"))


def test_bench_measures_saves_and_replaces(cli: Cli, tmp_path: Path) -> None:
    done = cli(*QUICK, "--out", "results", "--json").json
    assert done["folder"] == "results"
    rows = read_rows(tmp_path / "results" / "history-mean.csv")
    assert [row["implementation"] for row in done["rows"]] == [row.implementation for row in rows]
    assert {(row.status, row.threads, row.repeats) for row in rows} == {("ok", 1, 3)}
    shown = cli(*QUICK, "--out", "results").out
    assert "speed-up" in shown
    assert "of sgemm" not in shown  # no products here
    assert "rows are in results" in shown
    assert len(read_rows(tmp_path / "results" / "history-mean.csv")) == len(rows)


def test_bench_compares_two_files(cli: Cli, tmp_path: Path) -> None:
    cli(*QUICK, "--out", "results")
    rows = read_rows(tmp_path / "results" / "history-mean.csv")
    half = [Row(**(asdict(row) | {"seconds": (row.seconds or 0) / 2, "spread": 0.0})) for row in rows]
    save_rows(tmp_path / "faster", "history-mean", half)
    files = ("results/history-mean.csv", "faster/history-mean.csv")
    found = cli("compare", *files, "--json").json["rows"]
    assert [row["ratio"] for row in found] == [pytest.approx(0.5, rel=1e-4)] * len(rows)
    assert "new / base" in cli("compare", *files).out
    assert "give a second result file" in cli("compare", files[0]).error
    assert "no such file" in cli("compare", files[0], "none.csv").error


def test_bench_prints_results_as_markdown(cli: Cli) -> None:
    cli(*QUICK, "--out", "results")
    lines = cli("table", "results/history-mean.csv").out.splitlines()
    assert lines[0].startswith("history-mean: ")
    assert lines[2].startswith("| case | implementation | median | IQR | speed-up | rows/s |")
    assert lines[3].startswith("| --- | --- | ---: |")
    assert [line.split(" | ")[1] for line in lines[4:6]] == ["gather and add", "bags"]
    rows = cli("table", "results/history-mean.csv", "--json").json["rows"]
    assert [row["implementation"] for row in rows] == ["gather and add", "bags"]
    assert "Missing argument 'FILE...'" in cli("table").error
    assert "no such file" in cli("table", "none.csv").error


def test_mistakes_are_one_sentence(cli: Cli) -> None:
    assert cli("run", "sinkhrn").error == "unknown benchmark 'sinkhrn'; did you mean 'sinkhorn'?"
    assert cli("run", "mixing", "--threads", "0").error == "threads=0 must be greater than 0"
    assert cli("run", "mixing", "--repeats", "0").error == "repeats=0 must be greater than 0"
    assert "did you mean 'small'?" in cli("run", "mixing", "--cases", "smal").error
    assert "Missing argument 'BASE [NEW] NAME...'" in cli("compare").error
    assert "name the benchmarks" in cli("compare", "HEAD").error
    assert "'mixin' is taken for a commit" in cli("compare", "HEAD", "mixin").error


def test_commits_need_a_checkout(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.suite.commits.ROOT", tmp_path)
    error = cli("compare", "HEAD", "mixing").error
    assert error.startswith("comparing commits needs a git checkout of unimixer")
    assert "two result files can be compared anywhere" in error


def test_results_go_beside_the_suite_by_default() -> None:
    assert Path(__file__).parents[2] / "benchmarks" / "results" == FOLDER
    names = {path.stem for path in FOLDER.glob("*.csv")}
    scripts = {
        name
        for name in names
        if name.startswith(("gpu-", "serving-", "mixers", "distillation", "abtest", "asos", "peers", "long-histories"))
    }  # of other commands
    assert names - scripts <= set(NAMES)
