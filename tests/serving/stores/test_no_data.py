"""A server whose store has no data does not answer as if everybody were unknown, and recovers by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from served import Served
from toy import toy_tables

from unimixer.serving.stores import open_store
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.base import StoreUnavailableError
from unimixer.serving.stores.build import fill

ROUTES = ("/health/ready", "/v2/health/ready", "/v2/models/ranker/ready")


def refused(served: Served, sentence: str) -> None:
    """Nothing is scored, and every route that tells whether the server is ready tells why not."""
    answer = served.rank()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.error.endswith(sentence)
    for route in ROUTES:
        ready = served.get(route)
        assert ready.status == 503
        assert ready.error == answer.error
    assert served.get("/health/live").status == 200


def answered(served: Served) -> object:
    for route in ROUTES:
        assert served.get(route).status == 200
    answer = served.rank()
    assert answer.status == 200
    assert answer.json["unknown"] == {"user": False, "items": 0}
    return answer.json["scores"]


def filled(address: str) -> None:
    store = open_store(address)
    with store.filling(overwrite=False):
        fill(store, toy_tables())
    store.close()


def test_a_redis_that_comes_back_empty_is_no_data_until_it_is_filled(
    bundles: tuple[Path, Path], redis_address: str, tmp_path: Path
) -> None:
    address = f"{redis_address.removesuffix('/0')}/7?prefix={tmp_path.name}"
    filled(address)
    with Served(bundles[0], address) as served, redis.Redis.from_url(address.partition("?")[0]) as client:
        before = answered(served)
        client.flushdb()
        refused(served, "no such feature store; make one with: unimixer store build")
        body = {"rows": [{"item_id": "i1", "price": 3}]}
        assert served.admin("items", body).status == 503  # one row would look like a store
        event = {"user_id": "u1", "item_id": "i1", "is_click": 1}
        assert served.admin("events", {"events": [event]}).status == 503
        assert client.dbsize() == 0
        filled(address)
        assert answered(served) == before


def test_a_start_on_an_empty_store_is_not_ready_until_rows_come(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    sqlite_store.create(tmp_path / "empty.sqlite")
    served = Served(bundles[0], tmp_path / "empty.sqlite")
    try:
        sentence = "holds no users and no items; fill it: unimixer store build"
        assert served.wait_for("not ready")["reason"].endswith(sentence)
        refused(served, sentence)
        store = open_store(str(tmp_path / "empty.sqlite"))
        with store.filling(overwrite=True):
            fill(store, toy_tables())
        store.close()
        answered(served)
    finally:
        assert served.stop() == 0
        served.__exit__()


def test_a_redis_that_is_not_filled_to_the_end_is_not_answered_from(redis_address: str, tmp_path: Path) -> None:
    address = f"{redis_address}?prefix=part-{tmp_path.name}"
    store, other = open_store(address), open_store(address)

    def unanswered() -> None:
        with pytest.raises(StoreUnavailableError, match="no such feature store"):
            other.view(None, {}, 0)

    def break_off() -> None:
        with store.filling(overwrite=False):
            store.put_items("item_id", [{"item_id": "i1"}])
            unanswered()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    unanswered()
    store.close()
    other.close()
