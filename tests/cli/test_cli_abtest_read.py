"""``unimixer abtest plan`` and ``unimixer abtest read``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from abtest_cases import database, experiment, simulate

from unimixer.settings import dump_yaml

Cli = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A specification, and a database with two weeks of its events."""
    plan = experiment(segments=["country"])
    (tmp_path / "spec.yaml").write_text(dump_yaml(plan))
    database(tmp_path / "events.sqlite", plan, *simulate(plan, seed=1, units=800, rates={"mixer": 0.3})).close()
    return tmp_path


def test_read_prints_the_verdict_checks_and_effects_and_writes_reports(cli: Cli, place: Path) -> None:
    files = ("--markdown", "r.md", "--html", "r.html", "--json-file", "r.json")
    done = cli("abtest", "read", "spec.yaml", "--database", "sqlite:///events.sqlite", "--as-of", "2026-03-15", *files)
    assert done.code == 0
    assert done.out.startswith("ranker, 2026-03-15: ship mixer\n  mixer: ctr improved by +")
    for words in ("sample ratio", "country=de", "ctr", "next: ship mixer to all units", "written: r.html"):
        assert words in done.out
    assert (place / "r.md").read_text().startswith("# ranker, 2026-03-15: ship mixer")
    assert "| ctr | mixer |" in (place / "r.md").read_text()
    assert json.loads((place / "r.json").read_text())["verdict"]["decision"] == "ship"
    assert "<h1>ranker: ship mixer</h1>" in (place / "r.html").read_text()


def test_a_reading_that_must_wait_ends_well_and_shows_no_effect(cli: Cli, place: Path) -> None:
    done = cli(
        "abtest", "read", "spec.yaml", "--database", "sqlite:///events.sqlite", "--as-of", "2026-03-08", "--json"
    )
    assert (done.code, done.json["verdict"]["decision"], done.json["effects"]) == (0, "keep running", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--as-of", "soon", "--database", "sqlite:///events.sqlite"), "--as-of 'soon' is no day"),
        (("--database", "sqlite:///none.sqlite"), "none.sqlite: no such file"),
        ((), "--database is missing"),
    ],
)
def test_a_mistake_is_one_sentence(cli: Cli, place: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("abtest", "read", "spec.yaml", *arguments)
    assert done.code == 2
    assert message in done.error


def test_plan_from_numbers_and_from_a_database(cli: Cli, place: Path) -> None:
    numbers = ("--mean", "2", "--std", "3", "--units-per-day", "1000", "--metric", "long_views")
    done = cli("abtest", "plan", "spec.yaml", *numbers, "--effect", "0.05", "--json").json["metrics"]
    assert [one["metric"] for one in done] == ["long_views"]
    assert done[0]["units"] == 14_000
    later = experiment(name="next", start="2026-03-15", end="2026-03-29")
    (place / "next.yaml").write_text(dump_yaml(later))
    one = ("abtest", "plan", "next.yaml", "--database", "sqlite:///events.sqlite", "--metric")
    assert [plan["metric"] for plan in cli(*one, "long_views", "--json").json["metrics"]] == ["long_views"]
    assert "'long_view'" in cli(*one, "long_view").err
    shown = cli("abtest", "plan", "next.yaml", "--database", "sqlite:///events.sqlite", "--effect", "0.1").out
    assert "next: found with a chance of 80%" in shown
    assert "ctr" in shown
    assert "10.00%" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "without --database a plan needs --mean, --std and --units-per-day; give all three"),
        (
            ("--mean", "1", "--std", "1", "--units-per-day", "9", "--metric", "cfr"),
            "unknown metric 'cfr'; did you mean 'ctr'?",
        ),
        (
            ("--mean", "1", "--database", "sqlite:///events.sqlite"),
            "--database and --mean with --std both give the past",
        ),
    ],
)
def test_a_plan_without_a_past_is_refused(cli: Cli, place: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli("abtest", "plan", "spec.yaml", *arguments)
    assert done.code == 2
    assert message in done.error


def test_a_plan_without_metrics_and_a_load_without_files_are_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(dump_yaml(experiment(metrics=[], segments=[])))
    planned = cli("abtest", "plan", "spec.yaml", "--mean", "0.1", "--std", "0.3", "--effect", "0.02")
    assert planned.error == "spec.yaml: the experiment has no metrics to plan; add metrics"
    loaded = cli("abtest", "load", "--database", "sqlite:///events.sqlite")
    assert loaded.error == "nothing to load; name files with --outcomes, --exposures or --covariates"
    assert not (tmp_path / "events.sqlite").exists()
