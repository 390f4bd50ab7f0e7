"""``unimixer abtest simulate``: one command makes, reads and reports an experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Done

from unimixer.abtest.events import Events
from unimixer.abtest.records import Outcome
from unimixer.abtest.specification import load_experiment

SMALL = ("users=300", "days=6", "warmup_days=2", "candidates=8", "world.rows=10000", "world.items=100")


def test_a_simulation_leaves_its_settings_events_and_result(cli: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "simulation"
    done = cli("abtest", "simulate", *SMALL, "arms.a=random", "arms.b=truth", "--out", out, "--json")
    assert done.code == 0, done.err
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "simulation.yaml",
        "experiment.yaml",
        "events.sqlite",
        "result.json",
        "result.md",
        "simulation.png",
    }
    assert [arm["arm"] for arm in done.json["arms"]] == ["a", "b"]
    assert done.json["arms"][0]["auc"] < done.json["arms"][1]["auc"]
    assert load_experiment(out / "experiment.yaml").control == "a"


def test_an_earlier_simulation_is_replaced_only_when_told(cli: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "exists; choose another --out" in cli("abtest", "simulate", "--out", tmp_path / "mine").error
    refused = cli("abtest", "simulate", "--out", tmp_path / "mine", "--overwrite")
    assert "holds no simulation, so it is not replaced" in refused.error
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["usres=5"], "unknown key 'usres'; did you mean 'users'?"),
        (["broken=[bot]"], "broken.0='bot': input should be"),
        (["--http"], "arms.control='popularity': a server needs a bundle, so every arm must name a run folder"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], message: str, cli: Callable[..., Done], tmp_path: Path) -> None:
    done = cli("abtest", "simulate", *words, "--out", tmp_path / "simulation")
    assert message in done.error


def test_a_database_with_events_is_refused_before_the_simulation(cli: Callable[..., Done], tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'events.sqlite'}"
    events = Events(address)
    events.add_outcomes([Outcome("one", "5", "click", 1.0, 1_800_000_000_000_000, 1_800_000_000_000_000)])
    events.close()
    refused = cli("abtest", "simulate", *SMALL, "--out", tmp_path / "out", "--database", address)
    assert "has events already, and those of a simulation would mix with them" in refused.error
    assert not (tmp_path / "out").exists()
