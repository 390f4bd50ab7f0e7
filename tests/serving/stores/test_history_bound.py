"""Events that are added without end: the store, its file and its requests stay as small as they are."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

from served import CONTEXT, Client, Served
from toy import DAY, START, toy_schema

from unimixer.serving.stores.base import longest_histories
from unimixer.serving.stores.sqlite import SQLiteStore

NOW = START + 20 * DAY
ITEMS = [f"i{n}" for n in range(30)]


def click(number: int) -> dict[str, object]:
    return {"user_id": "u3", "item_id": f"i{number % 30}", "time_ms": START + 15 * DAY + number, "is_click": 1}


def scores(client: Client) -> list[float]:
    found: list[float] = client.rank("u3", ITEMS, context={**CONTEXT, "time_ms": NOW}).json["scores"]["is_click"]
    return found


def median_ms(client: Client) -> float:
    times = []
    for _ in range(40):
        started = time.perf_counter()
        scores(client)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def test_ten_thousand_events_of_a_user(bundles: tuple[Path, Path], features: Path, tmp_path: Path) -> None:
    few = Path(shutil.copy(features, tmp_path / "few.sqlite"))
    with Served(bundles[0], few) as served:
        assert served.admin("events", {"events": [click(n) for n in range(9_000, 10_000)]}).status == 200
        client = served.client()
        expected = scores(client)
        client.close()
    store = SQLiteStore(features)
    before = store.counts()["events"]
    with Served(bundles[0], features, "--keep-events", "100") as served:
        client = served.client()
        first = median_ms(client)
        for start in range(0, 10_000, 1_000):
            events = [click(n) for n in range(start, start + 1_000)]
            assert served.admin("events", {"events": events}).json == {"events": 1_000}
        assert scores(client) == expected
        last = median_ms(client)
        client.close()
    longest = longest_histories(toy_schema())["is_click"]
    assert before - 20 < store.counts()["events"] <= before + longest + 100
    # the file grows by the largest addition, and its places are used again
    files = [Path(f"{features}{end}") for end in ("", "-wal")]
    assert sum(path.stat().st_size for path in files if path.exists()) < 5_000_000
    assert store.path.stat().st_size < few.stat().st_size + 200_000
    store.close()
    assert last < 2 * first + 5, (first, last)


def test_a_store_of_before_learns_the_longest_history_from_its_bundle(
    bundles: tuple[Path, Path], features: Path
) -> None:
    store = SQLiteStore(features)
    with store._writing() as connection:
        store._set(connection, "longest histories", "{}")
    with Served(bundles[0], features):
        pass
    with store._reading() as (connection, *_):
        assert store._longest(connection) == {"is_click": 5}
    store.close()
