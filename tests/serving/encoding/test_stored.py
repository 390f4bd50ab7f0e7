"""Rows that are kept: of one state of the store, of a store that fits, and in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from eager import EagerBundle
from served import Served
from toy import DAY, START, toy_tables

from unimixer.serving.encoding import stored
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.encoding.row_cache import KEY_BYTES
from unimixer.serving.encoding.stored import USER_BYTES
from unimixer.serving.stores.base import ANY_EVENT, Event, FeatureStore, Kind, Rows, StoreUnavailableError
from unimixer.serving.stores.build import building, fill
from unimixer.serving.stores.sqlite import SQLiteStore

ITEMS = [f"i{n}" for n in range(30)]


def call(user: Any = "u3", items: Sequence[Any] = ITEMS, **context: Any) -> RankCall:
    time = {"time_ms": START + 9 * DAY, "tab": "home", "position": 3.0, "words": "red|blue"}
    return RankCall(user, items, {**time, **context})


def encoder_of(bundle: EagerBundle, store: FeatureStore, cached: int = 1_000) -> RequestEncoder:
    return RequestEncoder(bundle.transform, bundle.layout, store, cached=cached)


def priced(path: Path, price: float) -> Path:
    """The small world where all items have one price."""
    with building(str(path), overwrite=True) as store:
        fill(store, toy_tables())
        store.put_items("item_id", [{"item_id": item, "price": price} for item in ITEMS])
    return path


def without_prices(path: Path) -> Path:
    """A store of another data set: its items have no prices."""
    with building(str(path), overwrite=True) as store:
        store.put_users("user_id", [{"user_id": "u3", "age": 3, "interests": ["c1"]}])
        store.put_items("item_id", [{"item_id": "i1", "prize": 3.0, "category": "c1"}])
    return path


def of_another_format(path: Path) -> Path:
    priced(path, 1.0)
    with closing(SQLiteStore(path)) as store, store._writing() as connection:
        store._set(connection, "format", "0")
    return path


def test_a_store_that_does_not_fit_is_refused_until_one_that_does_is_back(
    bundles: tuple[Path, Path], features: Path, tmp_path: Path
) -> None:
    next_store, right = tmp_path / "next.sqlite", features.read_bytes()
    with Served(bundles[0], features) as served:
        before = served.rank()
        for make, said in (
            (without_prices, "users have no column 'past"),
            (of_another_format, "format 0, this version reads 1; build the store again"),
        ):
            for put in (shutil.move, shutil.copyfile):
                put(make(next_store), features)
                for _ in range(3):
                    answer = served.rank()
                    assert (answer.status, said in answer.error) == (503, True), answer.body
                features.write_bytes(right)
                answer = served.rank()
                assert (answer.status, answer.json["scores"]) == (200, before.json["scores"])


class Moving(SQLiteStore):
    """A store that another one replaces, or that changes, in the middle of requests."""

    steps: list[Any]

    def read(self, kind: Kind, keys: Sequence[str]) -> Rows:
        if self.steps:
            self.steps.pop(0)()
        return super().read(kind, keys)


def test_a_request_never_mixes_the_rows_of_two_stores(toy_bundle: EagerBundle, features: Path, tmp_path: Path) -> None:
    new = priced(tmp_path / "new.sqlite", 900.0)
    with closing(Moving(features)) as store, closing(SQLiteStore(priced(tmp_path / "same.sqlite", 900.0))) as same:
        store.steps = []
        encoder = encoder_of(toy_bundle, store)
        encoder.encode(call(items=ITEMS[:10]))  # ten items are kept when the store is replaced
        store.steps = [lambda: new.rename(features)]
        found = encoder.encode(call()).request
        expected = encoder_of(toy_bundle, same).encode(call()).request
    for part in ("user", "candidates"):
        for name, tensor in getattr(found, part).inputs().items():
            other = getattr(expected, part).inputs()[name]
            torch.testing.assert_close(tensor, other, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_request_sees_all_of_a_change_or_nothing(toy_bundle: EagerBundle, features: Path) -> None:
    with closing(Moving(features)) as store:
        store.steps = []
        encoder = encoder_of(toy_bundle, store)
        encoder.encode(call(items=ITEMS[:10]))
        rows = [{"item_id": item, "price": 77.0} for item in ITEMS]
        store.steps = [lambda: store.put_items("item_id", rows)]
        assert len(set(encoder.encode(call()).item_revisions.tolist())) == 1


def test_a_store_that_never_stands_still_is_answered_from_all_the_same(toy_bundle: EagerBundle, features: Path) -> None:
    with closing(Moving(features)) as store:
        store.steps = []
        encoder = encoder_of(toy_bundle, store)
        store.steps = [lambda: store.put_items("item_id", [{"item_id": "other", "price": 1.0}])] * 99
        assert encoder.encode(call()).unknown_items == 0


def test_a_row_that_is_damaged_is_named(toy_bundle: EagerBundle, features: Path) -> None:
    with closing(SQLiteStore(features)) as store:
        with store._writing() as connection:
            connection.execute("UPDATE items SET data = substr(data, 1, 9) WHERE key = 'i7'")
        encoder = encoder_of(toy_bundle, store)
        with pytest.raises(StoreUnavailableError, match="the row of item 'i7' is damaged; write it again, or build"):
            encoder.encode(call())


def test_long_keys_and_many_users_take_no_more_memory_than_was_said(toy_bundle: EagerBundle, features: Path) -> None:
    with closing(SQLiteStore(features)) as store:
        encoder = encoder_of(toy_bundle, store, cached=300)
        for number in range(20):
            items = [f"{number}-{n}-" + "é" * 900 for n in range(200)]
            encoder.encode(call("u" * 900 + str(number), items, tab="t" * 50_000 + str(number)))
            running = sum(map(sys.getsizeof, items))
            assert encoder.stored.num_bytes["items"] <= max(300 * KEY_BYTES, running)
        for number in range(500):
            encoder.encode(call(str(number) + "ü" * 900, ITEMS[:1]))
        assert encoder.stored.num_bytes["users"] <= 300 * USER_BYTES
        assert 50 < encoder.cache_sizes["users"] <= 300
        assert encoder.context.cached_bytes <= 10_000 * 2_048
        assert encoder.encode(call()).unknown_items == 0


def test_items_that_the_store_does_not_know_are_kept_in_a_bounded_number_and_drive_no_others_out(
    toy_bundle: EagerBundle, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST_UNKNOWN", 40)
    with closing(SQLiteStore(features)) as store:
        encoder = encoder_of(toy_bundle, store, cached=300)
        expected = encoder.encode(call("u3", ITEMS)).request
        for number in range(20):
            strangers = [f"stranger-{n}" for n in range(25 * number, 25 * number + 30)]  # five of the last ones again
            found = encoder.encode(call("u3", [*strangers, *ITEMS]))
            assert found.unknown_items == 30
            assert torch.equal(found.request.candidates.sparse_ids[30:], expected.candidates.sparse_ids)
            assert encoder.cache_sizes["items"] <= 70 + 60  # and the items of the histories
        store.put_items("item_id", [{"item_id": "stranger-499", "price": 3}])
        assert encoder.encode(call("u3", ["stranger-499", "stranger-498"])).unknown_items == 1
        assert {"i1"} <= set(encoder.stored._item_rows._slots)


_HOSTILE = """
import json, sys
from pathlib import Path
from eager import EagerBundle
from unimixer.serving.encoding.parse_request import CallReader
from unimixer.serving.encoding.request import RequestEncoder
from unimixer.serving.encoding.feature_hashes import field_hashes
from unimixer.serving.stores.sqlite import SQLiteStore

