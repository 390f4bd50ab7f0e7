"""A store in Redis: passwords that nobody sees, what is emptied or foreign, one state a request."""

from __future__ import annotations

import json
import threading
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import toy_frames, toy_tables

from unimixer.cli import main
from unimixer.errors import UnimixerError
from unimixer.serving.stores import open_store
from unimixer.serving.stores import redis as redis_store
from unimixer.serving.stores.base import ANY_EVENT, Event, FeatureStore, StoreUnavailableError, redacted
from unimixer.serving.stores.build import fill
from unimixer.serving.stores.redis import RedisStore
from unimixer.training.run import RunFolder

SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("features.sqlite", "features.sqlite"),
        (f"redis://:{SECRET}@db:6379/0", "redis://db:6379/0"),
        (f"redis://user:a@{SECRET}/{SECRET}@db:6379/0?prefix=a", "redis://db:6379/0"),
        (f"redis://db:6379/0?password={SECRET}", "redis://db:6379/0"),
        (f"redis://db:6379/0?password=a@{SECRET}", "redis://..."),
        (f"redis://:{SECRET}?{SECRET}@db:6379/0", "redis://..."),
        (f"unix://user:{SECRET}@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_an_address_is_shown_without_its_password(place: str, expected: str) -> None:
    assert redacted(place) == expected


@pytest.mark.parametrize(
    "address",
    [
        f"redis://:{SECRET}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={SECRET}",
        f"redis://127.0.0.1:1/0?password={SECRET}&prefix=a",
        f"redis://:{SECRET}/x@127.0.0.1:1/0",
        f"redis://:{SECRET}#x@127.0.0.1:1/0",
        f"redis://:x?{SECRET}@127.0.0.1:1/0",
        f"redis://{SECRET}?x@127.0.0.1:1/0",
        f"redis://:{SECRET}@127.0.0.1:port/0",
        f"redis://127.0.0.1:1/0?socket_timeout={SECRET}",
        f"redis://127.0.0.1:1/0?{SECRET}=1",
        f"redis://[:{SECRET}@127.0.0.1:1/0",
        f"REDIS://:{SECRET}@127.0.0.1:1/0",
        f"mysql://root:{SECRET}@127.0.0.1/db",
    ],
)
def test_no_error_tells_a_password(address: str) -> None:
    with pytest.raises(UnimixerError) as caught:
        open_store(address).has_data()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


def test_no_command_prints_a_password(
    toy_run: RunFolder, redis_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, users, items = toy_frames()
    for name, frame in (("impressions", log), ("users", users), ("items", items)):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    schema = toy_run.transform.schema.model_dump(mode="json", exclude_none=True)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(schema))
    with closing(RedisStore(redis_address)) as plain:  # a user whose password is asked for
        plain.client.execute_command("ACL", "SETUSER", "keeper", "on", f">{SECRET}", "~*", "+@all")
    address = f"{redis_address.replace('//', f'//keeper:{SECRET}@')}?prefix={tmp_path.name}"
    wrong, down = address.replace(SECRET, f"{SECRET}-wrong"), f"redis://:{SECRET}@127.0.0.1:1/0"
    build = ["store", "build", str(toy_run.folder), "--source", str(tmp_path / "toy.yaml"), "--raw", str(tmp_path)]
    code, said = _run([*build, "--out", address, "--json"], capsys)
    result, _ = json.JSONDecoder().raw_decode(said, said.index("{"))
    assert (code, result["store"]) == (0, redis_address)
    assert SECRET not in said
    serve = ["serve", str(toy_run.folder), "--port", "0", "--store"]
    replay = ["replay", str(tmp_path / "log"), "--run", str(toy_run.folder), "--store"]
    for place in (address, wrong, down):
        for command in ([*build, "--out"], [*build, "--json", "--out"], ["store", "show"], serve, replay):
            if command is not serve or place is not address:
                code, said = _run([*command, place], capsys)
                assert (code, SECRET in said) == (0 if (command, place) == (["store", "show"], address) else 2, False)
    code, said = _run(["store", "show", "one", address], capsys)
    assert (code, SECRET in said, "unexpected extra argument" in said) == (2, False, True)


@pytest.fixture
def place(redis_address: str, tmp_path: Path) -> str:
    return f"{redis_address}?prefix={tmp_path.name}"


def test_a_store_that_was_emptied_or_is_of_another_format_is_no_empty_one(place: str) -> None:
    redis_store.create(place)
    with closing(RedisStore(place)) as store:
        fill(store, toy_tables())
        meta = store._at("meta")
        store.client.hset(meta, "format", "0")
        uses: list[Any] = [
            lambda: store.view("u3", {ANY_EVENT: 3}, 10),
            lambda: store.items(["i1"]),
            store.counts,
            store.has_data,
            lambda: store.put_items("item_id", [{"item_id": "i1"}]),
            lambda: store.append([Event("u", "i", 5, ANY_EVENT)]),
        ]
        for use in uses:
            with pytest.raises(StoreUnavailableError, match="format 0, this version reads 1; build the store again"):
                use()
        with pytest.raises(StoreUnavailableError, match="format 0"):
            RedisStore(place)
        keys = store.client.keys(f"{store.prefix}*")
        store.client.delete(*keys)
        for use in uses:
            with pytest.raises(
                StoreUnavailableError, match="no such feature store; make one with: unimixer store buil"
            ):
                use()
        assert store.client.keys(f"{store.prefix}*") == []  # nothing was begun by reading or writing
        store.client.hset(meta, mapping={"format": "1", "generation": "g"})
        store.client.hset(store._at("users", "u3"), "age", "3")
        with pytest.raises(StoreUnavailableError, match="it holds unexpected values"):
            store.view("u3", {}, 10)


def test_a_store_that_is_being_filled_is_none_yet(place: str) -> None:
    """A database that was emptied and is filled again shows a running server no half of its rows."""
    redis_store.create(place)
    with closing(RedisStore(place)) as server, closing(RedisStore(place)) as build:
        before = server.view(None, {}, 0).generation
        with build.filling(overwrite=False):
            build.put_users("user_id", [{"user_id": "u3", "age": 1}])
            build.append([Event("u3", "i1", 5, ANY_EVENT)])
            assert build.counts() == {"users": 1, "items": 0, "events": 1}
            for use in (
                lambda: server.view("u3", {ANY_EVENT: 1}, 10),
                lambda: server.append([Event("u3", "i2", 6, ANY_EVENT)]),
            ):
                with pytest.raises(StoreUnavailableError, match="no such feature store"):
                    use()
        view = server.view("u3", {ANY_EVENT: 1}, 10)
        assert (view.generation not in ("", before), view.events) == (True, {ANY_EVENT: ["i1"]})
        with (
            pytest.raises(UnimixerError, match="holds a feature store, which Redis cannot replace"),
            build.filling(overwrite=True),
        ):
            pass
        assert server.view(None, {}, 0).generation == view.generation


def test_a_write_that_finds_no_store_any_more_is_not_done(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis loses its data between the look at the store and the write: one row would look like a store."""
    with closing(RedisStore(place)) as store:
        now = store._now

        def then_empty() -> list[str]:
            found = now()
            store.client.delete(*store.client.keys(f"{store.prefix}:*"))
            return found

        monkeypatch.setattr(store, "_now", then_empty)
        for write in (
            lambda: store.put_items("item_id", [{"item_id": "i1"}]),
            lambda: store.append([Event("u", "i", 5, ANY_EVENT)]),
        ):
            redis_store.create(place)
            with pytest.raises(StoreUnavailableError, match="its data were deleted or replaced"):
                write()
            assert store.client.keys(f"{store.prefix}:*") == []


def test_a_view_is_of_one_moment(place: str) -> None:
    redis_store.create(place)
    writer, reader = RedisStore(place), RedisStore(place)
    script = writer.client.register_script(
        "redis.call('HSET', KEYS[1], '', ARGV[1], 'age', ARGV[1]); redis.call('SET', KEYS[2], ARGV[1]); "
        "redis.call('DEL', KEYS[3]); redis.call('ZADD', KEYS[3], 5, '0:i' .. ARGV[1])"
    )
    keys = [writer._at("users", "u3"), writer._at("clock"), writer._at("events", "mark", "u3")]
    script(keys=keys, args=[0])
    stop = threading.Event()

    def write() -> None:
        for number in range(1, 4_000):
            script(keys=keys, args=[number])
        stop.set()

    thread, torn, looked = threading.Thread(target=write), [], 0
    thread.start()
    while not stop.is_set():
        view = reader.view("u3", {"mark": 1}, 10_000)
        assert view.user is not None
        seen = {view.clock, view.user.revision, view.user.values["age"], int(view.events["mark"][0][1:])}
        torn += [seen] if len(seen) > 1 else []
        looked += 1
    thread.join()
    assert (torn, looked > 20) == ([], True)
    reader.close()
    writer.close()


def test_a_write_whose_answer_is_lost_is_not_made_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    redis_store.create(place)
    with closing(RedisStore(place)) as store:
        assert store.client.connection_pool.make_connection().retry.get_retries() == 0
        store.append([Event("u", "i", 5, ANY_EVENT)])
        assert store.counts()["events"] == 1


def test_addresses_with_a_prefix_and_options_are_one_store(redis_address: str, tmp_path: Path) -> None:
    first = RedisStore(f"{redis_address}?prefix={tmp_path.name}")
    second = RedisStore(f"{redis_address}?socket_keepalive=1&prefix={tmp_path.name}")
    assert (first.prefix, second.prefix, RedisStore(redis_address).prefix) == (tmp_path.name, tmp_path.name, "unimixer")
    stores: list[FeatureStore] = [first, second]
    for store in stores:
        store.close()
