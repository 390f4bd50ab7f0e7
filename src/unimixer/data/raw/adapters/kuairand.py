"""KuaiRand: short-video impressions of Kuaishou (Gao et al., CIKM 2022, doi 10.1145/3511808.3557624).

The versions Pure, 1K and 27K have one layout, ``data/log_standard_4_08_to_4_21_pure.csv`` and its neighbours, whose
names end with the version; 27K cuts its logs into ``_part1`` and ``_part2``. Cuts that hold any ``log_standard_*.csv``
are read too, optionally with ``user_sequences_until_*.parquet``: what every user watched before the log.

Left out on purpose:
    - ``video_features_statistic_*.csv``: counts over the whole period, test days included, so they leak
    - ``play_time_ms``, the stay times and all feedback columns: outcomes of the impression, hence labels at most
    - ``visible_status``: the state of the video when the data was published, after the log
    - ``duration_ms`` of the log: equal to ``video_duration`` of the video, which serving knows before an impression
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
from pydantic import PositiveInt

from unimixer.data.count_settings import Count
from unimixer.data.label_settings import Label
from unimixer.data.raw.adapters.base import Names, calendar, categorical, locate, parse_options, past
from unimixer.data.raw.folders import find_file, find_files, natural
from unimixer.data.raw.readers import read_chunks, read_table
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.raw.times import as_time
from unimixer.data.schema import Feature, History, Keys, Schema, Vocabulary
from unimixer.data.split_settings import DateSplit
from unimixer.errors import UnimixerError, check_choice
from unimixer.progress import note
from unimixer.settings import Settings

FEEDBACK = ["is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_profile_enter"]
"""Binary outcomes of an impression; any may be a label."""
USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER_FIELDS = (
    *("user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range"),
    *(f"onehot_feat{i}" for i in range(18)),
)
VIDEO_FIELDS = ["author_id", "video_type", "upload_dt", "upload_type", "server_width", "server_height", "music_type"]
MISSING = ("", "-124")
"""-124 is the code for "not known" (three users in four have it as ``is_live_streamer``)."""
KEYS = Keys(user="user_id", item="video_id", time="time_ms", time_format="ms", timezone="Asia/Shanghai")
HISTORIES = {
    "watched": (None, "watch_seq"),
    "liked": ("is_like", "like_seq"),
    "long_viewed": ("long_view", "long_watch_seq"),
}
"""Name: column of the log that must be 1, list column of the snapshot."""
COUNTED = {"seen": None, "click_rate": "is_click", "long_view_rate": "long_view"}
"""Counts: name, and the column of the log whose rate it is."""
MAX_LATE = 0.01
"""Largest share of users whose snapshot reaches into the log; more means that the two do not belong together."""


class Options(Settings):
    """Options for reading KuaiRand."""

    labels: Names = ("is_click", "long_view")
    include_random: bool = False
    """Also read ``log_random_*``: impressions that were shown at random instead of by the policy."""
    validation: date | None = None
    """First day of the validation part (default: the last day but one of the log)."""
    test: date | None = None
    """First day of the test part (default: the last day of the log)."""
    min_count: PositiveInt = 2
    """Values seen fewer times in the training part become out-of-vocabulary, field by field."""
    max_length: PositiveInt = 50
    """Longest history."""
    counts: bool = False
    """Add how often the video, its author and the user were seen before, and their rates of clicks and long views."""


def load(source: str, raw: Path | None, **options: Any) -> RawTables:
    """Open a version of KuaiRand, such as ``kuairand-pure``; ``options`` are the fields of :class:`Options`."""
    chosen = parse_options(Options, source, options)
    version = source.removeprefix("kuairand-")
    for label in chosen.labels:
        check_choice("labels", label, FEEDBACK)
    folder = locate(raw, _csv("log_standard_*"), "KuaiRand logs", source=source)
    logs = find_files(folder, _csv("log_standard_*"), "KuaiRand logs")
    if chosen.include_random:
        logs += find_files(folder, _csv("log_random_*"), "KuaiRand logs of the random policy")
    num_rows, last, firsts = _extent(logs)
    files = [
        find_file(folder, _csv(f"user_features_{version}"), "user features"),
        find_file(folder, _csv(f"video_features_basic_{version}"), "video features"),
    ]
    users, items = (read_table(path) for path in files)
    snapshots = sorted(folder.glob("user_sequences_until_*.parquet"), key=natural)
    if len(snapshots) > 1:
        note(f"{folder}: of {len(snapshots)} snapshots of the users, {snapshots[-1].name} is read")
    snapshots = snapshots[-1:]
    if snapshots:
        users = _with_snapshot(users, snapshots[0], firsts)
    return RawTables(
        schema=_schema(source, chosen, _day(last), has_snapshot=bool(snapshots)),
        impressions=partial(read_chunks, logs),
        users=users,
        items=_with_main_tag(items),
        files=(*logs, *files, *snapshots),
        num_rows=num_rows,
    )


load_pure = partial(load, "kuairand-pure")
load_1k = partial(load, "kuairand-1k")
load_27k = partial(load, "kuairand-27k")


def _csv(stem: str) -> list[str]:
    return [f"{stem}.csv", f"{stem}.csv.gz"]


def _extent(logs: Sequence[Path]) -> tuple[int, int, pl.DataFrame]:
    """Return the number of rows, the last time, and the first time of every user, in ms."""
    rows, last = 0, 0
    firsts = pl.DataFrame(schema={"user_id": pl.String, "first_ms": pl.Int64})
    for chunk in read_chunks(logs, columns=["user_id", "time_ms"]):
        times = as_time(chunk, KEYS)
        rows, last = rows + len(times), max(last, int(times.max()))
        seen = chunk.frame.select("user_id", first_ms=pl.Series(times))
        firsts = pl.concat([firsts, seen]).group_by("user_id").agg(pl.col("first_ms").min())
    return rows, last, firsts


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, tz=ZoneInfo(KEYS.timezone)).date()


def _with_snapshot(users: Chunk, path: Path, firsts: pl.DataFrame) -> Chunk:
    """Add to the users the lists of videos watched before their first impression of the log.

    The dates of the files are coarse (an event near midnight may stand in the next day), so the times decide: who has
    a snapshot that does not end before the log is left without one, because it may tell the future.
    """
    columns = [column for _, column in HISTORIES.values()]
    snapshot = read_table(path, columns=["user_id", *columns, "last_time_ms"]).frame
    snapshot = snapshot.with_columns(pl.col("user_id").cast(pl.String)).join(firsts, on="user_id", how="left")
    late = snapshot.filter(pl.col("last_time_ms") >= pl.col("first_ms")).height
    if late > MAX_LATE * snapshot.height:
        raise UnimixerError(
            f"{path}: for {late} of {snapshot.height} users it holds events from after their first impression; a "
            "snapshot must end before the log begins: remove it, or the earlier logs"
        )
    early = snapshot.filter(pl.col("first_ms").is_null() | (pl.col("last_time_ms") < pl.col("first_ms")))
    lists = early.select("user_id", *columns)
    return Chunk(users.frame.join(lists, on="user_id", how="left", maintain_order="left"), users.source)


def _with_main_tag(items: Chunk) -> Chunk:
    """Add to the videos the first of their tags, which a history can read; a quarter has two or three."""
    main = pl.col("tag").str.split(",").list.first().alias("main_tag")
    return Chunk(items.frame.with_columns(main), items.source)


def _schema(source: str, chosen: Options, last_day: date, *, has_snapshot: bool) -> Schema:
    test = chosen.test or last_day
    validation = chosen.validation or test - timedelta(days=1)
    if validation >= test:
        raise UnimixerError(f"{source}: validation={validation} must be before test={test}")
    histories = tuple(
        History(name=name, event=event, snapshot=snapshot if has_snapshot else None, max_length=chosen.max_length)
        for name, (event, snapshot) in HISTORIES.items()
    )
    counts = _counts() if chosen.counts else ()
    return Schema(
        name=source,
        keys=KEYS,
        labels=tuple(Label(name=label) for label in chosen.labels),
        split=DateSplit(validation=validation, test=test),
        histories=histories,
        counts=counts,
        features=(*_features(chosen), *(_bucketised(count.name, "context", 32) for count in counts)),
    )


def _counts() -> tuple[Count, ...]:
    """Numbers and rates of the video up to the impression, and of the user up to the day.

    Up to the impression, rates of users would rank worse: who has just clicked has fewer clicks left.
    """
    items = (("video", ("video_id",)), ("video_in_tab", ("video_id", "tab")), ("author", ("author_id",)))
    users = (("user", ("user_id",)), ("user_in_tab", ("user_id", "tab")))
    return tuple(
        Count(name=f"{name}_{what}", by=by, event=event, until=until, prior=None if event is None else prior)
        for groups, until, prior in ((items, "impression", 10.0), (users, "day", 3.0))
        for name, by in groups
        for what, event in COUNTED.items()
    )


def _features(chosen: Options) -> tuple[Feature, ...]:
    frequent = Vocabulary(min_count=chosen.min_count)
    user = [
        categorical("user_id", "user", frequent),
        *(categorical(name, "user", frequent, missing=MISSING) for name in USER_FIELDS),
        *(_bucketised(name, "user", 32) for name in USER_COUNTS),
    ]
    duration = {"kind": "numeric", "domain": "item", "source": "video_duration"}
    video = [
        categorical("video_id", "item", frequent),
        *(categorical(name, "item", frequent) for name in VIDEO_FIELDS),
        # music 0 stands for none: its music_type is empty
        categorical("music_id", "item", frequent, missing=("", "0")),
        Feature(name="main_tag", kind="categorical", domain="item", table="tag", vocabulary=frequent),
        Feature(
            name="tags",
            kind="sequence",
            domain="item",
            source="tag",
            table="tag",
            separator=",",
            max_length=3,
            vocabulary=frequent,
        ),
        Feature.model_validate({"name": "duration", "transform": "log_standardise", **duration}),
        Feature.model_validate({"name": "duration_bucket", "transform": "bucketise", "num_buckets": 64, **duration}),
    ]
    context = [categorical("tab", "context", frequent), *calendar("time_ms")]
    behaviour = [
        past(history, source, table, frequent, chosen.max_length)
        for history in HISTORIES
        for source, table in (("video_id", "video_id"), ("author_id", "author_id"), ("main_tag", "tag"))
    ]
    return (*user, *video, *context, *behaviour)


def _bucketised(name: str, domain: str, num_buckets: int) -> Feature:
    return Feature.model_validate(
        {
            "name": name,
            "kind": "numeric",
            "domain": domain,
            "transform": "bucketise",
            "num_buckets": num_buckets,
            "missing": MISSING,
        }
    )