def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024

bundle = EagerBundle(Path(sys.argv[1]))
encoder = RequestEncoder(bundle.transform, bundle.layout, SQLiteStore(Path(sys.argv[2])), cached=10_000)
reader = CallReader(encoder, bundle.tasks, max_candidates=2_000)
context = {"tab": "home", "position": 3.0, "words": "a"}

def ask(number):
    keys = [f"{number}.{n}" + "k" * 900 for n in range(300 + number)]
    words = "|".join(f"{number}w{n}" for n in range(9_000))
    body = {"user": f"{number}" + "u" * 900, "items": keys, "context": {**context, "words": words, "tab": words}}
    found = encoder.encode(reader.read(json.loads(json.dumps(body)), now=10**12)[0])
    field_hashes(found.request, bundle.transform)
    return len(json.dumps(body))

for number in range(160):
    ask(number)
before, sent = resident(), 0
for number in range(160, 300):
    sent += ask(number)
print(json.dumps({"sent_mb": sent / 2**20, "grown_mb": resident() - before}))
"""


def test_large_requests_leave_the_process_as_large_as_it_was(toy_run: Any, features: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", _HOSTILE, str(toy_run.folder), str(features)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = json.loads(said)
    assert found["sent_mb"] > 80  # after the caches are full
    assert found["grown_mb"] < 20


def test_a_store_says_whether_it_has_data(store: FeatureStore) -> None:
    assert not store.has_data()
    store.append([Event("u", "i", 5, ANY_EVENT)])
    assert store.has_data()


def test_a_store_with_items_alone_has_data(store: FeatureStore) -> None:
    store.put_items("item_id", [{"item_id": "a"}])
    assert store.has_data()
