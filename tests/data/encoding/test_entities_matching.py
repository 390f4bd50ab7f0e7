"""Keys of the log and keys of its tables: how many meet, and what is said where none does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from toy import tables_of, toy_frames, toy_schema

from unimixer.data.dataset import Dataset
from unimixer.data.describe import describe_dataset
from unimixer.data.prepare import prepare
from unimixer.data.raw.tables import RawTables
from unimixer.errors import UnimixerError
from unimixer.serving.stores.build import fill
from unimixer.serving.stores.sqlite import SQLiteStore, create


def tables(users: Any = None, items: Any = None, *, chunk_rows: int = 300, **schema: Any) -> RawTables:
    """The small world with the keys of its tables written otherwise."""
    log, of_users, of_items = toy_frames(1_000)
    if users is not None:
        of_users = of_users.with_columns(user_id=users)
    if items is not None:
        of_items = of_items.with_columns(item_id=items)
    return tables_of(toy_schema(**schema), log, of_users, of_items, chunk_rows=chunk_rows)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"users": pl.col("user_id").str.to_uppercase()}, "they meet in lower case"),
        ({"users": "user " + pl.col("user_id")}, "they meet by the number at their end"),
        ({"users": pl.Series([f"x{n}" for n in range(100, 112)])}, "leave the"),
    ],
)
def test_a_table_that_the_log_never_meets_is_refused_with_keys_of_both(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UnimixerError) as error:
        prepare(tables(**change), tmp_path / "store")
    assert re.match(
        r"users: none of the \d+ keys of the log, such as 'u\d+' and 'u\d+', is one of the 12", str(error.value)
    )
    assert expected in str(error.value)
    assert not (tmp_path / "store").exists()


def test_leading_zeros_are_named_as_the_difference(tmp_path: Path) -> None:
    log, users, items = toy_frames(1_000)
    log = log.with_columns(user_id=pl.col("user_id").str.slice(1).cast(pl.Int64))
    users = users.with_columns(user_id=pl.col("user_id").str.slice(1).str.zfill(5))
    with pytest.raises(
        UnimixerError, match="is one of the 12 known, such as '00000' and '00001'; they meet without lead"
    ):
        prepare(tables_of(toy_schema(), log, users, items), tmp_path / "store")
    create(tmp_path / "features.sqlite")
    dataset = SQLiteStore(tmp_path / "features.sqlite")
    with pytest.raises(UnimixerError, match="they meet without leading zeros, so write the keys of both alike"):
        fill(dataset, tables_of(toy_schema(), log, users, items))
    dataset.close()


def test_a_snapshot_whose_items_are_known_to_nobody_is_refused(tmp_path: Path) -> None:
    log, users, items = toy_frames(1_000)
    users = users.with_columns(pl.col("past_items").list.eval("I" + pl.element().str.slice(1)))
    with pytest.raises(
        UnimixerError, match=r"items: none of the .* keys of snapshot 'past_items', such as .* in lower case"
    ):
        prepare(tables_of(toy_schema(), log, users, items), tmp_path / "store")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_keys_that_meet_are_counted_and_examples_shown_where_they_are_few(tmp_path: Path, workers: int) -> None:
    log, users, items = toy_frames(1_000)
    raw = tables_of(toy_schema(), log, users.tail(3), items, chunk_rows=300)
    dataset = prepare(raw, tmp_path / "store", workers=workers)
    found = {(match.table, match.named_by): match for match in dataset.matches}
    assert list(found) == [("users", "the log"), ("items", "the log"), ("items", "snapshot 'past_items'")]
    known, train = set(users.tail(3)["user_id"]), dataset.summary("train").rows
    match = found["users", "the log"]
    assert (match.keys, match.keys_met, match.rows) == (log["user_id"].n_unique(), 3, train)
    assert match.rows_met == log.head(train).filter(pl.col("user_id").is_in(list(known))).height
    first = [key for key in log["user_id"].unique(maintain_order=True) if key not in known][:2]
    assert match.absent == first
    assert f"not known: {first[0]!r} and {first[1]!r}; never named: none" in str(match)
    assert "not known" not in str(found["items", "the log"])
    assert describe_dataset(Dataset(tmp_path / "store"))["matches"][0]["keys_met"] == 3
