"""The synthetic world as raw tables: no download, and a best reachable AUC that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import categorical, past
from unimixer.data.raw.tables import CHUNK_ROWS, Chunk, RawTables
from unimixer.data.schema import Feature, History, Keys, Schema, Vocabulary
from unimixer.data.split_settings import DateSplit, QuantileSplit
from unimixer.data.synthetic import (
    BLOCK_ROWS,
    Snapshots,
    WideWorld,
    World,
    WorldConfig,
    WorldField,
    draw_world,
    world_fields,
)
from unimixer.data.synthetic.wide import day
from unimixer.errors import UnimixerError, nearest

HISTORY = "clicked"
SNAPSHOT = "clicked_before"
"""Column of the users with the items from before the log."""
PAST_FIELDS = ("item_id", "category", "topic")
"""What the history shows of its items."""
HISTORY_LENGTH = 50
RARE = Vocabulary(min_count=2)
"""A value that is seen once trains the out-of-vocabulary row, which new users and items will need."""


def load(
    raw: Path | None = None,
    *,
    device: str = "cpu",
    soft_labels: bool = False,
    stream: bool = False,
    **options: Any,
) -> RawTables:
    """Draw a world; nothing is read, and memory does not grow with the rows.

    Args:
        raw: must be None.
        device: where the impressions are drawn.
        soft_labels: the true probabilities are labels too, soft ones.
        stream: training draws rows without end; the training part that is written only fits the vocabularies.
        options: fields of :class:`~unimixer.data.synthetic.WorldConfig`, with or without ``num_``. Equal options give
            equal worlds and, on equal devices, equal impressions.

    Raises:
        UnimixerError: for an unknown option, a value out of its range, or if a folder is given.
    """
    if raw is not None:
        raise UnimixerError(f"synthetic: {raw} was given, but the world is drawn and not read; leave the folder out")
    names = {field.name for field in fields(WorldConfig)}
    short = {name.removeprefix("num_"): name for name in names}
    known = short | {name: name for name in names}
    for name in options:
        if name not in known:
            raise UnimixerError(
                f"synthetic: unknown option {name!r}{nearest(name, [*known, 'device', 'soft_labels', 'stream'])}"
            )
        if name != known[name] in options:
            raise UnimixerError(f"synthetic: {name} and {known[name]} are one option; give one of them")
    for name, value in {"soft_labels": soft_labels, "stream": stream}.items():
        if not isinstance(value, bool):
            raise UnimixerError(f"synthetic: {name}={value!r} must be true or false")
    try:
        config = WorldConfig(**{known[name]: value for name, value in options.items()})
    except UnimixerError as error:
        words = {full: name for name, full in short.items() if full not in options}
        message = re.sub(r"\bnum_\w+", lambda word: words.get(word[0], word[0]), str(error))
        raise UnimixerError(f"synthetic: {message}") from None
    if stream and (config.num_fields is None or config.total_drift):
        raise UnimixerError(
            "synthetic: stream=true needs a wide world without drift; give fields=64, say, and no drift"
        )
    world = draw_world(config, device)
    source = f"synthetic world (difficulty {config.difficulty}, seed {config.seed})"
    users = _frame(world.users())
    return RawTables(
        schema=synthetic_schema(config, soft_labels=soft_labels),
        impressions=partial(_chunks, world, source),
        users=Chunk(
            users.with_columns(_lists(world.snapshots())) if isinstance(world, World) else users, f"{source}, users"
        ),
        items=Chunk(_frame(world.items()), f"{source}, items"),
        num_rows=config.num_rows,
        facts={} if isinstance(world, World) else facts(world, stream=stream),
    )


def facts(world: WideWorld, *, stream: bool = False) -> dict[str, Any]:
    """Return what the manifest keeps of a wide world: groups, interactions, and the settings of a stream."""
    truth = {
        "groups": [list(names) for names in world.groups],
        "interacting_groups": [list(pair) for pair in world.interacting_groups],
        "interactions": [list(names) for names in world.interactions],
    }
    return {"world": truth} | ({"stream": asdict(world.config)} if stream else {})


def synthetic_schema(config: WorldConfig, *, soft_labels: bool = False) -> Schema:
    """Return the schema of a world."""
    drawn = [Label(name=task, probability=f"{task}_probability") for task in config.tasks]
    soft = [Label(name=f"{task}_probability", soft=True) for task in config.tasks if soft_labels]
    wide = config.num_fields is not None
    split = DateSplit(validation=day(config.days - 2), test=day(config.days - 1)) if wide else None
    past_items = [past(HISTORY, name, name, RARE, HISTORY_LENGTH) for name in PAST_FIELDS]
    history = History(name=HISTORY, event="click", snapshot=SNAPSHOT, max_length=HISTORY_LENGTH)
    return Schema(
        name="synthetic",
        keys=Keys(user="user_id", item="item_id", time="time"),
        labels=(*drawn, *soft),
        split=split or QuantileSplit(validation=0.8, test=0.9),
        histories=() if wide else (history,),
        features=(*(_feature(field) for field in world_fields(config)), *(() if wide else past_items)),
    )


def _feature(field: WorldField) -> Feature:
    if field.name == "hour":
        return Feature(name="hour", kind="categorical", domain="context", source="time", transform="hour")
    if field.numeric:
        return Feature(name=field.name, kind="numeric", domain=field.domain, transform="log_standardise")
    return categorical(field.name, field.domain, RARE)


def _chunks(world: World | WideWorld, source: str) -> Iterator[Chunk]:
    """Draw the log in chunks of several blocks."""
    blocks: list[pl.DataFrame] = []
    first = 1
    for block in world.impressions():
        block.pop("hour", None)  # the schema reads it from the time
        blocks.append(_frame(block))
        if len(blocks) == CHUNK_ROWS // BLOCK_ROWS:
            yield Chunk(pl.concat(blocks, rechunk=True), source, first)
            first += sum(frame.height for frame in blocks)
            blocks = []
    if blocks:
        yield Chunk(pl.concat(blocks, rechunk=True), source, first)


def _frame(columns: dict[str, Tensor]) -> pl.DataFrame:
    """Make a frame of tensors: NaN becomes null, ids become 32 bits wide."""
    frame = pl.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    ids = [name for name, column in columns.items() if column.dtype == torch.int64 and name != "time"]
    return frame.with_columns(pl.col(ids).cast(pl.Int32), pl.col(pl.Float32).fill_nan(None))


def _lists(snapshots: Snapshots) -> pl.Series:
    values, offsets = (part.cpu().numpy() for part in snapshots)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32)))
    return pl.Series(SNAPSHOT, lists)
