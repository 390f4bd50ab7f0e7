"""KuaiRand-Pure in the layout of its publisher and as a cut with a snapshot; and the real data where it is."""

from __future__ import annotations

import gzip
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.adapters.kuairand import FEEDBACK, USER_COUNTS, USER_FIELDS
from unimixer.data.split_settings import DateSplit
from unimixer.errors import UnimixerError

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
OUTCOMES = {*FEEDBACK, "play_time_ms", "profile_stay_time", "comment_stay_time"}


def at(day: int, hour: int = 12, month: int = 4) -> int:
    """Noon in Shanghai, in ms."""
    return int((datetime(2022, month, day, hour, tzinfo=UTC) - timedelta(hours=8)).timestamp() * 1000)


def row(user: int, video: int, time_ms: int, click: int = 1) -> str:
    return f"{user},{video},20220400,1200,{time_ms},{click},0,0,0,0,0,0,61802,49866,0,0,0,0,1\n"


def make(folder: Path, logs: dict[str, list[str]], version: str = "pure") -> Path:
    folder.mkdir(parents=True)
    for name, rows in logs.items():
        (folder / name).write_text(LOG + "".join(rows))
    users = pl.DataFrame(
        {"user_id": [1, 2]} | {n: ["[1,5)", "0"] for n in USER_FIELDS} | {n: [7, 9] for n in USER_COUNTS}
    )
    users.write_csv(folder / f"user_features_{version}.csv")
    (folder / f"video_features_basic_{version}.csv").write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        'music_id,music_type,tag\n5,50,NORMAL,2022-04-10,Web,0.0,87433.0,720.0,1280.0,915,9.0,"20,43"\n'
        "6,60,AD,2022-04-10,Web,0.0,,720.0,1280.0,0,,\n"
    )
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    make(
        tmp_path / "original" / "KuaiRand-Pure" / "data",
        {
            "log_standard_4_22_to_5_08_pure.csv": [row(1, 5, at(7, month=5)), row(2, 6, at(8, month=5), click=0)],
            "log_standard_4_08_to_4_21_pure.csv": [row(1, 6, at(8)), row(1, 5, at(9))],
            "log_random_4_22_to_5_08_pure.csv": [row(2, 5, at(23))],
            "video_features_statistic_pure.csv": [],
        },
    )
    return tmp_path / "original"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    folder = make(
        tmp_path / "cut", {"log_standard_4_25_to_5_06_pure.csv": [row(1, 5, at(25)), row(2, 6, at(6, month=5))]}
    )
    snapshot(folder, last=[at(24), at(24)])
    return folder


def snapshot(folder: Path, last: list[int]) -> None:
    pl.DataFrame(
        {
            "user_id": [1, 2],
            "watch_seq": [[6, 5], [5]],
            "like_seq": [[], [5]],
            "long_watch_seq": [[6], []],
            "last_time_ms": last,
        },
        schema_overrides={"like_seq": pl.List(pl.Int64)},
    ).write_parquet(folder / "user_sequences_until_4_24.parquet")


def test_the_original_layout_is_found_below_the_folder_and_read_in_the_order_of_dates(original: Path) -> None:
    tables = open_raw("kuairand-pure", original)
    chunks = list(tables.impressions())
    assert [Path(c.source).name for c in chunks] == [
        "log_standard_4_08_to_4_21_pure.csv",
        "log_standard_4_22_to_5_08_pure.csv",
    ]
    assert [c.first_row for c in chunks] == [1, 1]
    tables_of_entities = ["user_features_pure.csv", "video_features_basic_pure.csv"]
    assert [file.name for file in tables.files] == [*(Path(c.source).name for c in chunks), *tables_of_entities]
    assert tables.num_rows == 4
    assert all(h.snapshot is None for h in tables.schema.histories)


