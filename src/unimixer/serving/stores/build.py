"""Build a feature store from the raw data of a run: the users, the items and the events of histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from unimixer.data.dataset import dataset_path, open_dataset
from unimixer.data.encoding.entities import FIRST_ROW, EntityLog, match
from unimixer.data.encoding.history import happened
from unimixer.data.raw import values
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.origin import difference
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.io import DATASET, RUN, atomic_file
from unimixer.progress import progress_bar, say
from unimixer.serving.stores import open_store, sqlite_file
from unimixer.serving.stores.base import ANY_EVENT, Event, FeatureStore, Kind, is_redis, longest_histories
from unimixer.serving.stores.records import check_length, typed_table
from unimixer.serving.stores.sqlite import SQLiteStore, create
from unimixer.training.run import RunFolder

TIMEOUT_S = 60.0
"""Seconds that a build waits for a lock, or for Redis to store many events."""
ROWS = 5_000
"""Rows per write."""


def build_store(
    prepared: Path,
    out: str,
    *,
    raw: Path | None = None,
    source: str | None = None,
    other_data: bool = False,
    overwrite: bool = False,
) -> dict[str, int]:
    """Build the feature store for a run from its raw data.

    Args:
        prepared: a run folder, or the prepared dataset that it was trained on.
        out: file to write, or address of a Redis database.
        raw: folder or file with the raw data (default: the recorded path).
        source: name of the data set, or schema file (default: the recorded one).
        other_data: accept raw data that differs from the training data, such as later days.
        overwrite: replace an existing file.

    Returns:
        The numbers of users, items and events.

    Raises:
        UnimixerError: the raw data differs from that of the run and ``other_data`` is false.
    """
    tables = raw_tables(prepared, raw, source, other_data=other_data)
    with building(out, overwrite=overwrite) as store:
        fill(store, tables)
        return store.counts()


@contextmanager
def building(out: str, *, overwrite: bool) -> Iterator[FeatureStore]:
    """Yield a new store to fill. A file gets its name after all writes, and readers of the old file then switch to it.

    Raises:
        UnimixerError: a store exists and must not or cannot be replaced, or the file is not a feature store.
        StoreUnavailableError: a log or journal of a previous file with this name exists.
    """
    if is_redis(out):
        with closing(open_store(out, timeout=TIMEOUT_S)) as store, store.filling(overwrite=overwrite):
            yield store
        return
    path = Path(out).resolve()  # replace the target of a link, not the link
    if path.exists() and not overwrite:
        raise UnimixerError(f"{out} exists; choose another file, or pass --overwrite to replace it")
    if path.exists() and not sqlite_file.is_database(path):
        raise UnimixerError(f"{out} is not a feature store, so it is not replaced; choose another file")
    sqlite_file.check_beside(path)
    with ExitStack() as stack, atomic_file(path) as temporary:
        for leftover in (temporary, temporary.with_name(f"{temporary.name}-journal")):
            leftover.unlink(missing_ok=True)  # from a killed process with the same id
        create(temporary)
        with closing(SQLiteStore(temporary, name=out)) as new, new.filling(overwrite=False):
            yield new
        stack.enter_context(sqlite_file.no_writer(path, TIMEOUT_S))
        sqlite_file.check_beside(path)


def raw_tables(prepared: Path, raw: Path | None, source: str | None, *, other_data: bool = False) -> RawTables:
    """Open the raw data of a run or of prepared data, with the recorded schema."""
    schema, origin = _recorded(prepared)
    name, options = source or origin.get("source"), origin.get("options") or {}
    if name is None:
        raise UnimixerError(f"{prepared} does not record its data set or schema; name it with --source")
    if raw is None and origin.get("later"):
        raise UnimixerError(
            f"{prepared} was made from raw data of several days, the last of them {origin['later'][-1]}; "
            "give one folder with the raw data of all days with --raw, and --other-data"
        )
    if raw is None and origin.get("raw") is not None:
        raw = Path(origin["raw"])
        if not raw.is_absolute():
            raise UnimixerError(f"{prepared} was made from {raw} in an unknown folder; give the path with --raw")
        if not raw.exists():
            raise UnimixerError(f"{prepared} was made from {raw}, which no longer exists; give the path with --raw")
    if source is not None:
        _check_schema(prepared, schema, source, open_raw(source, raw, **options).schema)
    tables = open_raw(name, raw, schema=schema, **options)
    if "files" not in origin:
        if tables.files:
            say(f"{prepared} has no fingerprint of its raw data: {tables.files[0]} is used without a check")
        return tables
    changed = difference(tables.files, origin["files"])
    if changed is not None and not other_data:
        raise UnimixerError(
            f"{changed} when {prepared} was made; give that raw data with --raw, "
            "or accept other data, such as later days, with --other-data"
        )
    if changed is not None:
        say(f"the raw data differs from that of {prepared}: {changed} then")
    return tables


def _recorded(prepared: Path) -> tuple[Schema, dict[str, Any]]:
    """Return the schema of a run or of prepared data, and the recorded origin of its raw data."""
    if not (prepared / "config.yaml").exists():
        if not (dataset_path(str(prepared)) / "manifest.json").exists():
            raise UnimixerError(f"{prepared} is neither {RUN} nor {DATASET}; name one, as made by: unimixer train")
        store = open_dataset(str(prepared))
        return store.transform.schema, store.origin
    run = RunFolder(prepared)
    origin: dict[str, Any] = run.environment["data"].get("origin") or {}
    return run.transform.schema, origin


def _check_schema(prepared: Path, recorded: Schema, source: str, schema: Schema) -> None:
    """Raise if another schema would read other users, items or events from the same rows."""
    for part in ("keys", "histories"):
        if getattr(recorded, part) != getattr(schema, part):
            raise UnimixerError(f"{source}: its {part} differ from those of {prepared}; leave --source out")


def fill(store: FeatureStore, tables: RawTables) -> None:
    """Write events and tables to a store. Users and items that occur only in the log get a row with just their key."""
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
    store.expect(longest_histories(tables.schema))  # later appends trim; the whole past is already stored
    for kind, entities in known.items():
        if entities.key is None:
            continue
        met = entities.join(logged[kind])[FIRST_ROW:]
        if entities.table is not None:  # refuses a table without any key of the log
            match(kind, "the log", entities.index.keys, met, entities.of_table, np.ones(len(met), dtype=np.int64))
        columns, frame = typed_table(entities.chunk().frame)
        with progress_bar(f"writing {kind}", frame.height) as advance:
            for part in frame.iter_slices(ROWS):
                rows = part.drop(entities.key).to_dicts()
                texts = values.key_column(Chunk(part, kind), entities.key).to_list()
                for text in texts:
                    check_length(text, f"{kind}: {entities.key}={text:.40}...")
                keyed = {text: {entities.key: text, **row} for text, row in zip(texts, rows, strict=True)}
                store.write(kind, keyed, {**columns, entities.key: "text"})
                advance(part.height)


def events_of(
    schema: Schema, chunk: Chunk, first_row: int = 0, ids: Sequence[str | None] | None = None
) -> Iterator[Event]:
    """Yield the events of raw impressions, one for every kind of event that the histories of the schema use."""
    if not schema.histories:
        return
    assert schema.keys.user is not None
    assert schema.keys.item is not None
    users = values.key_column(chunk, schema.keys.user)
    items = values.key_column(chunk, schema.keys.item)
    times = pl.Series(as_time(chunk, schema.keys, first_row))
    names = pl.Series([None] * chunk.frame.height if ids is None else ids, dtype=pl.String)
    whole = users.is_not_null() & items.is_not_null()  # a history needs both
    for event, history in {history.event or ANY_EVENT: history for history in schema.histories}.items():
        entered = whole & pl.Series(happened(history, schema, chunk))
        columns = [series.filter(entered) for series in (users, items, times, names)]
        for user, item, time, name in zip(*columns, strict=True):
            yield Event(user, item, time, event, name)
