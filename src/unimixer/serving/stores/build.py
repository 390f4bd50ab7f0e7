"""A feature store from the raw data of a run: its tables of users and items, and the events of its histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from unimixer.data.dataset import open_dataset
from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, match
from unimixer.data.encoding.history import happened
from unimixer.data.raw import values
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.origin import difference
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.io import atomic_file
from unimixer.progress import progress_bar, say
from unimixer.serving.stores import open_store, sqlite_file
from unimixer.serving.stores.base import EVERY, Event, FeatureStore, Kind, is_redis, longest_histories
from unimixer.serving.stores.records import check_length, kept
from unimixer.serving.stores.sqlite import SQLiteStore, create
from unimixer.training.run import RunFolder

PATIENCE_S = 60.0
"""Seconds that a build waits for a lock, or for Redis to take many events at once."""
ROWS = 5_000
"""Rows of one write."""


def build_store(
    prepared: Path,
    out: str,
    *,
    raw: Path | None = None,
    source: str | None = None,
    other_data: bool = False,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write the feature store of the raw data that a run was trained on.

    Args:
        prepared: a run folder, or the prepared dataset that it was trained on.
        out: file, or address of Redis.
        raw: folder or file with the raw data (default: where the store was prepared from).
        source: name of the data set or schema file, for a store that does not say what it was prepared from.
        other_data: take raw data that is not what the run was trained on, such as that of later days.
        overwrite: replace the content of a file that exists.

    Returns:
        The numbers of users, items and events.

    Raises:
        UnimixerError: if the raw data is not that of the run and ``other_data`` is not given.
    """
    tables = raw_tables(prepared, raw, source, other_data=other_data)
    with building(out, overwrite=overwrite) as store:
        fill(store, tables)
        return store.counts()


@contextmanager
def building(out: str, *, overwrite: bool) -> Iterator[FeatureStore]:
    """A new store to fill; a file gets its name when all is written, and who has the old one open goes over to it then.

    Raises:
        UnimixerError: there is a store, and it must not or cannot be replaced; or a file that is none.
        StoreUnavailableError: beside the name are changes of a file that had it before.
    """
    if is_redis(out):
        with closing(open_store(out, patience=PATIENCE_S)) as store, store.filling(overwrite=overwrite):
            yield store
        return
    path = Path(out).resolve()  # a link stays, and the file that it names is replaced
    if path.exists() and not overwrite:
        raise UnimixerError(f"{out} exists; choose another file, or pass --overwrite to replace it")
    if path.exists() and not sqlite_file.is_database(path):
        raise UnimixerError(f"{out} is no feature store, and is not replaced; choose another file")
    sqlite_file.check_beside(path)
    with ExitStack() as held, atomic_file(path) as temporary:
        for rest in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            rest.unlink(missing_ok=True)  # of a killed process that had our number
        create(temporary)
        with closing(SQLiteStore(temporary, name=out)) as new, new.filling(overwrite=False):
            yield new
        held.enter_context(sqlite_file.no_writer(path, PATIENCE_S))
        sqlite_file.check_beside(path)


def raw_tables(prepared: Path, raw: Path | None, source: str | None, *, other_data: bool = False) -> RawTables:
    """The raw data that a run or a prepared dataset was made from, read by the schema that it carries."""
    schema, origin = _carried(prepared)
    named, options = source or origin.get("source"), origin.get("options") or {}
    if named is None:
        raise UnimixerError(f"{prepared} does not say what it was made from; name the data set or schema with --source")
    if raw is None and origin.get("raw") is not None:
        raw = Path(origin["raw"])
        if not raw.is_absolute():
            raise UnimixerError(
                f"{prepared} was made from {raw} in a folder that it does not name; say where with --raw"
            )
        if not raw.exists():
            raise UnimixerError(f"{prepared} was made from {raw}, which is not there any more; say where with --raw")
    if source is not None:
        _check_schema(prepared, schema, source, open_raw(source, raw, **options).schema)
    tables = open_raw(named, raw, schema=schema, **options)
    if "files" not in origin:
        if tables.files:
            say(f"{prepared} keeps no fingerprint of its raw data: {tables.files[0]} is taken as it is")
        return tables
    changed = difference(tables.files, origin["files"])
    if changed is not None and not other_data:
        raise UnimixerError(
            f"{changed} when {prepared} was made; name that raw data with --raw, "
            "or say --other-data where other data is meant, such as that of later days"
        )
    if changed is not None:
        say(f"other raw data than {prepared} was made from: {changed} then")
    return tables


def _carried(prepared: Path) -> tuple[Schema, dict[str, Any]]:
    """The schema of a run or of a prepared dataset, and what it knows of its raw data."""
    if not (prepared / "config.yaml").exists():
        store = open_dataset(str(prepared))
        return store.transform.schema, store.manifest.get("origin") or {}
    run = RunFolder(prepared)
    origin: dict[str, Any] = run.environment["data"].get("origin") or {}
    return run.transform.schema, origin


def _check_schema(prepared: Path, carried: Schema, source: str, named: Schema) -> None:
    """Raise where another schema finds other users, items or events in the same rows."""
    for what in ("keys", "histories"):
        if getattr(carried, what) != getattr(named, what):
            raise UnimixerError(f"{source}: its {what} are not those that {prepared} was made with; leave --source out")


def fill(store: FeatureStore, tables: RawTables) -> None:
    """Write the tables, then the events; users and items that only the log knows get a row with their key alone."""
    keys = tables.schema.keys
    known: dict[Kind, EntityLog] = {
        "users": EntityLog(tables.users, keys.user),
        "items": EntityLog(tables.items, keys.item),
    }
    logged: dict[Kind, EntityLog] = {kind: EntityLog(None, entities.key) for kind, entities in known.items()}
    first_row = 0
    with progress_bar("reading events", tables.num_rows) as advance:
        for chunk in tables.impressions():
            for entities in logged.values():
                entities.read(chunk)
            store.append_events(list(events_of(tables.schema, chunk, first_row)))
            first_row += chunk.frame.height
            advance(chunk.frame.height)
    store.expect(longest_histories(tables.schema))  # after the whole past is in: from now on an append trims
    for kind, entities in known.items():
        if entities.key is None:
            continue
        met = entities.join(logged[kind])[FIRST_ROW:]
        if entities.table is not None:  # a table that the log never meets is refused
            match(kind, "the log", entities.index.keys, met, entities.of_table, np.ones(len(met), dtype=np.int64))
        columns, frame = kept(entities.chunk().frame)
        with progress_bar(f"writing {kind}", frame.height) as advance:
            for part in frame.iter_slices(ROWS):
                rows = part.drop(entities.key).to_dicts()
                texts = values.key_column(Chunk(part, kind), entities.key).to_list()
                for text in texts:
                    check_length(text, f"{kind}: {entities.key}={text:.40}...")
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
    users = values.key_column(chunk, schema.keys.user)
    items = values.key_column(chunk, schema.keys.item)
    times = pl.Series(as_time(chunk, schema.keys, first_row))
    names = pl.Series([None] * chunk.frame.height if ids is None else ids, dtype=pl.String)
    whole = users.is_not_null() & items.is_not_null()  # impressions without a user or an item are nobody's past
    for event, history in {history.event or EVERY: history for history in schema.histories}.items():
        entered = whole & pl.Series(happened(history, schema, chunk))
        columns = [series.filter(entered) for series in (users, items, times, names)]
        for user, item, time, name in zip(*columns, strict=True):
            yield Event(user, item, time, event, name)
