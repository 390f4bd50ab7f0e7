"""Yambda on made files of its flat layout: listens are impressions, other events are histories, the split has a gap."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.adapters.yambda import GAP, KINDS, LAST_TIME, TEST_FROM, TRAIN_UNTIL
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError

DAY = 86_400
TYPES = {"uid": pl.UInt32, "timestamp": pl.UInt32, "item_id": pl.UInt32, "is_organic": pl.UInt8}
LISTEN = {"played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}


def frame(rows: list[tuple[object, ...]], **more: pl.DataType | type[pl.DataType]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={**TYPES, **more}, orient="row")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The layout of the publisher: files of one event, all events in one file, mappings of the tracks beside them."""
    folder = tmp_path / "raw" / "flat" / "50m"
    folder.mkdir(parents=True)
    times = [0, 5, TRAIN_UNTIL - DAY - 5, TRAIN_UNTIL - DAY, TRAIN_UNTIL - 5, TRAIN_UNTIL, TEST_FROM, LAST_TIME]
    listens = [(uid, time, 7 + uid, 1, (100, 49)[i % 2], 180) for uid in (1, 2) for i, time in enumerate(times)]
    likes = [(1, 10, 8, 0), (2, TEST_FROM - 60, 9, 1)]
    frame(listens, **LISTEN).write_parquet(folder / "listens.parquet")
    frame(likes).write_parquet(folder / "likes.parquet")
    events = [(*row[:4], "listen", *row[4:]) for row in listens] + [(*row, "like", None, None) for row in likes]
    events.append((1, 15, 9, 1, "unlike", None, None))
    events.sort(key=lambda row: row[:2])
    frame(events, event_type=pl.Enum(KINDS), **LISTEN).write_parquet(folder / "multi_event.parquet")
    pl.DataFrame({"artist_id": [3, 2, 5], "item_id": [8, 8, 9]}).write_parquet(
        tmp_path / "raw" / "artist_item_mapping.parquet"
    )
    return tmp_path / "raw"


def test_listens_train_and_other_events_are_in_no_part(raw: Path) -> None:
    tables = open_raw("yambda-50m", raw)
    [chunk] = tables.impressions()
    listens = chunk.frame.filter((pl.col("uid") == 1) & (pl.col("played_ratio_pct") > 0))
    parts = ["train", "train", "train", "validation", "validation", None, "test", "test"]
    assert listens.get_column("part").to_list() == parts
    others = chunk.frame.filter(pl.col("played_ratio_pct") == 0)
    assert others.select("uid", "part", "is_like", "is_dislike").rows() == [
        (1, None, 1, 0),
        (1, None, 0, 0),
        (2, None, 1, 0),
    ]
    assert TEST_FROM - TRAIN_UNTIL == GAP == 1800
    assert LAST_TIME - TEST_FROM == DAY


def test_one_file_and_a_file_for_every_event_give_the_same_rows_and_histories(raw: Path, tmp_path: Path) -> None:
    whole = prepare(open_raw("yambda-50m", raw, min_count=1), tmp_path / "whole")
    events = prepare(open_raw("yambda-50m", raw, min_count=1, events="listens,likes"), tmp_path / "events")
    for dataset in (whole, events):
        assert [dataset.summary(split).rows for split in SPLITS] == [6, 4, 4]
        assert [dataset.summary(split).positives for split in SPLITS] == [[4], [2], [2]]
        liked = dataset.transform.histories["liked"]
        assert liked.times.values.tolist() == [10_000, (TEST_FROM - 60) * 1000]
    assert set(whole.transform.histories) == {"listened", "liked", "disliked"}
    assert set(events.transform.histories) == {"listened", "liked"}
    assert len(whole.transform.histories["listened"].times.values) == 8  # those of at least half of a track


def test_the_tracks_have_the_first_of_their_artists_and_what_is_not_there_is_said(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = open_raw("yambda-50m", raw)
    assert tables.items is not None
    assert tables.items.frame.rows() == [(8, 2), (9, 5)]
    assert [file.name for file in tables.files] == ["multi_event.parquet", "artist_item_mapping.parquet"]
    assert "no album_item_mapping.parquet; the tracks have no album" in capsys.readouterr().err
    assert {feature.name for feature in tables.schema.features} == {
        *("uid", "item_id", "artist_id", "track_length_seconds", "is_organic", "hour_of_day", "weekday"),
        *(
            f"{history}_{column}"
            for history in ("listened", "liked", "disliked")
            for column in ("item_id", "artist_id")
        ),
    }


def test_events_without_an_outcome_another_size_and_an_unknown_event_are_refused(raw: Path) -> None:
    for events in ("likes", "multi_event,likes", "listens,multi_event"):
        with pytest.raises(UnimixerError, match=f"events={events} must be multi_event, or listens with likes"):
            open_raw("yambda-50m", raw, events=events)
    with pytest.raises(UnimixerError, match=r"events='unlikes' is not one of multi_event"):
        open_raw("yambda-50m", raw, events="unlikes")
    with pytest.raises(UnimixerError, match=r"flat/50m holds another size than yambda-5b; name the folder of 5b"):
        open_raw("yambda-5b", raw)
    wrong = frame([(1, 0, 7, 1, "skip", None, None)], event_type=pl.String, **LISTEN)
    wrong.write_parquet(raw / "flat" / "50m" / "multi_event.parquet")
    with pytest.raises(UnimixerError, match=r"multi_event.parquet, row 1: event_type='skip' is not one of listen"):
        list(open_raw("yambda-50m", raw).impressions())
