"""Counts of rows to predict: those of an appended day, of candidates after the log, and the reasons to refuse."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import COUNTS, DAY, START, counting, day_tables, tables_of

from unimixer.api import Run
from unimixer.data.dataset import Dataset
from unimixer.data.encoding.counts import add_counts
from unimixer.data.encoding.later_counts import LaterCounts
from unimixer.data.extend import extend
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor
from unimixer.training.run import RunFolder

NAMES = [count.name for count in COUNTS]
OUTCOMES = ["is_click", "watch_s"]


@pytest.fixture
def run(counting_run: RunFolder) -> Run:
    """The model, opened."""
    return Run(counting_run.folder)


def day(*numbers: int) -> pl.DataFrame:
    """The log of some days."""
    return pl.concat([chunk.frame for chunk in day_tables(*numbers).impressions()])


def test_rows_with_outcomes_have_the_counts_and_scores_of_an_appended_day(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(run.folder.parent / "data", tmp_path / "data")
    grown = extend(data, day_tables(4, 5, **counting()), hold_out=1)
    parts = [part for split in ("validation", "test") for part in grown.parts(split)]
    dense, times = (np.concatenate([getattr(part, name) for part in parts]) for name in ("dense", "times"))
    appended = dense[np.argsort(times, kind="stable"), -len(COUNTS) :]
    log, predictor = day(4, 5), Predictor(run.folder)
    (chunk,) = predictor.chunks(log)
    predicted = chunk.frame.select(NAMES)
    assert predicted.cast(pl.Float32).to_numpy().tolist() == appended.tolist()
    assert len(set(appended[:, 3].tolist())) > 20
    scores = predictor.predict(log)
    assert capsys.readouterr().err.splitlines() == [
        "note: 4 counts of earlier impressions, such as 'seen', are computed from the log up to 2022-05-04 and the "
        "earlier rows"
    ]
    assert scores.equals(predictor.predict(pl.concat([log.drop(OUTCOMES), predicted], how="horizontal")))
    log.write_parquet(tmp_path / "log.parquet")
    assert scores.equals(predictor.predict(tmp_path / "log.parquet"))
    assert run.evaluate(rows=log)["is_click"].num_rows == log.height


def test_every_candidate_has_the_counts_that_it_would_have_as_the_next_row_of_the_log(run: Run) -> None:
    rows = day(4).head(12).drop(OUTCOMES)
    rows = rows.with_columns(
        user_id=pl.Series([None, "new", *rows["user_id"][2:]]), item_id=pl.Series(["new", *rows["item_id"][1:]])
    )
    end = run.transform.log_end
    assert end is not None
    (chunk,) = run.predictor.chunks(rows)
    assert chunk.frame.drop(NAMES).equals(rows)
    for number in range(rows.height):
        row = rows.slice(number, 1).with_columns(is_click=1, watch_s=0.0)
        alone, _ = add_counts(tables_of(run.transform.schema, row), end)
        assert next(alone.impressions()).frame.select(NAMES).row(0) == chunk.frame.select(NAMES).row(number)
    own = run.predictor.predict(rows.with_columns(seen=pl.lit(3.0)))
    assert not own.equals(run.predictor.predict(rows))


def test_a_column_of_the_items_may_come_with_the_rows(run: Run) -> None:
    end = run.transform.log_end
    assert end is not None
    later, rows = LaterCounts(COUNTS, end), day(4).head(3).drop(OUTCOMES).with_columns(item_id=pl.lit("i3"))
    known = later.fill(Chunk(rows, "rows")).frame["click_rate"]
    assert later.fill(Chunk(rows.with_columns(category=pl.lit("c3")), "rows")).frame["click_rate"].equals(known)
    assert not later.fill(Chunk(rows.with_columns(category=pl.lit("c2")), "rows")).frame["click_rate"].equals(known)
    with pytest.raises(
        UnimixerError, match=r"rows: missing column 'tab', by which '\w+' counts .*; bring it, or bring"
    ):
        later.fill(Chunk(rows.drop("tab"), "rows"))


def test_rows_of_a_counted_day_are_refused_and_rows_that_bring_their_counts_are_not(run: Run) -> None:
    log = pl.concat([day(4).head(2), day(3).tail(1)])
    for rows in (log, log.drop(OUTCOMES)):
        with pytest.raises(
            UnimixerError, match="rows, row 3: the log is counted up to 2022-05-04, so the count 'seen'"
        ):
            run.predict(rows)
    assert run.predict(log.with_columns(pl.lit(1.0).alias(name) for name in NAMES)).height == 3
    assert Dataset(run.folder.parent / "data").summary("test").last_time < START + 4 * DAY


def test_a_model_that_does_not_know_the_end_of_its_log_says_which_columns_to_bring(run: Run) -> None:
    predictor = Predictor(run.folder)
    predictor.transform = replace(predictor.transform, read_log_end=None)
    message = "rows: missing column 'seen': it counts earlier impressions by user_id, and this model .*; bring the col"
    with pytest.raises(UnimixerError, match=message):
        predictor.predict(day(4))
