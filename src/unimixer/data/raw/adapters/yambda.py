"""Yambda: listens, likes and dislikes of a music service (Yandex, 2025, arXiv:2505.22238), in the flat layout.

A listen is an impression; its label ``listened`` is 1 if at least half of the track was played, as in the paper. Likes,
dislikes, unlikes and undislikes are in no part of the split: they are events of the histories ``liked`` and
``disliked``, or nothing. They are read from ``multi_event.parquet``, or from the files of one event each.

The split is that of the paper: the last day before second 26,000,000 tests, and the half hour before it is in no part.
The day before that half hour validates.

Times are seconds from a start that the publisher does not tell, in steps of 5, so hours of the day and weekdays are
right up to a shift. Track embeddings, ``embeddings.parquet``, are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import PositiveInt

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import Names, calendar, categorical, locate, parse_options, past
from unimixer.data.raw.folders import find_file
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Feature, History, Keys, Schema, Vocabulary
from unimixer.data.split_settings import ColumnSplit
from unimixer.errors import UnimixerError, check_choice
from unimixer.progress import note
from unimixer.settings import Settings

EVENTS = {"multi_event": None, "listens": "listen", "likes": "like", "dislikes": "dislike"}
"""Files by their names, and the kind of event that all rows of a file have."""
KINDS = ("listen", "like", "dislike", "unlike", "undislike")
LAST_TIME, DAY, GAP = 26_000_000, 86_400, 1_800
TEST_FROM = LAST_TIME - DAY
TRAIN_UNTIL = TEST_FROM - GAP
PLAYED = 50
"""A track was listened to if at least so many percent were played."""
OUTCOMES = {"listened": None, "liked": "is_like", "disliked": "is_dislike"}
"""Histories, and the columns that say what enters; the first is that of the label."""


class Options(Settings):
    """Options for reading Yambda."""

    events: Names = ("multi_event",)
    """Files to read: ``multi_event``, or ``listens`` and, for the histories, ``likes`` and ``dislikes``."""
    min_count: PositiveInt = 5
    """Values seen fewer times in the training part become out-of-vocabulary."""
    max_length: PositiveInt = 100
    """Longest history."""


def load(source: str, raw: Path | None, **options: Any) -> RawTables:
    """Open a size of Yambda, such as ``yambda-50m``; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, source, options)
    for name in chosen.events:
        check_choice("events", name, list(EVENTS))
    outcomes = {"multi_event", "listens"} & set(chosen.events)
    if len(outcomes) != 1 or (outcomes == {"multi_event"} and len(chosen.events) > 1):
        raise UnimixerError(
            f"{source}: events={','.join(chosen.events)} must be multi_event, or listens with likes and dislikes if "
            "wanted: only listens have an outcome, and multi_event holds all of them"
        )
    what = f"the events of {source}"
    size = source.removeprefix("yambda-")
    places = [f"{chosen.events[0]}.parquet", f"flat/{size}/{chosen.events[0]}.parquet"]
    folder = locate(raw, places, what, source=source)
    if folder.parent.name == "flat" and folder.name != size:
        raise UnimixerError(f"{folder} holds another size than {source}; name the folder of {size} with --raw")
    logs = {name: find_file(folder, f"{name}.parquet", what) for name in chosen.events}
    mappings = {name: _mapping(folder, name) for name in ("artist", "album")}
    items = _items({name: path for name, path in mappings.items() if path is not None})
    return RawTables(
        schema=_schema(source, chosen, [] if items is None else items.columns),
        impressions=partial(_impressions, logs),
        items=items,
        files=(*logs.values(), *(path for path in mappings.values() if path is not None)),
    )


load_50m = partial(load, "yambda-50m")
load_500m = partial(load, "yambda-500m")
load_5b = partial(load, "yambda-5b")


def _mapping(folder: Path, name: str) -> Path | None:
    """Find ``artist_item_mapping.parquet`` in the folder of the log or up to two folders above, as published."""
    file = f"{name}_item_mapping.parquet"
    path = next((home / file for home in (folder, *folder.parents[:2]) if (home / file).is_file()), None)
    if path is None:
        note(f"{folder}: no {file}; the tracks have no {name}")
    return path


