"""The reading of a simulated experiment: its effects beside the true ones, and every fault found by its check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unimixer.abtest.events import Events
from unimixer.closed_loop.broken import broken
from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.result import Result, read_simulation
from unimixer.closed_loop.simulate import Simulation, simulate
from unimixer.report.abtest_simulation import arm_table, markdown, truth_table


@pytest.fixture(scope="module")
def sound() -> Simulation:
    return simulate(
        SimulationConfig(
            users=2_500,
            days=8,
            warmup_days=4,
            candidates=10,
            world={"rows": 20_000, "items": 300},
            arms={"old": "noisy:1", "new": "truth"},
        )
    )


def read(simulation: Simulation, folder: Path, *faults: str) -> Result:
    rows = broken(simulation.rows, simulation.experiment, faults)
    events = Events(f"sqlite:///{folder / 'events.sqlite'}")
    try:
        changed = Simulation(simulation.experiment, rows, simulation.effects, simulation.arms, simulation.as_of)
        return read_simulation(changed, events)
    finally:
        events.close()


def test_a_sound_experiment_is_read_and_its_intervals_hold_the_truth(sound: Simulation, tmp_path: Path) -> None:
    result = read(sound, tmp_path)
    assert result.reading.valid, [check for check in result.reading.checks if not check.passed]
    assert [one.covered for one in result.comparisons] == [True, True, True]
    click_rate = result.comparisons[0]
    assert click_rate.read is not None
    assert click_rate.read.narrowed < 0.95  # the covariates explain a part
    assert result.reading.verdict.decision == "ship"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("skewed-split", "sample ratio"),
        ("bots", "bots"),
        ("lost-events", "outcomes arrive"),
        ("two-arms", "one arm a unit"),
        ("future-clocks", "clocks"),
        ("early-outcomes", "exposure before outcome"),
    ],
)
def test_a_fault_is_found_and_no_effect_is_shown(fault: str, check: str, sound: Simulation, tmp_path: Path) -> None:
    result = read(sound, tmp_path, fault)
    failed = [one for one in result.reading.checks if not one.passed]
    assert [one.name for one in failed] == [check]
    assert result.reading.effects == ()
    assert result.reading.verdict.decision == "broken"
    assert all(one.read is None and one.covered is None for one in result.comparisons)


def test_the_report_has_a_row_an_arm_and_a_row_an_effect(sound: Simulation, tmp_path: Path) -> None:
    result = read(sound, tmp_path)
    assert [row[:2] for row in arm_table(result).rows] == [("old", "noisy:1"), ("new", "truth")]
    assert [row[0] for row in truth_table(result).rows] == ["click_rate", "active_days_3", "return_day_3"]
    assert markdown(result).startswith("# simulation: ship")
    assert result.as_json()["effects"][0]["covered"] is True


def test_a_simulation_may_reach_into_the_future(
    sound: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimixer.abtest.analysis.reading.now_us", lambda: sound.experiment.start_us)
    assert read(sound, tmp_path).reading.valid


def test_what_no_user_is_old_enough_for_is_null_in_json(tmp_path: Path) -> None:
    config = SimulationConfig(users=60, days=1, warmup_days=0, candidates=8, world={"rows": 2_000, "items": 80})
    result = read(simulate(config), tmp_path)
    values = result.as_json()
    json.dumps(values, allow_nan=False)
    assert {one["metric"]: one["control_value"] for one in values["effects"]}["return_day_1"] is None
    assert not [cell for row in truth_table(result).rows for cell in row if "nan" in cell]
