from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from unimixer.data.raw.adapters.synthetic import HISTORY, SNAPSHOT, load
from unimixer.data.raw.tables import CHUNK_ROWS, RawTables
from unimixer.data.synthetic import World, WorldConfig
from unimixer.errors import UnimixerError


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Worlds this small gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tables() -> RawTables:
    return load(rows=CHUNK_ROWS + 1_000, users=500, items=300, seed=3)


def test_chunks_hold_all_rows_and_know_where_they_start(tables: RawTables) -> None:
    chunks = list(tables.impressions())
    assert [(c.first_row, c.frame.height) for c in chunks] == [(1, CHUNK_ROWS), (CHUNK_ROWS + 1, 1_000)]
    assert tables.num_rows == sum(c.frame.height for c in chunks)
    assert chunks[1].at(4).endswith(f"row {CHUNK_ROWS + 5}")


def test_every_column_that_the_schema_reads_is_there(tables: RawTables) -> None:
    assert tables.users is not None
    assert tables.items is not None
    log = next(tables.impressions()).frame
    columns = {"user": tables.users.frame.columns, "item": tables.items.frame.columns, "context": log.columns}
    for feature in tables.schema.features:
        origin = columns["item" if feature.history else feature.domain]
        assert feature.column in origin, feature.name
    for label in tables.schema.labels:
        assert {label.name, label.probability} <= set(log.columns)
    (history,) = tables.schema.histories
    assert (history.name, history.event, history.snapshot) == (HISTORY, "click", SNAPSHOT)
    assert {"user_id", "item_id", "time"} <= set(log.columns)


def test_frames_say_the_same_as_the_world(tables: RawTables) -> None:
    made = World(WorldConfig(num_rows=CHUNK_ROWS + 1_000, num_users=500, num_items=300, seed=3))
    block, log = next(made.impressions()), next(tables.impressions()).frame
    for name in log.columns:
        assert torch.equal(log[name].head(len(block[name])).to_torch().to(block[name].dtype), block[name]), name
    assert tables.users is not None
    lists = tables.users.frame[SNAPSHOT].to_list()
    values, offsets = made.snapshots()
    assert lists == [values[a:b].tolist() for a, b in pairwise(offsets.tolist())]


def test_missing_numbers_are_null_and_ids_are_integers(tables: RawTables) -> None:
    assert tables.users is not None
    users = tables.users.frame
    assert users["age"].null_count() > 0
    assert not users["age"].is_nan().any()
    assert users.schema["user_id"] == pl.Int32
    assert users.schema[SNAPSHOT] == pl.List(pl.Int32)
    assert next(tables.impressions()).frame.schema["time"] == pl.Int64


def test_sequences_share_the_tables_of_the_items_own_features(tables: RawTables) -> None:
    past = [f for f in tables.schema.features if f.history is not None]
    assert [f.table_name for f in past] == ["item_id", "category", "topic"]
    own = {f.table_name for f in tables.schema.features if f.domain == "item"}
    assert {f.table_name for f in past} <= own


def test_every_field_of_the_world_is_a_feature(tables: RawTables) -> None:
    domains = [f.domain for f in tables.schema.features]
    assert [domains.count(d) for d in ("user", "item", "context", "behaviour")] == [8, 8, 5, 3]


def test_a_folder_and_a_bad_option_are_refused() -> None:
    with pytest.raises(UnimixerError, match="the world is drawn and not read"):
        load(Path("logs"))
    with pytest.raises(UnimixerError, match="did you mean 'hard'"):
        load(difficulty="hrd")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "synthetic: groups=4 needs a wide world; give fields too"),
        ({"num_groups": 4}, "synthetic: num_groups=4 needs a wide world; give fields too"),
        ({"fields": 8, "groups": 3}, "synthetic: groups=3 must be 2 or more and divide fields=8, "),
        ({"rows": 0}, "synthetic: rows=0 must be greater than 0"),
        ({"rows": 5, "num_rows": 6}, "synthetic: rows and num_rows are one option; give one of them"),
    ],
)
def test_a_mistake_names_an_option_as_it_was_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError) as caught:
        load(**options)
    assert str(caught.value).startswith(message)
