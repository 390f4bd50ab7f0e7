"""Impressions as events of the feature store: which of them a history takes."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from toy import START, toy_schema

from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.serving.stores.build import events_of

LIKED = {"name": "liked", "source": "rating", "threshold": 4}


def events(event: str, ratings: list[Any], times: list[Any] | None = None) -> list[tuple[str, int, str]]:
    schema = toy_schema(labels=[{"name": "is_click"}, LIKED], histories=[{"name": "clicks", "event": event}])
    rows = len(ratings)
    columns = {"user_id": ["u"] * rows, "item_id": [f"i{n}" for n in range(rows)], "rating": ratings}
    frame = pl.DataFrame({**columns, "time_ms": times or [START] * rows}, strict=False)
    return [(one.item, one.time, one.event) for one in events_of(schema, Chunk(frame, "events"))]


def test_the_rule_of_a_label_decides_which_impressions_are_events() -> None:
    expected = [("i0", START, "liked"), ("i2", START, "liked")]
    assert events("liked", [5, 1, 4, None]) == events("liked", ["5", "1", "4.0", ""]) == expected


def test_a_graded_column_is_no_event() -> None:
    assert [item for item, *_ in events("rating", [1, 0, None, True])] == ["i0", "i3"]
    with pytest.raises(
        UnimixerError, match=r"events, row 2: rating=5 is not 0 or 1; let event .* name the label 'liked'"
    ):
        events("rating", [1, 5])


def test_an_event_in_another_unit_of_time_is_refused() -> None:
    with pytest.raises(
        UnimixerError, match=r"events, row 1: time_ms=.* is the time 1970-01-20 in ms, but 2022-04-30 in s"
    ):
        events("rating", [1], [START // 1000])