def _items(mappings: dict[str, Path]) -> Chunk | None:
    """Return the tracks with the smallest id of their artists and albums; some have several."""
    tables = []
    for name, path in mappings.items():
        frame = read_table(path, columns=["item_id", f"{name}_id"]).frame
        tables.append(frame.group_by("item_id").agg(pl.col(f"{name}_id").min()))
    if not tables:
        return None
    joined = tables[0] if len(tables) == 1 else tables[0].join(tables[1], on="item_id", how="full", coalesce=True)
    return Chunk(joined.sort("item_id"), ", ".join(map(str, mappings.values())))


def _impressions(logs: dict[str, Path]) -> Iterator[Chunk]:
    """Yield the events of all files, with the columns that the label, the histories and the split read."""
    for name, path in logs.items():
        kind = EVENTS[name]
        columns = ["uid", "timestamp", "item_id", "is_organic"]
        columns += ["event_type"] if kind is None else []
        columns += ["played_ratio_pct", "track_length_seconds"] if kind in (None, "listen") else []
        for chunk in read_chunks([path], columns=columns):
            frame = chunk.frame.with_columns(_made(chunk, kind))
            yield Chunk(frame.drop("event_type", strict=False), chunk.source, chunk.first_row)


def _made(chunk: Chunk, kind: str | None) -> Sequence[pl.Expr]:
    event = pl.lit(kind) if kind is not None else pl.col("event_type").cast(pl.String)
    if kind is None:
        names = chunk.frame.get_column("event_type").cast(pl.String)
        wrong = ~names.is_in(KINDS).fill_null(False)
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise UnimixerError(f"{chunk.at(row)}: event_type={names[row]!r} is not one of {', '.join(KINDS)}")
    time, listen = pl.col("timestamp"), event == "listen"
    part = (
        pl.when(~listen | time.is_between(TRAIN_UNTIL, TEST_FROM, closed="left"))
        .then(None)
        .when(time >= TEST_FROM)
        .then(pl.lit("test"))
        .when(time >= TRAIN_UNTIL - DAY)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    played = pl.col("played_ratio_pct") if "played_ratio_pct" in chunk.frame.columns else pl.lit(0)
    length = pl.col("track_length_seconds") if "track_length_seconds" in chunk.frame.columns else pl.lit(None)
    return (
        part.alias("part"),
        # other events have no played share; they are in no part, so that no model learns this 0
        pl.when(listen).then(played).otherwise(0).cast(pl.Float64).alias("played_ratio_pct"),
        length.cast(pl.Float64).alias("track_length_seconds"),
        *((event == kind_of).cast(pl.UInt8).alias(f"is_{kind_of}") for kind_of in ("like", "dislike")),
    )


def _schema(source: str, chosen: Options, item_columns: Sequence[str]) -> Schema:
    known = Vocabulary(min_count=chosen.min_count)
    read = {"listened", *(("liked", "disliked") if "multi_event" in chosen.events else ())}
    read |= {outcome for file, outcome in (("likes", "liked"), ("dislikes", "disliked")) if file in chosen.events}
    histories = [name for name in OUTCOMES if name in read]
    described = [name for name in ("artist_id", "album_id") if name in item_columns]
    return Schema(
        name=source,
        keys=Keys(user="uid", item="item_id", time="timestamp", time_format="s"),
        labels=(Label(name="listened", source="played_ratio_pct", threshold=PLAYED),),
        split=ColumnSplit(column="part"),
        histories=tuple(
            History(name=name, event=OUTCOMES[name] or name, max_length=chosen.max_length) for name in histories
        ),
        features=(
            categorical("uid", "user", known),
            *(categorical(name, "item", known) for name in ("item_id", *described)),
            Feature(name="track_length_seconds", kind="numeric", domain="item", transform="log_standardise"),
            categorical("is_organic", "context", known),
            *calendar("timestamp"),
            *(
                past(history, column, column, known, chosen.max_length)
                for history in histories
                for column in ("item_id", *described)
            ),
        ),
    )