@pytest.mark.parametrize(("version", "parts"), [("1k", [""]), ("27k", ["_part1", "_part2"])])
def test_the_larger_versions_have_the_same_layout_under_their_own_names(
    tmp_path: Path, version: str, parts: list[str]
) -> None:
    periods = ("4_08_to_4_21", "4_22_to_5_08")
    names = [f"log_standard_{period}_{version}{part}.csv" for period in periods for part in parts]
    logs = {name: [row(1, 5, at(8) + number), row(2, 6, at(9 + number))] for number, name in enumerate(names)}
    logs |= {f"log_random_4_22_to_5_08_{version}.csv": [row(2, 5, at(23))]}
    make(tmp_path / f"KuaiRand-{version.upper()}" / "data", logs, version)
    tables = open_raw(f"kuairand-{version}", tmp_path)
    assert [Path(chunk.source).name for chunk in tables.impressions()] == names
    assert (tables.num_rows, tables.schema.name) == (2 * len(names), f"kuairand-{version}")
    assert open_raw(f"kuairand-{version}", tmp_path, include_random=True).num_rows == 2 * len(names) + 1
    with pytest.raises(UnimixerError, match=r"no user features; looked for user_features_pure.csv"):
        open_raw("kuairand-pure", tmp_path)


def test_a_second_pass_reads_the_log_again(original: Path) -> None:
    tables = open_raw("kuairand-pure", original)
    assert [c.frame.rows() for c in tables.impressions()] == [c.frame.rows() for c in tables.impressions()]


def test_random_impressions_are_read_only_when_asked_for(original: Path) -> None:
    assert open_raw("kuairand-pure", original, include_random=True).num_rows == 5


def test_the_last_two_days_of_the_log_validate_and_test(original: Path, cut: Path) -> None:
    assert open_raw("kuairand-pure", original).schema.split == DateSplit(
        validation=date(2022, 5, 7), test=date(2022, 5, 8)
    )
    assert open_raw("kuairand-pure", cut).schema.split == DateSplit(validation=date(2022, 5, 5), test=date(2022, 5, 6))


def test_dates_can_be_chosen_but_not_in_the_wrong_order(cut: Path) -> None:
    chosen = open_raw("kuairand-pure", cut, validation=date(2022, 4, 30), test="2022-05-02").schema.split
    assert chosen == DateSplit(validation=date(2022, 4, 30), test=date(2022, 5, 2))
    with pytest.raises(UnimixerError, match=r"validation=2022-05-07 must be before test=2022-05-06"):
        open_raw("kuairand-pure", cut, validation="2022-05-07")


def test_the_snapshot_joins_the_users_and_feeds_the_histories(cut: Path) -> None:
    tables = open_raw("kuairand-pure", cut)
    assert tables.users is not None
    assert tables.users.frame.select("watch_seq", "like_seq").rows() == [([6, 5], []), ([5], [5])]
    assert {h.name: (h.event, h.snapshot) for h in tables.schema.histories} == {
        "watched": (None, "watch_seq"),
        "liked": ("is_like", "like_seq"),
        "long_viewed": ("long_view", "long_watch_seq"),
    }


def test_a_snapshot_that_reaches_into_the_log_is_refused(cut: Path) -> None:
    snapshot(cut, last=[at(26), at(24)])
    with pytest.raises(UnimixerError, match=r"for 1 of 2 users it holds events from after their first impression"):
        open_raw("kuairand-pure", cut)


