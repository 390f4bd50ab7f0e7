"""Taobao display advertising (Alibaba, ``Ali_Display_Ad_Click``): 26 million impressions of eight days in May 2017.

``raw_sample.csv`` is the log, ``ad_feature.csv`` describes the ads, and ``user_profile.csv`` describes most users.
``behavior_log.csv`` holds 700 million views, favorites, carts and purchases of 22 days. It names categories and brands,
not ads. Its events from before the log become lists of the users, the newest ``max_length`` of each. Days are those of
Shanghai.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import PositiveInt

from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import Domain, calendar, categorical, locate, parse_options, past
from unimixer.data.raw.folders import find_file
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.times import midnight
from unimixer.data.schema import Feature, History, Keys, Schema, Vocabulary
from unimixer.data.split_settings import DateSplit
from unimixer.errors import UnimixerError
from unimixer.progress import note
from unimixer.settings import Settings

SOURCE = "taobao-ads"
LOG = ("raw_sample.csv", "raw_sample.csv.gz")
USER_FIELDS = (
    *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation"),
    "new_user_class_level",
)
AD_FIELDS = ("cate_id", "campaign_id", "customer", "brand")
MISSING = ("", "NULL")
"""An ad without a brand has ``NULL``."""
KEYS = Keys(user="user", item="adgroup_id", time="time_stamp", time_format="s", timezone="Asia/Shanghai")
FIRST_DAY, TEST_DAY = date(2017, 5, 6), date(2017, 5, 13)
BEHAVIOR = {"past_cates": "cate", "past_brands": "brand"}
"""Lists of the users, and the columns of the behavior log that they hold."""
KEPT_ROWS = 4_000_000
"""The newest events of every user are sorted out again when so many more were read."""


class Options(Settings):
    """Options for reading the ads of Taobao."""

    behavior: bool | None = None
    """Read the behavior log (default: if it is there); it takes most of the time."""
    validation: date = TEST_DAY - timedelta(days=1)
    """First day of the validation part."""
    test: date = TEST_DAY
    """First day of the test part: the last day, as in the papers that use the data."""
    min_count: PositiveInt = 2
    """Values seen fewer times in the training part become out-of-vocabulary."""
    max_length: PositiveInt = 50
    """Longest history."""


def load(raw: Path | None, **options: Any) -> RawTables:
    """Open the ads of Taobao; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, SOURCE, options)
    if not chosen.validation < chosen.test:
        raise UnimixerError(f"{SOURCE}: validation={chosen.validation} must be before test={chosen.test}")
    folder = locate(raw, LOG, "the impressions of the ads of Taobao", source=SOURCE)
    log = find_file(folder, LOG, "the impressions")
    profiles = find_file(folder, ["user_profile.csv", "user_profile.csv.gz"], "the users")
    ads = find_file(folder, ["ad_feature.csv", "ad_feature.csv.gz"], "the ads")
    users, behavior = _users(profiles), _behavior_log(folder, chosen)
    if behavior is not None:
        lists = _past(behavior, chosen.max_length)
        frame = users.frame.join(lists, on="user", how="full", coalesce=True, maintain_order="left_right")
        users = Chunk(frame, users.source)
    return RawTables(
        schema=_schema(chosen, has_behavior=behavior is not None),
        impressions=partial(read_chunks, [log], columns=["user", "time_stamp", "adgroup_id", "pid", "clk"]),
        users=users,
        items=read_table(ads, columns=["adgroup_id", *AD_FIELDS, "price"]),
        files=(log, profiles, ads, *([] if behavior is None else [behavior])),
    )


def _behavior_log(folder: Path, chosen: Options) -> Path | None:
    names = ["behavior_log.csv", "behavior_log.csv.gz"]
    if chosen.behavior is False:
        return None
    if chosen.behavior or any((folder / name).exists() for name in names):
        return find_file(folder, names, "the behavior of the users")
    note(f"{folder}: no behavior_log.csv; the users have no past categories and brands")
    return None


def _users(path: Path) -> Chunk:
    """Read the users; the published header has a space after the name of its last column."""
    chunk = read_table(path)
    return Chunk(chunk.frame.rename(str.strip).rename({"userid": "user"}), chunk.source)


def _past(path: Path, max_length: int) -> pl.DataFrame:
    """Return the newest categories and brands of every user from before the first day of the log, oldest first."""
    border = midnight(FIRST_DAY, KEYS.timezone) // 1000
    kept, waiting, rows = pl.DataFrame(), [], 0
    for chunk in read_chunks([path], columns=["user", "time_stamp", *BEHAVIOR.values()]):
        times = chunk.frame.get_column("time_stamp").cast(pl.Int64, strict=False)
        if times.null_count():
            row = int(times.is_null().arg_max() or 0)
            value = chunk.frame.get_column("time_stamp")[row]
            raise UnimixerError(f"{chunk.at(row)}: time_stamp={value!r} is not a number of seconds; correct the row")
        early = chunk.frame.with_columns(times).filter(pl.col("time_stamp") < border)
        waiting.append(early)
        rows += early.height
        if rows > KEPT_ROWS:
            kept, waiting, rows = _newest([kept, *waiting], max_length), [], 0
    newest = _newest([kept, *waiting], max_length)
    lists = [pl.col(column).alias(name) for name, column in BEHAVIOR.items()]
    return newest.group_by("user", maintain_order=True).agg(lists)


def _newest(frames: list[pl.DataFrame], max_length: int) -> pl.DataFrame:
    whole = pl.concat([frame for frame in frames if frame.width])
    ordered = whole.sort("user", "time_stamp", maintain_order=True)
    return ordered.group_by("user", maintain_order=True).tail(max_length)


def _schema(chosen: Options, *, has_behavior: bool) -> Schema:
    known = Vocabulary(min_count=chosen.min_count)

    def fields(domain: Domain, names: tuple[str, ...]) -> tuple[Feature, ...]:
        return tuple(categorical(name, domain, known, missing=MISSING) for name in names)

    lists = (("past_cates", "cate_id"), ("past_brands", "brand")) if has_behavior else ()
    return Schema(
        name=SOURCE,
        keys=KEYS,
        labels=(Label(name="clk"),),
        split=DateSplit(validation=chosen.validation, test=chosen.test),
        histories=(
            History(name="clicked", event="clk", max_length=chosen.max_length),
            History(name="seen", max_length=chosen.max_length),
        ),
        features=(
            *fields("user", ("user", *USER_FIELDS)),
            *(
                Feature(
                    name=name,
                    kind="sequence",
                    domain="user",
                    table=table,
                    vocabulary=known,
                    max_length=chosen.max_length,
                    missing=MISSING,
                )
                for name, table in lists
            ),
            *fields("item", ("adgroup_id", *AD_FIELDS)),
            Feature(name="price", kind="numeric", domain="item", transform="log_standardise"),
            *fields("context", ("pid",)),
            *calendar("time_stamp"),
            *(
                past(history, source, source, known, chosen.max_length)
                for history in ("clicked", "seen")
                for source in ("adgroup_id", "cate_id", "brand")
            ),
        ),
    )
