"""Avazu click-through rate: ``train.csv`` of the Kaggle challenge, 40.4 million impressions of ten days.

``hour`` is the time (``YYMMDDHH``, UTC); the file is in its order. It is handed over as ``time`` with the minutes 00,
because time formats need minutes where there are hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import PositiveInt

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import calendar, categorical, locate, parse_options
from unimixer.data.raw.folders import find_file
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import Keys, Schema, Vocabulary
from unimixer.data.split_settings import DateSplit, QuantileSplit
from unimixer.errors import UnimixerError
from unimixer.settings import Settings

SOURCE = "avazu"
FILES = ("train.csv", "train.csv.gz", "train.gz", "train")
CONTEXT_FIELDS = ("C1", "banner_pos", *(f"C{i}" for i in range(14, 22)))
PLACE_FIELDS = ("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category")
DEVICE_FIELDS = ("device_id", "device_ip", "device_model", "device_type", "device_conn_type")
COLUMNS = ("click", "hour", *CONTEXT_FIELDS, *PLACE_FIELDS, *DEVICE_FIELDS)
USER_PARTS = {
    "none": (),
    "device_id": ("device_id",),
    "device_ip": ("device_ip",),
    "device": ("device_id", "device_ip", "device_model"),
}
"""Columns that make up a user: the data set has none of its own."""


class Options(Settings):
    """Options for reading Avazu."""

    user: Literal["none", "device_id", "device_ip", "device"] = "none"
    """What stands for the user (UAUC needs one): a device column, or ``device``: id, address and model together."""
    split: Literal["quantile", "date"] = "quantile"
    """By quantiles of time, .8 and .9, or by the two dates below."""
    validation: date = date(2014, 10, 29)
    test: date = date(2014, 10, 30)
    min_count: PositiveInt = 2
    """Values seen fewer times in the training part become out-of-vocabulary."""


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open Avazu; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, SOURCE, options)
    if not chosen.validation < chosen.test:
        raise UnimixerError(f"{SOURCE}: validation={chosen.validation} must be before test={chosen.test}")
    folder = locate(raw, FILES, "the Avazu training file", source=SOURCE)
    logs = [find_file(folder, FILES, "the Avazu training file")]
    known = Vocabulary(min_count=chosen.min_count)
    parts = USER_PARTS[chosen.user]
    schema = Schema(
        name=SOURCE,
        keys=Keys(user="user" if parts else None, time="time", time_format="%y%m%d%H%M"),
        labels=(Label(name="click"),),
        split=DateSplit(validation=chosen.validation, test=chosen.test) if chosen.split == "date" else QuantileSplit(),
        features=(
            *(categorical(name, "user", known) for name in DEVICE_FIELDS),
            *(categorical(name, "context", known) for name in (*CONTEXT_FIELDS, *PLACE_FIELDS)),
            *calendar("time"),
        ),
    )
    return RawTables(schema, partial(_impressions, logs, parts), files=tuple(logs))


def _impressions(logs: Sequence[Path], user_parts: Sequence[str]) -> Iterator[Chunk]:
    for chunk in read_chunks(logs, columns=COLUMNS):
        made = [(pl.col("hour") + "00").alias("time")]
        if user_parts:
            made.append(pl.concat_str(user_parts, separator="/").alias("user"))
        yield Chunk(chunk.frame.with_columns(made), chunk.source, chunk.first_row)
