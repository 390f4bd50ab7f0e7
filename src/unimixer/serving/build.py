"""A feature store from the raw data of a run: its tables of users and items, and the events of its histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.data import values
from unimixer.data.adapters import open_raw
from unimixer.data.entities import EntityLog
from unimixer.data.history import happened
from unimixer.data.schema import Schema
from unimixer.data.store import Store
from unimixer.data.tables import Chunk, RawTables
from unimixer.errors import UnimixerError
from unimixer.files import atomic_file
from unimixer.progress import progress_bar
from unimixer.serving import sqlite_store
from unimixer.serving.records import kept
from unimixer.serving.store import EVERY, Event, FeatureStore, Kind, longest_histories, open_store
from unimixer.training.run import RunFolder

ROWS = 5_000
"""Rows of one write."""


def build_store(
    prepared: Path, out: str, *, raw: Path | None = None, source: str | None = None, overwrite: bool = False
) -> dict[str, int]:
    """Write the feature store of the raw data that a run was trained on.

    Args:
        prepared: a run folder, or the prepared store that it was trained on.
        out: file, or address of Redis.
        raw: folder or file with the raw data (default: where the store was prepared from).
        source: name of the data set or schema file (default: what the store was prepared from).
        overwrite: replace the content of a file that exists.

    Returns:
        The numbers of users, items and events.
    """
    tables = raw_tables(prepared, raw, source)
    if "://" in out or Path(out).exists():
        store = open_store(out)
        try:
            with store.filling(overwrite=overwrite):
                fill(store, tables)
            return store.counts()
        finally:
            store.close()
    with atomic_file(Path(out)) as temporary:
        sqlite_store.create(temporary)
        new = sqlite_store.SQLiteStore(temporary)
        with new.filling(overwrite=False):
            fill(new, tables)
        counts = new.counts()
        new.close()
    return counts


def raw_tables(prepared: Path, raw: Path | None, source: str | None) -> RawTables:
    """The raw data that a run or a prepared store was made from."""
    if (prepared / "config.yaml").exists():
        prepared = Path(RunFolder(prepared).recipe.store)
    origin: dict[str, Any] = {}
    if source is None or raw is None:
        try:
            origin = Store(prepared).manifest.get("origin") or {}
        except UnimixerError:
            if source is None:
                raise
    if source is None and "source" not in origin:
        raise UnimixerError(f"{prepared} does not say what it was made from; name the data set or schema with --source")
    place = raw or (Path(origin["raw"]) if origin.get("raw") else None)
    return open_raw(source or origin["source"], place, **(origin.get("options") or {}))


def fill(store: FeatureStore, tables: RawTables) -> None:
    """Write the tables, then the events; users and items that only the log knows get a row with their key alone."""
    keys = tables.schema.keys
    known: dict[Kind, EntityLog] = {
        "users": EntityLog(tables.users, keys.user),
        "items": EntityLog(tables.items, keys.item),
    }
    first_row = 0
    with progress_bar("reading events", tables.num_rows) as advance:
        for chunk in tables.impressions():
            for entities in known.values():
                entities.rows(chunk)
            store.append_events(list(events_of(tables.schema, chunk, first_row)))
            first_row += chunk.frame.height
            advance(chunk.frame.height)
    store.expect(longest_histories(tables.schema))  # after the whole past is in: from now on an append trims
    for kind, entities in known.items():
        if entities.key is None:
            continue
        columns, frame = kept(entities.chunk().frame)
        with progress_bar(f"writing {kind}", frame.height) as advance:
            for part in frame.iter_slices(ROWS):
                rows = part.drop(entities.key).to_dicts()
                texts = values.text_column(Chunk(part, kind), entities.key).to_list()
                named = {text: {entities.key: text, **row} for text, row in zip(texts, rows, strict=True)}
                store.write(kind, named, {**columns, entities.key: "text"})
                advance(part.height)


def events_of(
    schema: Schema, chunk: Chunk, first_row: int = 0, ids: Sequence[str | None] | None = None
) -> Iterator[Event]:
    """The events that raw impressions are, one for every kind of event that a history of the schema takes."""
    if not schema.histories:
        return
    assert schema.keys.user is not None
    assert schema.keys.item is not None
    users = values.text_column(chunk, schema.keys.user)
    items = values.text_column(chunk, schema.keys.item)
    times = pl.Series(values.as_time(chunk, schema.keys, first_row))
    names = pl.Series([None] * chunk.frame.height if ids is None else ids, dtype=pl.String)
    whole = users.is_not_null() & items.is_not_null()  # impressions without a user or an item are nobody's past
    for event, history in {history.event or EVERY: history for history in schema.histories}.items():
        entered = whole & pl.Series(happened(history, chunk))
        columns = [series.filter(entered) for series in (users, items, times, names)]
        for user, item, time, name in zip(*columns, strict=True):
            yield Event(user, item, time, event, name)
