"""A small world for tests: a dozen users, some dozen items, impressions whose clicks can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from unimixer.data.count_settings import Count
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Feature, Schema
from unimixer.settings import parse

ZONE = "Asia/Shanghai"
START = int(datetime(2022, 5, 1, tzinfo=ZoneInfo(ZONE)).timestamp() * 1000)
DAY = 86_400_000
DAYS = 10
NUM_USERS, NUM_ITEMS = 12, 30
"""``u0`` is seen in the test part only; ``i0`` never before the validation part."""

SCHEMA: dict[str, Any] = {
    "name": "toy",
    "keys": {"user": "user_id", "item": "item_id", "time": "time_ms", "time_format": "ms", "timezone": ZONE},
    "labels": [{"name": "is_click"}, {"name": "long_view", "source": "watch_s", "threshold": 10}],
    "split": {"by": "date", "validation": "2022-05-07", "test": "2022-05-09"},
    "histories": [{"name": "clicks", "event": "is_click", "snapshot": "past_items", "max_length": 5}],
    "features": [
        {"name": "user_id", "kind": "categorical", "domain": "user"},
        {"name": "age", "kind": "numeric", "domain": "user", "transform": "standardise"},
        {"name": "interests", "kind": "sequence", "domain": "user", "table": "category", "max_length": 2},
        {"name": "item_id", "kind": "categorical", "domain": "item"},
        {"name": "category", "kind": "categorical", "domain": "item"},
        {"name": "price", "kind": "numeric", "domain": "item", "transform": "log_standardise"},
        {"name": "picture", "kind": "embedding", "domain": "item", "width": 4},
        {"name": "clicked_items", "kind": "sequence", "domain": "behaviour", "history": "clicks", "source": "item_id",
         "table": "item_id"},
        {"name": "clicked_categories", "kind": "sequence", "domain": "behaviour", "history": "clicks",
         "source": "category", "table": "category"},
        {"name": "hour", "kind": "categorical", "domain": "context", "transform": "hour"},
        {"name": "tab", "kind": "categorical", "domain": "context"},
        {"name": "position", "kind": "numeric", "domain": "context", "transform": "bucketise", "num_buckets": 4},
        {"name": "words", "kind": "sequence", "domain": "context", "separator": "|", "max_length": 3},
    ],
}  # fmt: skip


def toy_schema(**changes: Any) -> Schema:
    """The schema with some of its top keys changed."""
    return parse(Schema, {**SCHEMA, **changes}, where="toy.yaml")


@dataclass(frozen=True)
class FrameLog:
    """A pass over a log in memory, in a form that worker processes can be handed."""

    log: pl.DataFrame
    chunk_rows: int

    def __call__(self) -> Iterator[Chunk]:
        for start in range(0, self.log.height, self.chunk_rows):
            yield Chunk(self.log.slice(start, self.chunk_rows), "log.csv", start + 1)


def tables_of(
    schema: Schema,
    log: pl.DataFrame,
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    *,
    chunk_rows: int = 1_000_000,
) -> RawTables:
    """Raw tables from frames; the log comes in chunks of ``chunk_rows`` rows."""

    return RawTables(
        schema=schema,
        impressions=FrameLog(log, chunk_rows),
        users=None if users is None else Chunk(users, "users.csv"),
        items=None if items is None else Chunk(items, "items.csv"),
        num_rows=log.height,
    )


def toy_tables(rows: int = 2_000, *, seed: int = 0, chunk_rows: int = 1_000_000, **schema: Any) -> RawTables:
    """Raw tables of the small world; keywords change the schema."""
    frames = toy_frames(rows, seed=seed)
    return tables_of(toy_schema(**schema), *frames, chunk_rows=chunk_rows)


QUANTILES = {"by": "quantile", "validation": 0.8, "test": 0.9}


def day_tables(*days: int, rows: int = 2_000, **schema: Any) -> RawTables:
    """The rows of some days of the small world, which are no whole log for a split by date; day 0 is 2022-05-01."""
    log, users, items = toy_frames(rows)
    number = (log["time_ms"].to_numpy() - START) // DAY
    chosen = log.filter(pl.Series(np.isin(number, days)))
    return tables_of(toy_schema(**{"split": QUANTILES, **schema}), chosen, users, items)


def toy_frames(rows: int = 2_000, *, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Impressions, users and items."""
    rng = np.random.default_rng(seed)
    users, items = _users(rng), _items(rng)
    # every fourth impression stands at the time of the one before it: a page shows several items
    times = START + np.sort(rng.integers(0, DAYS * DAY, rows))
    times[3::4] = times[2::4][: len(times[3::4])]
    day = (times - START) // DAY
    user = rng.integers(np.where(day < 8, 1, 0), NUM_USERS)
    item = rng.integers(np.where(day < 6, 1, 0), NUM_ITEMS)
    taste = rng.normal(size=(NUM_USERS, 5))
    logit = 1.5 * taste[user, item % 5] - 0.3 * rng.integers(0, 3, rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-logit))
    log = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "item_id": [f"i{i}" for i in item],
            "time_ms": times,
            "tab": np.where(day < 6, rng.choice(["home", "feed", ""], rows), rng.choice(["home", "late"], rows)),
            "position": pl.Series(rng.integers(0, 20, rows)).cast(pl.Float64).to_numpy(),
            "words": rng.choice(["red|blue", "blue", "", "red|red|green|blue", "old|new"], rows),
            "is_click": click.astype(np.int64),
            "watch_s": np.where(click, rng.exponential(12, rows), rng.exponential(3, rows)).round(3),
        }
    )
    return (
        log.with_columns(pl.when(pl.col("position") == 19).then(None).otherwise("position").alias("position")),
        users,
        items,
    )


def _users(rng: np.random.Generator) -> pl.DataFrame:
    numbers = np.arange(NUM_USERS)
    return pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in numbers],
            "age": [None if u % 4 == 3 else 20.0 + u for u in numbers],
            "interests": [[f"c{c}" for c in rng.integers(0, 5, u % 4)] for u in numbers],
            "past_items": [[f"i{i}" for i in rng.integers(1, NUM_ITEMS, u % 3)] for u in numbers],
        }
    )


def _items(rng: np.random.Generator) -> pl.DataFrame:
    numbers = np.arange(NUM_ITEMS)
    return pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in numbers],
            "category": [f"c{i % 5}" for i in numbers],
            "price": [None if i % 7 == 6 else float(10 + i**2) for i in numbers],
            "picture": [None if i % 9 == 8 else rng.normal(size=4).round(3).tolist() for i in numbers],
        }
    )


COUNTS = (
    Count(name="seen", by=("user_id",)),
    Count(name="clicked_in_tab", by=("user_id", "tab"), event="is_click"),
    Count(name="long_in_tab", by=("tab",), event="long_view", until="day"),
    Count(name="click_rate", by=("category", "tab"), event="is_click", prior=2.0),
)


def counting(*counts: Count, **changes: Any) -> dict[str, Any]:
    """The counts, and the features of the small world with one more for each of them."""
    chosen = counts or COUNTS
    new = tuple(Feature(name=count.name, kind="numeric", domain="context") for count in chosen)
    return {"counts": chosen, "features": (*toy_schema().features, *new), **changes}
