"""An experiment over HTTP: the server shows the lists that the runs give, and its events tell the same effects."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.abtest.assignment import assign
from unimixer.abtest.events import Events
from unimixer.closed_loop.config import SimulationConfig
from unimixer.closed_loop.served import check_served, simulate_served
from unimixer.closed_loop.server import server
from unimixer.closed_loop.simulate import simulate
from unimixer.errors import UnimixerError
from unimixer.settings import parse
from unimixer.training.run import RunFolder


@pytest.mark.slow
def test_an_experiment_over_http_has_the_events_of_one_without_a_server(world_run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = str(world_run.folder)
    values = {"users": 60, "days": 6, "warmup_days": 2, "candidates": 8, "arms": {"a": run, "b": run}}
    config = parse(SimulationConfig, values, where="test")
    address = f"sqlite:///{tmp_path / 'events.sqlite'}"
    served, here = simulate_served(config, tmp_path, address), simulate(config)
    assert served.agreement == 1.0
    assert served.effects == here.effects
    events = Events(address)
    served.rows.write(events, served.experiment)
    counts = events.counts()
    rows = {
        table: {tuple(row) for row in events._database.execute(f"SELECT {columns} FROM {table}")}
        for table, columns in {
            "exposures": "unit, arm, time, request_id, propensity, positions",
            "outcomes": "event_id, unit, event, value, time, item",
        }.items()
    }
    events.close()
    assert counts["exposures"] == here.rows.exposures.height
    exposures = here.rows.exposures.select("unit", "arm", "time", "request_id", "propensity", "positions")
    assert rows["exposures"] == set(exposures.iter_rows())
    outcomes = here.rows.outcomes.select("event_id", "unit", "event", "value", "time", "item")
    assert rows["outcomes"] == set(outcomes.iter_rows())
    assert all(assign(served.experiment, unit).arm == arm for unit, arm, *_ in rows["exposures"])


def test_only_runs_are_served(world_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match=r"arms\.a='truth': a server needs a bundle"):
        check_served(SimulationConfig(arms={"a": "truth", "b": str(world_run.folder)}))


def test_faults_are_not_for_a_server(world_run: RunFolder) -> None:
    run = str(world_run.folder)
    with pytest.raises(UnimixerError, match="broken: a server logs its events itself"):
        check_served(SimulationConfig(arms={"a": run, "b": run}, broken=("bots",)))


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UnimixerError, match=r"the server did not start: error: .*no\.sqlite: no such feature store.*server\.log"
        ),
        server([str(tmp_path / "nothing"), "--store", str(tmp_path / "no.sqlite")], tmp_path / "server.log"),
    ):
        pass
