"""One table of values, written in every way that rows come in, is encoded and scored alike by every way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from eager import EagerBundle
from tiny import tiny_recipe
from toy import START

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.layout import request_layout
from unimixer.data.prepare import prepare
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Schema
from unimixer.features.batch import Batch
from unimixer.predictor import Predictor
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.build import fill
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.settings import parse
from unimixer.training.train import train

ROWS, ASKED = 240, 12
EAST = timezone(timedelta(hours=8))
"""Each column as a function of the number of the row; every third or so is missing where a column may have none."""
CONTEXT: dict[str, Any] = {
    "flag": lambda n: [True, False, None, False][n % 4],
    "price": lambda n: [3.5, 2.25, 7.0, None, 1e6][n % 5],
    "amount": lambda n: [Decimal("3.50"), Decimal("12.00"), Decimal("-1.00")][n % 3],
    "code": lambda n: [1, 20, -1, None][n % 4],
    "big": lambda n: 2**53 + 1 + n % 3,
    "day": lambda n: [date(2024, 1, 1), date(2024, 2, 29), None][n % 3],
    "moment": lambda n: [datetime(2024, 1, 1), datetime(2024, 1, 1, 7, 30), datetime(2024, 1, 2, 0, 0, 0, 500_000)][
        n % 3
    ],
    "zoned": lambda n: datetime(2024, 1, 1, n % 5, 30, tzinfo=UTC),
    "label": lambda n: ["true north", "007", "7", "", "1.10", "1.1"][n % 6],
    "tags": lambda n: [[3, 17, 5], [], [17], None][n % 4],
    "words": lambda n: [["a", "b c"], ["it's"], [], None][n % 4],
    "switch": lambda n: n % 2 == 0,
    "weight": lambda n: [0.5, 2.0, None, 8.25][n % 4],
}
CLICK = [n % 3 == 0 or n % 7 == 0 for n in range(ROWS)]
KINDS = {"tags": "sequence", "words": "sequence", "switch": "numeric", "weight": "numeric"}
SCHEMA: dict[str, Any] = {
    "name": "ways",
    "keys": {"user": "user_id", "item": "item_id", "time": "time_ms", "time_format": "ms"},
    "labels": [{"name": "click"}],
    "histories": [{"name": "clicks", "event": "click", "snapshot": "past", "max_length": 4}],
    "features": [
        *({"name": name, "kind": KINDS.get(name, "categorical"), "domain": "context"} for name in CONTEXT),
        {"name": "hash", "source": "amount", "kind": "categorical", "domain": "context",
         "vocabulary": {"policy": "hash", "num_buckets": 1000}},
        {"name": "member", "kind": "categorical", "domain": "user"},
        {"name": "age", "kind": "numeric", "domain": "user", "transform": "standardise"},
        {"name": "item_id", "kind": "categorical", "domain": "item"},
        {"name": "released", "kind": "categorical", "domain": "item"},
        {"name": "clicked", "kind": "sequence", "domain": "behaviour", "history": "clicks", "source": "item_id",
         "table": "item_id"},
    ],
}  # fmt: skip
SCHEMA["features"] = [
    f | ({"missing": ["-1"]} if f["name"] in ("amount", "hash", "code") else {}) for f in SCHEMA["features"]
]


@dataclass(frozen=True)
class Table:
    """The log and its tables in one way of writing."""

    log: Path
    users: Path
    items: Path

    def raw(self) -> RawTables:
        def impressions() -> Iterator[Chunk]:
            return read_chunks([self.log])

        schema = parse(Schema, SCHEMA, where="ways.yaml")
        return RawTables(schema, impressions, read_table(self.users), read_table(self.items))


def frames() -> dict[str, pl.DataFrame]:
    rows = range(ROWS)
    log = {"user_id": [n % 7 for n in rows], "item_id": [n % 11 for n in rows], "time_ms": [START + n for n in rows]}
    context = {name: pl.Series([value(n) for n in rows], strict=False) for name, value in CONTEXT.items()}
    users = {
        "user_id": list(range(7)),
        "member": [n % 2 == 0 for n in range(7)],
        "age": [20.0 + n for n in range(7)],
        "past": [[n, n + 1] for n in range(7)],
    }
    items = {"item_id": list(range(11)), "released": [date(2020, 1, 1 + n % 4) for n in range(11)]}
    return {
        "log": pl.DataFrame({**log, **context, "click": CLICK}),
        "users": pl.DataFrame(users),
        "items": pl.DataFrame(items),
    }


def narrow(frame: pl.DataFrame) -> pl.DataFrame:
    """The same values in other types of Parquet."""
    kinds: dict[str, Any] = {
        "user_id": pl.Float64, "item_id": pl.Decimal(20, 0), "time_ms": pl.Float64, "click": pl.Int8,
        "flag": pl.Float32, "price": pl.Decimal(10, 2), "amount": pl.Float32, "code": pl.Float64, "big": pl.UInt64,
        "day": pl.Datetime("ns"), "moment": pl.Datetime("ns"), "zoned": pl.Datetime("ms", "Asia/Shanghai"),
        "label": pl.Categorical, "tags": pl.List(pl.Float64), "switch": pl.Int64, "weight": pl.Float32,
        "member": pl.Int16, "age": pl.Int32, "past": pl.List(pl.Decimal(20, 0)), "released": pl.Datetime("us"),
    }  # fmt: skip
    return frame.select(pl.col(name).cast(kinds.get(name, dtype)) for name, dtype in frame.schema.items())


def polars_text(value: Any) -> str | None:
    """A value as polars writes CSV, its lists as JSON."""
    if isinstance(value, (bool, list)):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f") + ("+0000" if value.tzinfo else "")
    return None if value is None else str(value)


def pandas_text(value: Any) -> str | None:
    """A value as pandas writes CSV: whole numbers beside missing ones are floats, lists as Python prints them."""
    if isinstance(value, int) and not isinstance(value, bool) and value < 2**40:
        return f"{value}.0"
    if isinstance(value, datetime) and value.tzinfo:
        return str(value.astimezone(EAST))
    return None if value is None else str(value)


def csv(frame: pl.DataFrame, text: Any) -> pl.DataFrame:
    return pl.DataFrame({s.name: pl.Series([text(v) for v in s.to_list()], dtype=pl.String) for s in frame})


WAYS: dict[str, Any] = {
    "parquet": lambda frame: frame,
    "other types": narrow,
    "polars csv": lambda frame: csv(frame, polars_text),
    "pandas csv": lambda frame: csv(frame, pandas_text),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    folder, found = tmp_path_factory.mktemp("ways"), {}
    for way, write in WAYS.items():
        files = {}
        for name, frame in frames().items():
            files[name] = folder / f"{way} {name}.{'csv' if 'csv' in way else 'parquet'}"
            new = write(frame)
            new.write_csv(files[name]) if "csv" in way else new.write_parquet(files[name])
        found[way] = Table(**files)
    return found


@pytest.fixture(scope="module")
def stores(written: dict[str, Table], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("stores")
    return {way: prepare(table.raw(), folder / way) for way, table in written.items()}


def parts(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.inputs().items() if tensor is not None}


def assert_same(found: Batch, expected: Batch, way: str) -> None:
    a, b = parts(found), parts(expected)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, equal_nan=True, msg=f"{way}: {name}")


def test_every_value_has_a_row_of_its_own(stores: dict[str, Dataset]) -> None:
    """Hand-counted: what is one value and what is not."""
    sizes = {name: v.num_embeddings - 2 for name, v in stores["parquet"].transform.vocabularies.items()}
    assert sizes == {
        "flag": 2,
        "price": 4,
        "amount": 2,
        "code": 2,
        "big": 3,
        "day": 2,
        "moment": 3,
        "zoned": 5,
        "label": 5,
        "tags": 3,
        "words": 3,
        "hash": 1000,
        "member": 2,
        "item_id": 11,
        "released": 4,
    }
    forms = {name: v.form for name, v in stores["polars csv"].transform.vocabularies.items()}
    assert forms["label"] == "text"  # 1.1 and 1.10, 7 and 007 are different
    assert [forms[name] for name in ("flag", "price", "hash", "day", "moment", "zoned")] == [
        *("boolean", "number", "number", "time", "time", "time"),
    ]


@pytest.mark.parametrize("trained", WAYS)
def test_files_of_any_kind_are_encoded_alike(
    trained: str, stores: dict[str, Dataset], written: dict[str, Table]
) -> None:
    reference = stores["parquet"].transform.raw_batch(next(written["parquet"].raw().impressions()))
    for split in ("train", "validation", "test"):
        assert stores[trained].summary(split).parts == stores["parquet"].summary(split).parts  # checksums too
    for way, table in written.items():
        (chunk,) = table.raw().impressions()
        assert_same(stores[trained].transform.raw_batch(chunk), reference, f"{trained}, scored as {way}")


def plain(value: Any) -> Any:
    """A value in the JSON of a request."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else value


