"""A real server with an experiment: arms, exposures, the kill switch, ramp-up, shadow arms, a database that dies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from arm_cases import always, rows, shown, written
from database import Database
from load import Load
from served import API_KEY, CONTEXT, Served

from unimixer.abtest.assignment import assign
from unimixer.abtest.events import Events
from unimixer.abtest.specification import Experiment
from unimixer.bundles import open_bundle
from unimixer.cli import main
from unimixer.serving.prediction_log.writer import read_log

USERS = [f"u{number}" for number in range(12)]
ITEMS = [f"i{number}" for number in range(10)]


class Place:
    """A folder with a specification, a store and a database of events, and the options of a server for them."""

    def __init__(self, folder: Path, given: Experiment, features: Path) -> None:
        self.folder, self.file, self.features = folder, written(folder, given), features
        self.database = folder / "events.sqlite"
        self.options = ("--experiment", str(self.file), "--database", f"sqlite:///{self.database}", "--flush", "0.1")

    def exposures(self) -> list[dict[str, object]]:
        return rows(self.database, "exposures")


@pytest.fixture
def place(bundles: tuple[Path, Path], features: Path, tmp_path: Path) -> Place:
    arms = {"old": {}, "new": {"bundle": str(bundles[1])}}
    return Place(tmp_path, always(arms=arms, segments=["tab"], targeting={"tab": ["home", "feed"]}), features)


@pytest.fixture(scope="module")
def running(
    bundles: tuple[Path, Path], toy_features: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Place]]:
    """A server with an experiment that tests only ask."""
    folder = tmp_path_factory.mktemp("experiment")
    arms = {"old": {}, "new": {"bundle": str(bundles[1])}, "watch": {"bundle": str(bundles[1]), "shadow": True}}
    given = always(arms=arms, overrides={"tester": "new"}, segments=["country"], traffic=0.8)
    place = Place(folder, given, Path(shutil.copy(toy_features, folder / "features.sqlite")))
    log = ("--prediction-log", str(folder / "log"), "--positions", "3", "--max-candidates", "100")
    with Served(bundles[0], place.features, *place.options, *log, keys=True) as served:
        yield served, place


def ask(served: Served, user: object, **context: object) -> dict[str, object]:
    client = served.client()
    body = {"user": user, "items": ITEMS, "context": {**CONTEXT, **context}}
    answer = client.ask("POST", "/v1/rank", body, {"X-API-Key": API_KEY})
    client.close()
    assert answer.status == 200, answer.body
    found: dict[str, object] = answer.json
    return found


def test_every_user_gets_the_bundle_of_its_arm_and_is_exposed_once_a_request(
    running: tuple[Served, Place], bundles: tuple[Path, Path]
) -> None:
    served, place = running
    given = always(traffic=0.8)
    old, new = (open_bundle(bundle).version for bundle in bundles)
    answers = {user: ask(served, user, country="de") for user in USERS}
    arms = {user: assign(given, user).arm for user in USERS}
    assert set(arms.values()) == {"old", "new", None}
    for user, answer in answers.items():
        assert answer["model"] == {"name": "ranker", "version": new if arms[user] == "new" else old}
        facts = {"name": "mixer", "version": 1, "arm": arms[user]}
        assert answer.get("experiment") == (None if arms[user] is None else facts)
    part = [user for user in USERS if arms[user] is not None]
    served.wait_until(lambda: len(place.exposures()) == 2 * len(part))
    found = {row["request_id"]: row for row in place.exposures()}
    for user in part:
        row = found[answers[user]["request_id"]]
        assert (row["unit"], row["arm"], row["propensity"], row["shadow"]) == (user, arms[user], 0.5, 0)
        assert (row["experiment"], row["version"]) == ("mixer", 1)
        assert row["bundle"] == answers[user]["model"]["version"]  # type: ignore[index]
        assert row["context"] == '{"country": "de"}'
        ranking = answers[user]["ranking"]
        assert shown(row) == [ITEMS[at] for at in ranking[:3]]  # type: ignore[index]
        shadow = found[f"{answers[user]['request_id']}/watch"]
        assert (shadow["unit"], shadow["arm"], shadow["shadow"], shadow["bundle"]) == (user, "watch", 1, new)
    served.wait_until(lambda: served.metrics()["unimixer_prediction_log_rows_total"] == len(USERS) + len(part))
    logged = [row["model_version"] for row in read_log(place.folder / "log")]
    assert logged.count(new) == len(part) + sum(arm == "new" for arm in arms.values())
    metrics = served.metrics()
    assert metrics['unimixer_experiment_requests_total{arm="",experiment="mixer",reason="traffic"}'] == 12 - len(part)
    assert metrics['unimixer_shadow_requests_total{result="scored"}'] == len(part)


def test_testers_and_users_without_an_id_are_served_and_not_exposed(running: tuple[Served, Place]) -> None:
    served, place = running
    before = len(place.exposures())
    assert ask(served, "tester")["experiment"] == {"name": "mixer", "version": 1, "arm": "new"}
    assert "experiment" not in ask(served, None)
    assert served.metrics()['unimixer_experiment_requests_total{arm="",experiment="mixer",reason="no id"}'] == 1
    assert ask(served, "u1").get("experiment")
    served.wait_until(lambda: len(place.exposures()) > before)
    units = {row["unit"] for row in place.exposures()}
    assert "tester" not in units
    assert "" not in units


def test_an_experiment_is_stopped_without_a_restart_and_stays_stopped(place: Place, bundles: tuple[Path, Path]) -> None:
    old = open_bundle(bundles[0]).version
    treated = next(user for user in USERS if assign(always(), user).arm == "new")
    with Served(bundles[0], place.features, *place.options) as served:
        client = served.client()
        assert client.rank(treated).json["experiment"]["arm"] == "new"
        assert served.admin("stop-experiment", {"experiment": "mixed"}).error.endswith("did you mean 'mixer'?")
        assert served.admin("stop-experiment", {"experiment": "mixer"}).json == {"experiment": "mixer", "stopped": True}
        answer = client.rank(treated).json
        assert (answer["model"]["version"], "experiment" in answer) == (old, False)
        assert served.admin("reload").status == 200
        assert client.rank(treated).json["model"]["version"] == old
        client.close()
        assert served.stop() == 0
    with Served(bundles[0], place.features, *place.options) as served:
        assert served.logged("experiment")[0]["stopped"] is True
        client = served.client()
        assert "experiment" not in client.rank(treated).json
        client.close()
        assert served.stop() == 0
    assert len(place.exposures()) == 1


def test_traffic_rises_on_a_reload_and_a_change_that_spoils_the_experiment_is_refused(
    place: Place, bundles: tuple[Path, Path]
) -> None:
    arms = {"old": {}, "new": {"bundle": str(bundles[1])}}
    written(place.folder, always(arms=arms, traffic=0))
    with Served(bundles[0], place.features, *place.options) as served:
        client = served.client()
        assert "experiment" not in client.rank("u3").json
        written(place.folder, always(arms=arms, version=2, traffic=1))
        assert served.admin("reload").status == 200
        assert client.rank("u3").json["experiment"]["version"] == 2
        written(place.folder, always(arms=arms, version=3, salt="other"))
        refused = served.admin("reload")
        assert refused.status == 422
        assert "salt changed while it runs, which would assign every unit anew" in refused.error
        assert client.rank("u3").json["experiment"]["version"] == 2
        client.close()


def test_an_experiment_without_a_database_or_with_bundles_that_do_not_fit_is_one_sentence(
    place: Place, bundles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", str(bundles[0]), "--store", str(place.features), "--port", "0"]
    for options, sentence in (
        (("--experiment", str(place.file)), "an experiment without a database of events has no exposures"),
        ((*place.options[:2], "--database", "events.db"), "events: 'events.db' is no database; use sqlite:///FILE"),
        (("--experiment", "none.yaml", *place.options[2:]), "none.yaml: no such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *options])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err
    written(place.folder, always(arms={"old": {"bundle": str(bundles[1])}, "new": {}}))
    with pytest.raises(SystemExit):
        main([*command, *place.options])
    assert "serve the bundle of the control" in capsys.readouterr().err
    assert rows(place.database, "specifications") == []


def test_a_database_that_is_killed_and_starts_again_has_every_answered_exposure_once(
    place: Place, bundles: tuple[Path, Path], database: Database
) -> None:
    options = (*place.options[:2], "--database", database.address(), "--flush", "0.1", "--timeout", "4")
    with Served(bundles[0], place.features, *options) as served:
        load = Load(served)
        load.wait_for(lambda: len(load.answers) > 50)
        database.stop()
        count = len(load.answers)
        load.wait_for(lambda: len(load.answers) > count + 50)
        client = served.client()
        event = {"event_id": "e1", "unit": "u3", "event": "click"}
        refused = client.ask("POST", "/v1/outcomes", {"events": [event]})
        assert refused.status == 503
        assert "the events cannot be used now" in refused.error
        database.start()
        for expected in ({"added": 1, "repeated": 0}, {"added": 0, "repeated": 1}):
            assert client.ask("POST", "/v1/outcomes", {"events": [event]}).json == expected
        client.close()
        count = len(load.answers)
        load.wait_for(lambda: len(load.answers) > count + 50)
        load.stop()
        assert served.stop() == 0
    answered = {request_id for status, _, request_id in load.answers if status == 200}
    found = database.ask("SELECT request_id FROM exposures")
    assert len(found) == len({request for (request,) in found})
    assert {request for (request,) in found} == answered
    assert database.ask("SELECT count(*) FROM outcomes") == [(1,)]


def test_the_server_and_python_read_one_database(place: Place, bundles: tuple[Path, Path]) -> None:
    with Served(bundles[0], place.features, *place.options) as served:
        events = Events(f"sqlite:///{place.database}", create=False)
        specification = events.specification("mixer")
        assert specification is not None
        assert specification.segments == ("tab",)
        assert events.delete_unit("nobody") == {"exposures": 0, "outcomes": 0, "covariates": 0}
        events.close()
        assert served.stop() == 0
