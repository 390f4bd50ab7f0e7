"""Arms of requests, without a network: which unit, which experiment, and when an experiment is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from arm_cases import always, written
from experiments import microseconds

from unimixer.abtest.assignment import assign
from unimixer.abtest.events import Events
from unimixer.abtest.stops import STOPPED
from unimixer.errors import UnimixerError
from unimixer.serving.arms import Arms, Choice, Experiments
from unimixer.serving.errors import HTTPError
from unimixer.settings import dump_yaml

NOW = microseconds("2026-03-10")


def choose(arms: Arms, body: dict[str, Any]) -> Choice | None:
    return arms.choose(body, "user_id", NOW)


def test_a_request_gets_the_arm_that_python_gives_its_user() -> None:
    given, counted = always(traffic=0.8), []
    arms = Arms([given], set(), lambda *decision: counted.append(decision))
    for user in [*range(50), *(f"u{n}" for n in range(50)), "7.0"]:
        found, expected = choose(arms, {"user": user}), assign(given, user)
        assert (found and found.arm) == expected.arm
        assert counted.pop() == ("mixer", expected.arm or "", expected.reason)
        assert choose(arms, {"user": {"user_id": user, "age": 3}}) == found


@pytest.mark.parametrize(
    "body", [{}, {"user": None}, {"user": ""}, {"user": True}, {"user": [1]}, {"user": {"age": 3}}]
)
def test_a_request_without_an_id_takes_no_part_and_is_counted(body: dict[str, Any]) -> None:
    counted: list[tuple[str, str, str]] = []
    assert choose(Arms([always()], set(), lambda *decision: counted.append(decision)), body) is None
    assert counted == [("mixer", "", "no id")]


def test_another_unit_is_a_column_of_the_context() -> None:
    arms = Arms([always(unit="session")], set())
    assert choose(arms, {"user": 7}) is None
    found = choose(arms, {"user": 7, "context": {"session": "s1"}})
    assert found is not None
    assert (found.unit, found.arm) == ("s1", assign(always(), "s1").arm)
    assert arms.columns == {"session"}
    for session in (7, 7.0, "7", "7.0"):
        numbered = choose(arms, {"context": {"session": session}})
        assert numbered is not None
        assert (numbered.unit, numbered.arm) == ("7", assign(always(), 7).arm)
    for session in (7.5, 2.0**53, True, ["s1"], None):
        assert choose(arms, {"context": {"session": session}}) is None


def test_experiments_of_a_layer_are_served_together() -> None:
    layers = [{"name": "l", "buckets": [0, 500]}, {"name": "l", "buckets": [500, 1000]}]
    both = [always(name=f"e{n}", layer=layer) for n, layer in enumerate(layers)]
    arms = Arms(both, set())
    found = [choose(arms, {"user": user}) for user in range(200)]
    assert {choice.experiment.name for choice in found if choice} == {"e0", "e1"}
    assert all(found)
    user = next(user for user, choice in enumerate(found) if choice and choice.experiment.name == "e0")
    tested = choose(Arms([both[0], always(name="e1", layer=layers[1], overrides={user: "new"})], set()), {"user": user})
    assert tested is not None
    assert (tested.experiment.name, tested.arm, tested.exposed) == ("e1", "new", False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "may share units; give them one unit, one layer and ranges of buckets that do not overlap"),
        ({"layer": {"name": "l", "buckets": [499, 1000]}}, "may share units"),
        ({"layer": {"name": "m", "buckets": [500, 1000]}}, "may share units"),
        ({"layer": {"name": "l", "buckets": [500, 1000]}, "unit": "session"}, "may share units"),
        ({"layer": {"name": "l", "buckets": [500, 1000]}, "name": "e0"}, "two specifications have the name 'e0'"),
    ],
)
def test_experiments_that_may_share_units_are_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    files = []
    for number, more in enumerate(({"layer": {"name": "l", "buckets": [0, 500]}}, changes)):
        (tmp_path / str(number)).mkdir()
        files.append(written(tmp_path / str(number), always(**{"name": f"e{number}", **more})))
    with pytest.raises(UnimixerError, match=sentence):
        Experiments(files).read()


def test_an_exposure_has_the_columns_that_segments_name() -> None:
    choice = choose(Arms([always(segments=["tab"], overrides={"8": "new"})], set()), {"user": 7})
    assert choice is not None
    row = choice.exposure("r1", "v1", ["i2", "i1"], {"tab": "home", "position": 3})
    assert (row.unit, row.time, row.request_id, row.bundle, row.propensity) == ("7", NOW, "r1", "v1", 0.5)
    assert (json.loads(row.positions), json.loads(row.context)) == (["i2", "i1"], {"tab": "home"})
    for value, kept in ((2, "2"), (2.0, "2"), ("2.0", "2"), (True, True), (0.5, "0.5"), (None, None), ([1], [1])):
        assert json.loads(choice.exposure("r1", "v1", [], {"tab": value}).context) == {"tab": kept}
    shadow = choice.in_shadow(row, "watch")
    assert (shadow.request_id, shadow.arm, shadow.shadow, shadow.propensity) == ("r1/watch", "watch", 1, None)


def test_a_stopped_experiment_stays_stopped(tmp_path: Path) -> None:
    path = written(tmp_path, always())
    experiments = Experiments([path])
    experiments.register(experiments.read())
    arms = Arms(experiments.read(), experiments.stopped)
    assert choose(arms, {"user": 7}) is not None
    experiments.stop("mixer")
    assert choose(arms, {"user": 7}) is None
    experiments.read()
    assert choose(arms, {"user": 7}) is None
    after = Experiments([path])
    after.read()
    assert after.stopped == {"mixer"}
    assert json.loads((tmp_path / f"mixer.yaml{STOPPED}").read_text())["experiment"] == "mixer"
    with pytest.raises(UnimixerError, match="unknown experiment 'mixers'; did you mean 'mixer'"):
        experiments.stop("mixers")


def test_an_experiment_is_stopped_even_where_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    path = written(folder, always())
    experiments = Experiments([path])
    experiments.register(experiments.read())
    path.unlink()
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(HTTPError, match="'mixer' is stopped, but the next start of the server would start it again"):
        experiments.stop("mixer")
    assert experiments.stopped == {"mixer"}


def test_a_specification_is_registered_and_a_change_under_way_refused(tmp_path: Path) -> None:
    events = Events(f"sqlite:///{tmp_path / 'events.sqlite'}")
    experiments = Experiments([written(tmp_path, always(traffic=0.5))], events)
    experiments.register(experiments.read())
    assert events.specification("mixer") == always(traffic=0.5)
    written(tmp_path, always(version=2, traffic=0.5, salt="other"))
    with pytest.raises(UnimixerError, match="salt changed while it runs"):
        experiments.register(experiments.read())
    written(tmp_path, always(version=2, traffic=1))
    experiments.register(experiments.read())
    assert events.specification("mixer") == always(version=2)
    events.close()


def test_the_file_of_a_stop_is_of_one_experiment(tmp_path: Path) -> None:
    path = written(tmp_path, always())
    experiments = Experiments([path])
    experiments.register(experiments.read())
    experiments.stop("mixer")
    path.write_text(dump_yaml(always(name="next")))
    with pytest.raises(UnimixerError, match=r"experiment 'mixer' was stopped, but .* now specifies 'next'; remove"):
        experiments.read()
    stop_file = tmp_path / f"mixer.yaml{STOPPED}"
    stop_file.unlink()
    experiments.register(experiments.read())
    assert experiments.stopped == {"mixer"}
    experiments.stop("next")
    assert json.loads(stop_file.read_text())["experiment"] == "next"
    stop_file.write_text("damaged")
    after = Experiments([path])
    after.read()
    assert after.stopped == {"next"}