def calls() -> Iterator[RankCall]:
    log = frames()["log"].drop("click")
    for row in log.tail(ASKED).to_dicts():
        row = json.loads(json.dumps(row, default=plain))
        yield RankCall(row.pop("user_id"), [row.pop("item_id")], row)


@pytest.mark.parametrize("filled", WAYS)
@pytest.mark.parametrize("trained", WAYS)
def test_requests_are_encoded_as_files_are(
    trained: str, filled: str, stores: dict[str, Dataset], written: dict[str, Table], tmp_path: Path
) -> None:
    transform = stores[trained].transform
    sqlite_store.create(tmp_path / "features.sqlite")
    features = SQLiteStore(tmp_path / "features.sqlite")
    with features.filling(overwrite=False):
        fill(features, written[filled].raw())
    encoder = RequestEncoder(transform, request_layout(transform.schema), features)
    (chunk,) = written["parquet"].raw().impressions()
    rows = chunk.frame.tail(ASKED)
    for number, call in enumerate(calls()):
        expected = transform.raw_batch(Chunk(rows.slice(number, 1), "rows"))
        assert_same(encoder.encode(call).request.batch(), expected, f"row {number}")
    features.close()


def test_scores_are_equal_by_every_way(stores: dict[str, Dataset], written: dict[str, Table], tmp_path: Path) -> None:
    run = train(tiny_recipe(stores["pandas csv"].folder), folder=tmp_path / "run", quiet=True)
    predictor, bundle = Predictor(run.folder, device="cpu"), EagerBundle(run.folder)
    scores = {way: predictor.predict(next(table.raw().impressions())) for way, table in written.items()}
    assert scores["parquet"]["click"].n_unique() > 20
    expected = scores["parquet"]["click"].tail(ASKED).to_list()
    for way, table in written.items():
        assert scores[way].equals(scores["parquet"]), way  # to the last bit
        sqlite_store.create(tmp_path / f"{way}.sqlite")
        features = SQLiteStore(tmp_path / f"{way}.sqlite")
        with features.filling(overwrite=False):
            fill(features, table.raw())
        encoder = RequestEncoder(bundle.transform, bundle.layout, features)
        asked = [float(bundle.score(encoder.encode(call).request)[0, 0]) for call in calls()]
        assert asked == pytest.approx(expected, abs=1e-6), way  # one row a request rounds otherwise
        features.close()