def test_a_single_user_whose_snapshot_is_late_is_left_without_one(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimixer.data.raw.adapters.kuairand.MAX_LATE", 0.5)
    snapshot(cut, last=[at(25), at(24)])
    tables = open_raw("kuairand-pure", cut)
    assert tables.users is not None
    assert tables.users.frame.get_column("watch_seq").to_list() == [None, [5]]


def test_no_outcome_is_a_feature_and_all_user_fields_are(cut: Path) -> None:
    schema = open_raw("kuairand-pure", cut).schema
    columns = {f.column for f in schema.features}
    assert not columns & OUTCOMES
    assert columns >= {*USER_FIELDS, *USER_COUNTS, "user_id", "video_id", "author_id", "tab"}
    assert len(USER_FIELDS) + len(USER_COUNTS) == 30
    assert "visible_status" not in columns


def test_histories_share_the_tables_of_the_candidate(cut: Path) -> None:
    features = open_raw("kuairand-pure", cut, max_length=20).schema.features
    tables = {f.table_name for f in features if f.history is None}
    past = [f for f in features if f.history is not None]
    assert {f.table_name for f in past} == {"video_id", "author_id", "tag"} <= tables
    assert {f.max_length for f in past} == {20}


def test_tags_are_lists_and_the_first_is_the_main_one(cut: Path) -> None:
    tables = open_raw("kuairand-pure", cut)
    assert tables.items is not None
    assert tables.items.frame.select("tag", "main_tag").rows() == [("20,43", "20"), ("", "")]


def test_rare_values_are_cut_at_two_unless_told_otherwise(cut: Path) -> None:
    def cuts(**options: object) -> set[int]:
        features = open_raw("kuairand-pure", cut, **options).schema.features
        return {f.vocabulary.min_count for f in features if f.kind == "categorical" and f.transform == "none"}

    assert cuts() == {2}
    assert cuts(min_count=5) == {5}


def test_counts_are_added_when_asked_for(cut: Path) -> None:
    assert not open_raw("kuairand-pure", cut).schema.counts
    schema = open_raw("kuairand-pure", cut, counts="true").schema
    assert {count.name for count in schema.counts} <= {feature.name for feature in schema.features}
    assert {count.until for count in schema.counts if "user_id" in count.by} == {"day"}
    assert len(schema.counts) == 15


def test_labels_are_chosen_by_name_as_text_or_list(cut: Path) -> None:
    assert open_raw("kuairand-pure", cut).schema.label_names == ("is_click", "long_view")
    assert open_raw("kuairand-pure", cut, labels="is_like, is_click").schema.label_names == ("is_like", "is_click")
    assert open_raw("kuairand-pure", cut, labels=["is_like"]).schema.label_names == ("is_like",)
    with pytest.raises(UnimixerError, match=r"labels='play_time_ms' is not one of is_click"):
        open_raw("kuairand-pure", cut, labels="play_time_ms")


def test_a_wrong_time_is_named_with_file_and_row(cut: Path) -> None:
    with (cut / "log_standard_4_25_to_5_06_pure.csv").open("a") as log:
        log.write(row(1, 5, 0).replace(",0,1,0", ",noon,1,0"))
    with pytest.raises(
        UnimixerError, match=r"log_standard_4_25_to_5_06_pure.csv, row 3: time_ms='noon' is not a number"
    ):
        open_raw("kuairand-pure", cut)


def test_a_missing_feature_file_is_named(cut: Path) -> None:
    (cut / "user_features_pure.csv").unlink()
    with pytest.raises(UnimixerError, match=r"no user features; looked for user_features_pure.csv"):
        open_raw("kuairand-pure", cut)


def test_a_log_that_is_there_twice_is_refused(cut: Path) -> None:
    log = cut / "log_standard_4_25_to_5_06_pure.csv"
    log.with_name(f"{log.name}.gz").write_bytes(gzip.compress(log.read_bytes()))
    with pytest.raises(UnimixerError, match=r"pure.csv and .*pure.csv.gz seem to hold the same rows"):
        open_raw("kuairand-pure", cut)


def test_a_backup_beside_the_log_is_not_read_and_said(cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = cut / "log_standard_4_25_to_5_06_pure.csv"
    log.with_name(f"{log.name}.bak").write_bytes(log.read_bytes())
    assert open_raw("kuairand-pure", cut).num_rows == 2
    assert f"not read: {log.name}.bak" in capsys.readouterr().err


def test_two_folders_of_the_data_set_are_not_chosen_from(cut: Path) -> None:
    shutil.copytree(cut, cut.parent / "copy")
    with pytest.raises(UnimixerError, match=r"copy and .*cut both hold KuaiRand logs; name one of them with --raw"):
        open_raw("kuairand-pure", cut.parent)


@pytest.mark.skipif(
    "UNIMIXER_KUAIRAND" not in os.environ, reason="UNIMIXER_KUAIRAND names no folder with KuaiRand-Pure"
)
def test_the_real_data_is_read_with_its_snapshot_and_split() -> None:
    tables = open_raw("kuairand-pure", Path(os.environ["UNIMIXER_KUAIRAND"]))
    assert tables.users is not None
    assert tables.items is not None
    assert tables.users.frame.height == 27_285
    assert tables.items.frame.height == 7_583
    assert tables.num_rows == sum(chunk.frame.height for chunk in tables.impressions())
    for feature in tables.schema.features:
        origin = tables.users if feature.domain == "user" else tables.items
        if feature.domain != "context":
            assert feature.column in origin.frame.columns
    if tables.num_rows == 198_895:
        assert tables.schema.split == DateSplit(validation=date(2022, 5, 5), test=date(2022, 5, 6))
        # 816 users without earlier events, 3 whose snapshot ends minutes after their first impression
        assert tables.users.frame.get_column("watch_seq").null_count() == 819
