"""Open Bandit Dataset: fashion impressions of ZOZOTOWN with their propensities (Saito et al., NeurIPS 2021).

A campaign (``all``, ``men`` or ``women``) was shown by two policies, ``random`` and ``bts`` (Bernoulli Thompson
sampling): ``random/all/all.csv``, ``bts/all/all.csv`` and beside each ``item_context.csv``. ``propensity_score`` is the
probability with which the policy showed the item at the position; it is a column of the log and never a feature.

There are no user ids. The affinities of the user to all items, ``user-item_affinity_0`` and so on, become one feature:
that of the item that was shown. The hashed features of the items differ between the two policies, so one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import PositiveInt

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import calendar, categorical, parse_options
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.values import require
from unimixer.data.schema import Feature, Keys, Schema, Vocabulary
from unimixer.data.split_settings import QuantileSplit
from unimixer.errors import UnimixerError
from unimixer.settings import Settings

SOURCE = "open-bandit"
USER_FIELDS = tuple(f"user_feature_{i}" for i in range(4))
ITEM_FIELDS = tuple(f"item_feature_{i}" for i in range(1, 4))
AFFINITY = "user-item_affinity_"


class Options(Settings):
    """Options for reading the Open Bandit Dataset."""

    campaign: Literal["all", "men", "women"] = "all"
    policy: Literal["random", "bts"] = "random"
    """The policy that showed the items: uniformly at random, or Bernoulli Thompson sampling."""
    min_count: PositiveInt = 2
    """Values seen fewer times in the training part become out-of-vocabulary."""


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open the Open Bandit Dataset; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, SOURCE, options)
    log = _find(raw, f"{chosen.policy}/{chosen.campaign}/{chosen.campaign}.csv")
    items = read_table(log.with_name("item_context.csv"), columns=["item_id", "item_feature_0", *ITEM_FIELDS])
    known = Vocabulary(min_count=chosen.min_count)
    schema = Schema(
        name=SOURCE,
        keys=Keys(item="item_id", time="timestamp", time_format="iso", timezone="Asia/Tokyo"),
        labels=(Label(name="click"),),
        split=QuantileSplit(),
        features=(
            *(categorical(name, "user", known) for name in USER_FIELDS),
            categorical("item_id", "item", known),
            Feature(name="item_feature_0", kind="numeric", domain="item", transform="standardise"),
            *(categorical(name, "item", known) for name in ITEM_FIELDS),
            categorical("position", "context", known),
            Feature(name="affinity", kind="numeric", domain="context", transform="log"),
            *calendar("timestamp"),
        ),
    )
    return RawTables(schema, partial(_impressions, log), items=items, files=(log, log.with_name("item_context.csv")))


def _find(raw: Path | None, file: str) -> Path:
    if raw is None:
        raise UnimixerError(f"{SOURCE} is read from a folder with {file}, but none was given; name it with --raw")
    paths = sorted({path for depth in ("", "*/", "*/*/") for path in raw.glob(depth + file)})
    if not paths:
        there = ", ".join(sorted(path.name for path in raw.iterdir())) if raw.is_dir() else "no folder"
        raise UnimixerError(f"{raw}: no log of the policy; looked for {file}, found {there or 'an empty folder'}")
    if len(paths) > 1:
        raise UnimixerError(f"{paths[0]} and {paths[1]} are both there; name the folder of one of them with --raw")
    return paths[0]


def _impressions(log: Path) -> Iterator[Chunk]:
    """Yield the log with the affinity of the item that was shown in place of those to all items."""
    for chunk in read_chunks([log]):
        affinities = [name for name in chunk.frame.columns if name.startswith(AFFINITY)]
        shown = chunk.frame.get_column("item_id").cast(pl.Int64, strict=False)
        valid = (shown.is_between(0, len(affinities) - 1)).fill_null(False)
        values = chunk.frame.get_column("item_id")
        require(chunk, values, valid, "is not the number of an item", f"the log has {len(affinities)} affinities")
        each = [pl.when(shown == int(name.removeprefix(AFFINITY))).then(pl.col(name)) for name in affinities]
        frame = chunk.frame.with_columns(pl.coalesce(each).alias("affinity")).drop([*affinities, ""], strict=False)
        yield Chunk(frame, chunk.source, chunk.first_row)
