"""The feature store: rows, events, changes; the same in SQLite and in Redis."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ports import free_port
from toy import DAY, START, toy_frames

from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.serving.stores import open_store
from unimixer.serving.stores import redis as redis_store
from unimixer.serving.stores.base import ANY_EVENT, IDS_KEPT_S, Event, FeatureStore, StoreUnavailableError
from unimixer.serving.stores.sqlite import SQLiteStore, create
from unimixer.training.run import RunFolder

NOW = START + 9 * DAY


def test_rows_come_back_as_they_were_written(store: FeatureStore) -> None:
    row = {"item_id": "a:b é", "price": 0.1 + 0.2, "tags": ["x", "y"], "none": None, "on": True, "count": 2**60}
    revision = store.put_items("item_id", [row])
    assert store.items(["a:b é", "other"]).keys() == {"a:b é"}
    record = store.items(["a:b é"])["a:b é"]
    assert record.revision == revision
    assert {k: v for k, v in record.values.items() if v is not None} == {k: v for k, v in row.items() if v is not None}
    assert store.users("a:b é") is None
    assert store.counts() == {"users": 0, "items": 1, "events": 0}


def test_an_update_changes_the_columns_that_it_brings(store: FeatureStore) -> None:
    store.put_users("user_id", [{"user_id": 3, "age": 20, "city": "x"}, {"user_id": 4, "age": 30}])
    second = store.put_users("user_id", [{"user_id": "3.0", "age": 21}])
    third = store.put_users("user_id", [{"user_id": 3, "city": None}])
    found = store.users("3")
    assert found is not None
    assert (found.values["age"], found.values.get("city"), found.revision) == (21, None, third)
    assert store.changed("users", second) == ["3"]
    assert store.changed("users", third) == []
    assert sorted(store.changed("users", 0)) == ["3", "4"]
    assert store.changed("items", 0) == []
    assert store.view(None, {}, 0).clock == third
    assert store.counts()["users"] == 2


def test_events_are_the_last_before_the_time_oldest_first(store: FeatureStore) -> None:
    times = [5, 7, 7, 7, 9]
    store.append_events([Event("u", f"i{n}", time, ANY_EVENT) for n, time in enumerate(times)])
    store.append_events(
        [Event("u", "late", 6, ANY_EVENT), Event("u", "like", 6, "is_like"), Event("v", "x", 1, ANY_EVENT)]
    )

    def items(before: int, limit: int = 10) -> list[str]:
        return store.view("u", {ANY_EVENT: limit, "is_like": limit}, before).events[ANY_EVENT]

    assert items(100) == ["i0", "late", "i1", "i2", "i3", "i4"]
    assert items(100, 3) == ["i2", "i3", "i4"]
    assert items(9) == ["i0", "late", "i1", "i2", "i3"]  # strictly earlier
    assert items(7) == ["i0", "late"]
    assert items(5) == []
    assert store.view("u", {"is_like": 3}, 2**63 - 1).events == {"is_like": ["like"]}
    assert store.view(None, {ANY_EVENT: 3}, 100).events == {ANY_EVENT: []}
    assert store.counts()["events"] == 8


def test_the_events_of_a_user_are_bounded_and_the_last_ones_are_right(store: FeatureStore) -> None:
    store.margin = 20
    store.expect({"is_click": 30, ANY_EVENT: 5})
    store.expect({"is_click": 10})  # a bundle with shorter histories changes nothing
    order = np.random.default_rng(0).permutation(10_000)  # they come as they come, not by their time
    for start in range(0, 10_000, 500):
        several = [Event("u", f"i{n}", 1_000 + int(n), "is_click") for n in order[start : start + 500]]
        store.append_events([*several, Event("v", f"i{start}", start, ANY_EVENT), Event("u", "x", start, "is_like")])
    found = store.view("u", {"is_click": 30, "is_like": 100}, 2**53).events
    assert found["is_click"] == [f"i{n}" for n in range(9_970, 10_000)]
    assert len(found["is_like"]) == 20  # nobody said how long these are asked for
    assert store.view("v", {ANY_EVENT: 5}, 2**53).events[ANY_EVENT] == [f"i{n}" for n in range(7_500, 10_000, 500)]
    assert store.counts()["events"] == 50 + 20 + 20
    # a request of the past sees what it saw, until more events than the margin came after it
    assert store.view("u", {"is_click": 30}, 1_000 + 9_980).events["is_click"] == [f"i{n}" for n in range(9_950, 9_980)]
    store.append_events([Event("u", "old", 5, "is_click")])  # older than all that is kept
    assert store.counts()["events"] == 50 + 20 + 20
    store.append_events([Event("u", "new", 2**40, "is_click")])
    assert store.view("u", {"is_click": 2}, 2**53).events["is_click"] == ["i9999", "new"]


def test_events_of_one_time_are_trimmed_in_their_order(store: FeatureStore) -> None:
    store.margin = 2
    store.expect({ANY_EVENT: 3})
    store.append_events([Event("u", f"i{n}", 7, ANY_EVENT) for n in range(2_500)])
    assert store.view("u", {ANY_EVENT: 10}, 8).events[ANY_EVENT] == [f"i{n}" for n in range(2_495, 2_500)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item_id": "a", "price": "dear"}], r"items, row 2: price='dear' does not fit the column, .* type number"),
        ([{"item_id": "a", "tags": "x"}], r"items, row 2: tags='x' is not a list, but the column holds lists"),
        ([{"item_id": "a", "price": [1]}], r"items, row 2: price is a list, but the column holds single values"),
        ([{"price": 3.0}], r"items, row 2: item_id is missing; every row needs its key"),
        ([{"item_id": "b"}, {"item_id": " b"}], r"items, row 3: item_id='b' occurs twice; send every row once"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(
    rows: list[dict[str, object]], message: str, store: FeatureStore
) -> None:
    store.put_items("item_id", [{"item_id": "a", "price": 1.5, "tags": ["x"]}])
    with pytest.raises(UnimixerError, match=message):
        store.put_items("item_id", [{"item_id": "good", "price": 2.0}, *rows])
    assert store.counts()["items"] == 1


def test_readers_see_all_of_a_write_or_nothing(store: FeatureStore) -> None:
    keys = [f"k{n}" for n in range(50)]
    store.put_items("item_id", [{"item_id": key, "n": 0} for key in keys])
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            clock = store.view(None, {}, 0).clock
            changed = store.changed("items", clock - 1)
            seen.add(len(changed))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        store.put_items("item_id", [{"item_id": key, "n": number} for key in keys])
    stop.set()
    reader.join()
    assert seen == {50}


def test_a_store_that_is_built_anew_is_another_generation(features: Path) -> None:
    store = SQLiteStore(features)
    before = store.view("u3", {ANY_EVENT: 5}, NOW)
    with pytest.raises(UnimixerError, match="exists; choose another file, or pass --overwrite to replace it"):
        _fill(store, overwrite=False)
    with pytest.raises(ZeroDivisionError), store.filling(overwrite=True):
        raise ZeroDivisionError
    assert store.view("u3", {ANY_EVENT: 5}, NOW) == before  # nothing half-written
    _fill(store, overwrite=True)
    after = store.view("u3", {ANY_EVENT: 5}, NOW)
    assert after.generation != before.generation
    assert store.counts() == {"users": 0, "items": 1, "events": 0}
    store.close()


def _fill(store: FeatureStore, *, overwrite: bool) -> None:
    with store.filling(overwrite=overwrite):
        store.put_items("item_id", [{"item_id": "only"}])


def test_what_is_no_store_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="no such feature store; make one with: unimixer store build"):
        open_store(str(tmp_path / "none.sqlite"))
    (tmp_path / "text.sqlite").write_text("no database at all, and longer than a header would be" * 20)
    with pytest.raises(UnimixerError, match=r"text\.sqlite: the feature store cannot be used now"):
        open_store(str(tmp_path / "text.sqlite"))
    create(tmp_path / "old.sqlite")
    store = SQLiteStore(tmp_path / "old.sqlite")
    with store._writing() as connection:
        store._set(connection, "format", "0")
    store.close()
    with pytest.raises(UnimixerError, match="format 0, this version reads 1; build the store again"):
        open_store(str(tmp_path / "old.sqlite"))
    with pytest.raises(StoreUnavailableError, match=r"redis://127\.0\.0\.1:1/0: the feature store cannot be used"):
        open_store("redis://user:secret@127.0.0.1:1/0")


def test_the_command_builds_what_the_run_was_trained_on(
    toy_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, users, items = toy_frames()
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, frame in (("impressions", log), ("users", users), ("items", items)):
        frame.write_parquet(raw / f"{name}.parquet")
    schema = toy_run.transform.schema.model_dump(mode="json", exclude_none=True)
    (tmp_path / "toy.yaml").write_text(__import__("yaml").safe_dump(schema))
    out = tmp_path / "features.sqlite"
    command = ["store", "build", str(toy_run.folder), "--source", str(tmp_path / "toy.yaml"), "--raw", str(raw)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(out)])
    assert ended.value.code == 0
    clicks = log.filter(pl.col("is_click") == 1).height
    assert f"12 users, 30 items, {clicks} events" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.sqlite", "raw", "toy.yaml"]
    store = open_store(str(out))
    row = users.row(7, named=True)
    record = store.users("u7")
    assert record is not None
    assert {name: record.values.get(name) for name in row} == row
    store.close()
    with pytest.raises(SystemExit):
        main([*command, "--out", str(out)])
    assert "exists; choose another file, or pass --overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(out), "--overwrite"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main(["store", "show", str(out), "--item", "i3"])
    assert '"category": "c3"' in capsys.readouterr().out


def test_events_of_a_known_id_are_left_out_for_a_day(store: FeatureStore) -> None:
    one = [
        Event("u", "a", 5, ANY_EVENT, "first"),
        Event("u", "a", 5, "is_like", "first"),
        Event("u", "b", 6, ANY_EVENT),
    ]
    assert store.append_events(one) == 3
    assert store.append_events(one) == 1
    assert store.append_events([Event("v", "c", 7, ANY_EVENT, "second")]) == 1
    assert store.view("u", {ANY_EVENT: 10, "is_like": 10}, 9).events == {ANY_EVENT: ["a", "b", "b"], "is_like": ["a"]}
    assert store.counts()["events"] == 5


def test_an_id_covers_all_events_of_its_call_however_many(store: FeatureStore) -> None:
    many = [Event("u", f"i{n}", n, ANY_EVENT, "one") for n in range(2_500)]
    assert store.append_events(many) == 2_500
    assert store.append_events(many) == 0
    assert store.counts()["events"] == 2_500


def test_ids_are_forgotten_after_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "new.sqlite")
    store, now = open_store(str(tmp_path / "new.sqlite")), time.time()
    event = Event("u", "a", 5, ANY_EVENT, "first")
    for later, added in ((0, 1), (IDS_KEPT_S - 5, 0), (IDS_KEPT_S + 5, 1)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert store.append_events([event]) == added
    with store.filling(overwrite=True):
        pass
    assert store.append_events([event]) == 1  # the events of a store that is filled anew went with it
    store.close()


def test_a_write_that_redis_did_not_take_in_time_is_not_done_later(tmp_path: Path) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                redis_store.create(f"redis://127.0.0.1:{port}/0")
                break
            except StoreUnavailableError:
                time.sleep(0.05)
        store = open_store(f"redis://127.0.0.1:{port}/0")
        store.put_items("item_id", [{"item_id": "i1", "price": 1}])
        now = store._now  # type: ignore[attr-defined]

        def then_stop() -> list[str]:
            found: list[str] = now()
            redis.send_signal(signal.SIGSTOP)
            return found

        store._now = then_stop  # type: ignore[attr-defined]
        for write in (
            lambda: store.append_events([Event("u", "a", 5, ANY_EVENT)]),
            lambda: store.put_items("item_id", [{"item_id": "i2", "price": 2}]),
        ):
            with pytest.raises(StoreUnavailableError, match="the write may or may not have happened: send it again"):
                write()
            redis.send_signal(signal.SIGCONT)
            time.sleep(0.3)
            assert store.counts() == {"users": 0, "items": 1, "events": 0}
        store._now = now  # type: ignore[attr-defined]
        assert store.append_events([Event("u", "a", 5, ANY_EVENT)]) == 1
        store.close()
    finally:
        redis.send_signal(signal.SIGCONT)
        redis.terminate()
        redis.wait(10)
