"""Exposures into the database of events: one that no database can hold is named, so that it does not block others."""

from __future__ import annotations

from pathlib import Path

import pytest
from arm_cases import always, rows
from experiments import microseconds

from unimixer.abtest.events import Events
from unimixer.serving.arms import Arms
from unimixer.serving.prediction_log.exposures import ExposureSink
from unimixer.serving.prediction_log.record import Entry, UnfitError


def test_an_exposure_that_no_database_holds_is_refused_and_a_repeated_one_counted(tmp_path: Path) -> None:
    repeated: list[int] = []
    sink = ExposureSink(Events(f"sqlite:///{tmp_path / 'events.sqlite'}"), repeated.append)
    choice = Arms([always(segments=["tab"])], set()).choose({"user": 7}, "user_id", microseconds("2026-03-10"))
    assert choice is not None
    good = choice.exposure("r1", "v1", ["i1"], {"tab": "h\u00f6me"})
    with pytest.raises(UnfitError, match="context: a text in it has the character NUL, which no database holds"):
        sink.write([Entry(0, good), Entry(1, choice.exposure("r2", "v1", ["i1"], {"tab": "a\0"}))])
    with pytest.raises(UnfitError, match="unit: the text has 501 bytes"):
        sink.write([Entry(2, good._replace(unit="u" * 501))])
    sink.write([Entry(0, good)])
    sink.write([Entry(0, good)])
    sink.close()
    assert repeated == [0, 1]
    assert [(row["unit"], row["request_id"]) for row in rows(tmp_path / "events.sqlite", "exposures")] == [("7", "r1")]
