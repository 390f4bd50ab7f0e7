"""Scores of new rows: those of the evaluation, in order, streamed, for users and items seen or unseen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from toy import DAY, START, toy_frames

from unimixer.data.coverage import UnknownValuesWarning
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk
from unimixer.errors import UnimixerError
from unimixer.predictor import Predictor, write_predictions
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train

LOG, USERS, ITEMS = toy_frames()
TEST_ROWS = LOG.filter(pl.col("time_ms") >= START + 8 * DAY)


@pytest.fixture(scope="module")
def predictor(toy_run: RunFolder) -> Predictor:
    return Predictor(toy_run.folder, device="cpu")


def in_pieces(frame: pl.DataFrame, rows: int) -> list[Chunk]:
    return [Chunk(frame.slice(i, rows), "new.parquet", i + 1) for i in range(0, frame.height, rows)]


def scores(predictor: Predictor, frame: pl.DataFrame) -> Any:
    return predictor.predict(Chunk(frame, "new.parquet")).to_numpy()


def test_raw_rows_of_the_test_part_get_the_scores_of_the_evaluation(
    predictor: Predictor, toy_run: RunFolder, toy_dataset: Dataset
) -> None:
    model = load_ranker(toy_run)
    with torch.no_grad():
        batches = [model(batch) for batch in Loader(toy_dataset, "test", batch_size=100).batches()]
    expected = torch.cat(batches)
    assert len(expected) == TEST_ROWS.height
    torch.testing.assert_close(predictor.logits(Chunk(TEST_ROWS, "test")), expected, rtol=0, atol=1e-6)


def test_scores_are_probabilities_one_column_a_task(predictor: Predictor) -> None:
    frame = predictor.predict(Chunk(TEST_ROWS, "test"))
    assert frame.columns == ["is_click", "long_view"]
    assert frame.dtypes == [pl.Float32, pl.Float32]
    expected = torch.sigmoid(predictor.logits(Chunk(TEST_ROWS, "test")))
    np.testing.assert_allclose(frame.to_numpy(), expected.numpy(), atol=1e-7)


def test_a_score_depends_on_its_row_alone(predictor: Predictor) -> None:
    order = np.random.default_rng(0).permutation(TEST_ROWS.height)
    shuffled = scores(predictor, TEST_ROWS[order])
    np.testing.assert_allclose(shuffled, scores(predictor, TEST_ROWS)[order], atol=1e-6)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_streamed_pieces_give_the_file_of_one_piece(ending: str, predictor: Predictor, tmp_path: Path) -> None:
    files = []
    for rows in (TEST_ROWS.height, 37):
        path = tmp_path / f"{rows}.{ending}"
        keep = ["item_id", "position"]
        assert write_predictions(predictor, in_pieces(TEST_ROWS, rows), path, keep) == TEST_ROWS.height
        files.append(pl.read_parquet(path) if ending == "parquet" else pl.read_csv(path))
    one, many = files
    assert one.columns == many.columns == ["item_id", "position", "is_click", "long_view"]
    assert one["item_id"].to_list() == many["item_id"].to_list() == TEST_ROWS["item_id"].to_list()
    assert one["position"].to_list() == TEST_ROWS["position"].to_list()
    for task in ("is_click", "long_view"):
        np.testing.assert_allclose(one[task].to_numpy(), many[task].to_numpy(), atol=1e-6)


def test_labels_are_not_needed_and_not_read(predictor: Predictor) -> None:
    without = TEST_ROWS.drop("is_click", "watch_s")
    np.testing.assert_array_equal(scores(predictor, without), scores(predictor, TEST_ROWS))
    nonsense = TEST_ROWS.with_columns(is_click=pl.lit("?"), watch_s=pl.lit(None))
    np.testing.assert_array_equal(scores(predictor, nonsense), scores(predictor, TEST_ROWS))


def test_rows_from_csv_get_the_scores_of_rows_from_parquet(predictor: Predictor, tmp_path: Path) -> None:
    rows = TEST_ROWS.drop("is_click", "watch_s")
    rows.write_csv(tmp_path / "new.csv")
    rows.write_parquet(tmp_path / "new.parquet")
    frames = [
        torch.cat([predictor.logits(chunk) for chunk in read_chunks([tmp_path / name])])
        for name in ("new.csv", "new.parquet")
    ]
    torch.testing.assert_close(frames[0], frames[1], rtol=0, atol=1e-6)


def test_users_and_items_never_seen_and_users_without_history_are_scored(predictor: Predictor) -> None:
    rows = TEST_ROWS.head(4).with_columns(
        user_id=pl.Series(["nobody", "u3", "nobody", None]),
        item_id=pl.Series(["i3", "nothing", "nothing", None]),
        time_ms=pl.Series([START, START - DAY, START, START]),  # before every event
    )
    found = scores(predictor, rows)
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()


def test_all_unknown_users_are_one_user(predictor: Predictor) -> None:
    row = TEST_ROWS.head(1)
    two = pl.concat([row.with_columns(user_id=pl.lit("nobody")), row.with_columns(user_id=pl.lit("somebody"))])
    found = scores(predictor, two)
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


def test_columns_of_users_and_items_that_come_with_the_rows_win(predictor: Predictor) -> None:
    row = TEST_ROWS.filter(pl.col("item_id") == "i4").head(1)
    price = ITEMS.filter(pl.col("item_id") == "i4")["price"][0]
    plain, same, other = (
        scores(predictor, frame)
        for frame in (row, row.with_columns(price=pl.lit(price)), row.with_columns(price=pl.lit(9_000.0)))
    )
    np.testing.assert_allclose(same, plain, atol=1e-7)
    assert not np.allclose(other, plain, atol=1e-6)
    lists = row.with_columns(interests=pl.Series([["c1", "c2"]]), category=pl.lit("c9"))
    assert not np.allclose(scores(predictor, lists), plain, atol=1e-6)


def test_no_rows_give_no_scores(predictor: Predictor) -> None:
    assert predictor.logits(Chunk(TEST_ROWS.head(0), "x")).shape == (0, 2)
    assert predictor.predict(Chunk(TEST_ROWS.head(0), "x")).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop("user_id"), r"^new\.parquet: missing column 'user_id'"),
        (lambda rows: rows.drop("time_ms"), r"^new\.parquet: missing column 'time_ms'"),
        (lambda rows: rows.drop("tab"), r"^new\.parquet: missing column 'tab'"),
        (lambda rows: rows.with_columns(time_ms=pl.lit("yesterday")), r"^new\.parquet, row \d+: .*'yesterday'"),
        (
            lambda rows: rows.with_columns(position=pl.lit("front")),
            r"^new\.parquet, row \d+: .*'front' is not a number",
        ),
        *(
            (
                lambda rows, name=name: rows.with_columns(pl.lit(True).alias(name)),
                rf"^new\.parquet, row \d+: {name}=True is a boolean, but the values of this column are not; write the",
            )
            for name in ("user_id", "time_ms", "tab", "position")
        ),
        (
            lambda rows: rows.with_columns(words=pl.lit([True])),
            r"^new\.parquet, row \d+: words=\[True\] is a boolean",
        ),
        (lambda rows: rows.with_columns(user_id=pl.lit([1])), r"column 'user_id' has type List"),
        (lambda rows: rows.with_columns(picture=pl.lit([1.0])), r"^new\.parquet, row \d+: .*is not a vector of"),
    ],
)
def test_rows_that_do_not_fit_are_one_sentence_and_leave_no_file(
    change: Any, message: str, predictor: Predictor, tmp_path: Path
) -> None:
    good, bad = in_pieces(TEST_ROWS, 50)[:2]
    chunks = [good, Chunk(change(bad.frame), bad.source, bad.first_row)]
    for ending in ("parquet", "csv"):
        with pytest.raises(UnimixerError, match=message) as caught:
            write_predictions(predictor, chunks, tmp_path / f"out.{ending}")
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_row_far_down_is_named_by_its_number(predictor: Predictor) -> None:
    many = pl.concat([LOG] * 3)
    position = many["position"].cast(pl.String).to_list()
    position[5_000] = "front"
    rows = Chunk(many.with_columns(position=pl.Series(position)), "new.csv", first_row=11)
    with pytest.raises(UnimixerError, match=r"^new\.csv, row 5011: position='front' is not a number"):
        predictor.logits(rows)


@pytest.mark.parametrize(
    ("keep", "name", "message"),
    [
        (
            ["is_click"],
            "o.csv",
            "cannot keep column 'is_click': the scores of task 'is_click' take its name; pass --suffix _score",
        ),
        (["tab", "tab"], "o.csv", "column 'tab' is kept twice"),
        (["taab"], "o.csv", r"missing column 'taab'; did you mean 'tab'\?"),
        (["list"], "o.csv", r"column 'list' holds lists, which CSV cannot; write o\.parquet"),
        ([], "o.txt", "written as Parquet or CSV; let the name end with"),
        ([], "o.csv.gz", "written as Parquet or CSV; let the name end with"),
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_no_file(
    keep: list[str], name: str, message: str, predictor: Predictor, tmp_path: Path
) -> None:
    rows = TEST_ROWS.head(3).with_columns(list=pl.lit([1, 2]))
    with pytest.raises(UnimixerError, match=message):
        write_predictions(predictor, in_pieces(rows, 2), tmp_path / name, keep)
    assert list(tmp_path.iterdir()) == []


def test_lists_are_kept_in_parquet(predictor: Predictor, tmp_path: Path) -> None:
    rows = TEST_ROWS.head(3).with_columns(list=pl.lit([1, 2]), nothing=pl.lit(None))
    write_predictions(predictor, in_pieces(rows, 2), tmp_path / "o.parquet", ["list", "nothing"])
    assert pl.read_parquet(tmp_path / "o.parquet")["list"].to_list() == [[1, 2]] * 3


def test_a_model_trained_in_bfloat16_scores_as_it_was_evaluated(toy_folder: Path, tmp_path: Path) -> None:
    run = train(
        tiny_recipe(toy_folder, "training.precision=bfloat16", "training.max_steps=2"),
        folder=tmp_path / "r",
        quiet=True,
    )
    predictor = Predictor(run.folder, device="cpu")
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        predictor.logits(Chunk(TEST_ROWS, "test"))[:, 0], torch.tensor(TEST_ROWS["is_click"].to_list()).float()
    )
    assert float(loss) == pytest.approx((run.result or {})["test"]["is_click"]["log_loss"], abs=1e-5)


def test_a_run_without_weights_is_refused(toy_dataset: Dataset, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", tiny_recipe(toy_dataset.folder), toy_dataset)
    with pytest.raises(UnimixerError, match="has no best weights yet; continue it with: unimixer train --resume"):
        Predictor(run.folder)
    with pytest.raises(UnimixerError, match="is not a run folder"):
        Predictor(tmp_path)


def test_rows_get_the_same_scores_in_every_form(predictor: Predictor, tmp_path: Path) -> None:
    expected = scores(predictor, TEST_ROWS)
    (tmp_path / "parts").mkdir()
    TEST_ROWS.write_parquet(tmp_path / "rows.parquet")
    TEST_ROWS.write_csv(tmp_path / "rows.csv")
    TEST_ROWS.head(100).write_parquet(tmp_path / "parts" / "a.parquet")
    TEST_ROWS.tail(-100).write_parquet(tmp_path / "parts" / "b.parquet")
    columns = TEST_ROWS.to_dict(as_series=False)
    forms = {
        "polars": TEST_ROWS,
        "pandas": pandas.DataFrame(columns, index=range(7, 7 + TEST_ROWS.height)),
        "category": pandas.DataFrame(columns).astype({"tab": "category", "user_id": "category"}),
        "objects": pandas.DataFrame(columns, dtype=object),
        "arrow": TEST_ROWS.to_arrow(),
        "columns": columns,
        "rows": TEST_ROWS.to_dicts(),
        "parquet": tmp_path / "rows.parquet",
        "csv": str(tmp_path / "rows.csv"),
        "folder": tmp_path / "parts",
    }
    for name, rows in forms.items():
        np.testing.assert_allclose(predictor.predict(rows).to_numpy(), expected, atol=1e-6, err_msg=name)
    with pytest.raises(UnimixerError, match="expected a polars or pandas frame"):
        predictor.predict(3)


def test_a_user_of_the_library_is_warned_once_where_most_values_are_unknown(toy_run: RunFolder) -> None:
    predictor = Predictor(toy_run.folder, device="cpu")
    rows = TEST_ROWS.head(300).with_columns(item_id=pl.lit("other"), tab=pl.lit("home"))
    said = r"item_id: 100% of 300 rows unknown \(.*% in validation\); are they written as in training\?"
    with pytest.warns(UnknownValuesWarning) as caught:
        predictor.predict(rows)
    assert [warning.filename for warning in caught] == [__file__] * len(caught)
    assert any(re.fullmatch(said, str(warning.message)) for warning in caught)
    predictor.predict(rows)  # once: a warning would be an error here
    assert predictor.coverage.shares()["unknown"]["item_id"] == 1.0
    assert predictor.coverage.rows == 600


def test_a_few_rows_of_a_new_user_are_no_reason_to_warn(toy_run: RunFolder) -> None:
    Predictor(toy_run.folder, device="cpu").predict(TEST_ROWS.head(19).with_columns(user_id=pl.lit("new")))
