"""Preparing: the same input gives the same dataset, and a mistake leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy import DAY, SCHEMA, START, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data import prepare, write_dataset
from unimixer.data.dataset import Dataset
from unimixer.data.extend import extend
from unimixer.data.loader import Loader
from unimixer.data.raw import passes
from unimixer.data.raw.tables import Chunk, RawTables
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError


def prepared(folder: Path, tables: RawTables, **options: Any) -> Dataset:
    return prepare.prepare(tables, folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- the same input, the same dataset ------------------------------------------


def test_the_chunk_size_does_not_change_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_dataset, "PART_ROWS", 100)
    folders = [tmp_path / f"chunks-of-{rows}" for rows in (7, 1000)]
    for folder, rows in zip(folders, (7, 1000), strict=True):
        prepared(folder, toy_tables(500, chunk_rows=rows))
    first, second = map(contents, folders)
    assert first == second
    assert len([name for name in first if name.startswith("train/")]) == 3


def test_the_same_input_gives_the_same_hash_and_another_input_another(tmp_path: Path) -> None:
    log, users, items = toy_frames(400)
    flipped = log.with_columns(
        is_click=pl.when(pl.int_range(pl.len()) == 399).then(1 - pl.col("is_click")).otherwise("is_click")
    )
    first, second, third = (
        prepared(tmp_path / name, tables_of(toy_schema(), frame, users, items)).hash
        for name, frame in (("a", log), ("b", log), ("c", flipped))
    )
    assert first == second != third


def test_a_random_split_does_not_depend_on_the_chunks(tmp_path: Path) -> None:
    split = {"by": "random", "validation": 0.2, "test": 0.2}
    first, second = (
        prepared(tmp_path / str(rows), toy_tables(400, chunk_rows=rows, split=split)).hash for rows in (31, 1000)
    )
    assert first == second


# ---- what is in it -----------------------------------------------------------


def test_every_impression_is_in_the_part_of_its_day_and_in_the_order_of_the_log(toy_dataset: Dataset) -> None:
    log, _, _ = toy_frames()
    day = (log["time_ms"].to_numpy() - START) // DAY
    for split, days in zip(SPLITS, (day < 6, (day >= 6) & (day < 8), day >= 8), strict=True):
        (rows,) = toy_dataset.parts(split)
        np.testing.assert_array_equal(rows.times, log["time_ms"].to_numpy()[days])
        keys = ["missing", "unknown", *toy_dataset.transform.users.index.keys]
        assert [keys[u] for u in rows.users] == log["user_id"].filter(pl.Series(days)).to_list()
        assert rows.labels is not None
        np.testing.assert_array_equal(rows.labels[:, 0], log["is_click"].to_numpy()[days])
        np.testing.assert_array_equal(rows.labels[:, 1], log["watch_s"].to_numpy()[days] >= 10)


def test_the_summary_counts_what_the_part_holds(toy_dataset: Dataset) -> None:
    log, _, items = toy_frames()
    train = log.filter(pl.col("time_ms") < START + 6 * DAY).join(items, on="item_id", maintain_order="left")
    summary, spec = toy_dataset.summary("train"), toy_dataset.transform.spec
    assert summary.rows == train.height
    assert (summary.first_time, summary.last_time) == (train["time_ms"][0], train["time_ms"][-1])
    assert summary.positives == [train["is_click"].sum(), (train["watch_s"] >= 10).sum()]
    names = [f.name for f in (*spec.ids, *spec.dense)]
    missing = dict(zip(names, summary.missing, strict=True))
    assert missing["tab"] == (train["tab"] == "").sum() > 0
    assert missing["position"] == train["position"].null_count() > 0
    assert missing["price"] == train["price"].null_count() > 0
    assert missing["picture"] == train["picture"].null_count() > 0
    assert sum(summary.out_of_vocabulary) == 0
    late = toy_dataset.summary("test").out_of_vocabulary[names.index("tab")]
    assert late == (log.filter(pl.col("time_ms") >= START + 8 * DAY)["tab"] == "late").sum() > 0


def test_weights_and_true_probabilities_are_kept(tmp_path: Path) -> None:
    log, users, items = toy_frames(400)
    frame = log.with_columns(w=pl.int_range(pl.len()) % 3, p=pl.lit(0.25))
    schema = toy_schema(weight="w", labels=[{"name": "is_click", "probability": "p"}])
    made = prepared(tmp_path / "store", tables_of(schema, frame, users, items))
    parts = [part for split in SPLITS for part in made.parts(split)]
    assert np.concatenate([part.weights for part in parts]).tolist() == [n % 3 for n in range(400)]
    assert all((part.truth == 0.25).all() for part in parts)


def test_a_soft_label_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    log, users, items = toy_frames(400)
    truth = np.random.default_rng(1).random(400).astype(np.float32)
    labels = [{"name": "is_click", "probability": "p"}, {"name": "true_click", "source": "p", "soft": True}]
    tables = tables_of(toy_schema(labels=labels), log.with_columns(p=truth), users, items)
    made = prepared(tmp_path / "store", tables)
    parts = [part.labels for split in SPLITS for part in made.parts(split) if part.labels is not None]
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(parts)[:, 1], truth)
    batches = [
        b.labels for split in SPLITS for b in Loader(made, split, batch_size=64).batches() if b.labels is not None
    ]
    np.testing.assert_array_equal(torch.cat(batches)[:, 1].numpy(), truth)
    positives = made.summary("train").positives
    train = made.summary("train").rows
    assert positives == [log["is_click"][:train].sum(), pytest.approx(truth[:train].sum(dtype=np.float64))]
    assert [type(count) for count in positives] == [int, float]


# ---- mistakes ----------------------------------------------------------------


def broken(column: str, row: int, value: Any) -> RawTables:
    log, users, items = toy_frames(300)
    values = log[column].cast(pl.String).to_list()
    values[row] = value
    return tables_of(toy_schema(), log.with_columns(pl.Series(column, values)), users, items, chunk_rows=100)


def unweighted() -> RawTables:
    log, users, items = toy_frames(300)
    return tables_of(toy_schema(weight="w"), log.with_columns(w=pl.lit(0.0)), users, items)


MISTAKES = [
    (broken("time_ms", 250, "noon"), "log.csv, row 251: time_ms='noon' is not a number; every impression needs its"),
    (broken("is_click", 150, "2"), "log.csv, row 151: is_click='2' is not 0 or 1"),
    (broken("watch_s", 9, ""), "log.csv, row 10: watch_s='' is missing, but a label must be known"),
    (broken("position", 299, "top"), "log.csv, row 300: position='top' is not a number; correct the row, or list"),
    (toy_tables(300, weight="wieght"), "log.csv: missing column 'wieght'; known: "),
    (
        toy_tables(300, features=[{"name": "catgeory", "kind": "categorical", "domain": "item"}]),
        "feature 'catgeory': no column 'catgeory' in items or impressions; did you mean 'category'?",
    ),
    (
        toy_tables(300, split={"by": "date", "validation": "2022-05-10", "test": "2022-05-12"}),
        "toy: the test part is empty: the log goes from 2022-05-01",
    ),
    (
        toy_tables(300, labels=[{"name": "long_view", "source": "watch_s", "threshold": 1e9}]),
        "label 'long_view' is 0 in all 172 rows of the train part; a binary label needs both classes",
    ),
    (unweighted(), "weight 'w' is 0 in all 172 rows of the train part, so that nothing can be learned; correct the"),
    (
        toy_tables(300, labels=[{"name": "seen", "source": "watch_s", "threshold": 0}]),
        "label 'seen' is 1 in all 172 rows of the train part",
    ),
]


@pytest.mark.parametrize(("tables", "message"), MISTAKES, ids=[message[:45] for _, message in MISTAKES])
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path: Path, tables: RawTables, message: str) -> None:
    with pytest.raises(UnimixerError) as error:
        prepared(tmp_path / "store", tables)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_user_that_stands_twice_is_named(tmp_path: Path) -> None:
    log, users, items = toy_frames(300)
    tables = tables_of(toy_schema(), log, pl.concat([users, users[3:4]]), items)
    with pytest.raises(UnimixerError, match=r"users\.csv, row 13: user_id='u3' is in row 4 already"):
        prepared(tmp_path / "store", tables)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    passes = 0

    def impressions() -> Iterator[Chunk]:
        nonlocal passes
        passes += 1
        for number, chunk in enumerate(toy_tables(300, chunk_rows=100).impressions()):
            if passes == 3 and number == 2:  # columns, vocabularies, then encoding
                raise KeyboardInterrupt
            yield chunk

    whole = toy_tables(300)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "store", RawTables(whole.schema, impressions, whole.users, whole.items))
    assert passes == 3
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    first = prepared(folder, toy_tables(300))
    with pytest.raises(UnimixerError, match="store exists; choose another folder, or pass --overwrite to replace it"):
        prepared(folder, toy_tables(400))
    assert Dataset(folder).hash == first.hash
    second = prepared(folder, toy_tables(400), overwrite=True)
    assert Dataset(folder).hash == second.hash != first.hash
    with pytest.raises(UnimixerError, match="missing column"):
        prepared(folder, toy_tables(400, weight="w"), overwrite=True)
    assert Dataset(folder).hash == second.hash  # a failed replacement keeps the old dataset
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UnimixerError, match="is a folder with other files, not a prepared dataset, so it is not"):
        prepared(tmp_path, toy_tables(300), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """The operating system refuses to let a file grow beyond a limit, in a process of its own."""
    code = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from toy import toy_tables
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    prepare(toy_tables(2_000), Path(sys.argv[2]))
except UnimixerError as error:
    print(error, end="")
    sys.exit(2)
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == (
        f"{tmp_path / 'store'}: cannot write: the file grew over the allowed size; nothing half-written was left; "
        "raise the limit (ulimit -f) or choose another folder"
    )
    assert list(tmp_path.iterdir()) == []


def test_one_bar_after_the_other_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two live bars on one terminal would write over each other."""
    seen: list[str] = []

    @contextmanager
    def bar(description: str, total: int | None) -> Iterator[Any]:
        done = [0]
        seen.append(f"begin {description}")
        yield lambda rows, note="": done.append(rows)
        assert sum(done) == total == 300
        seen.append(f"end {description}")

    monkeypatch.setattr(passes, "progress_bar", bar)
    prepared(tmp_path / "store", toy_tables(300, split={"by": "quantile"}))
    names = ["reading times", "fitting vocabularies", "encoding"]
    assert seen == [f"{what} {name}" for name in names for what in ("begin", "end")]


def test_the_schema_of_the_small_world_is_the_one_that_is_stored(toy_dataset: Dataset) -> None:
    assert toy_dataset.manifest["name"] == SCHEMA["name"]
    assert [f.name for f in toy_dataset.transform.schema.features] == [f["name"] for f in SCHEMA["features"]]


def test_a_split_by_column_keeps_rows_of_no_part_as_events_and_takes_no_days(tmp_path: Path) -> None:
    log, users, items = toy_frames()
    parts = np.array(["train", "validation", "test", None], dtype=object)[np.arange(log.height) % 4]
    log = log.with_columns(part=pl.Series(list(parts), dtype=pl.String))
    dataset = prepared(
        tmp_path / "toy", tables_of(toy_schema(split={"by": "column", "column": "part"}), log, users, items)
    )
    counts = [int((parts == name).sum()) for name in SPLITS]
    assert [dataset.summary(split).rows for split in SPLITS] == counts
    past = sum(items_before.len() for items_before in users["past_items"].drop_nulls())
    clicks = dataset.transform.histories["clicks"].items.values
    assert len(clicks) == past + log["is_click"].sum()  # an event of no part is an event
    with pytest.raises(UnimixerError, match=r"no days can be appended, because column 'part' names the parts"):
        extend(dataset.folder, tables_of(dataset.transform.schema, log, users, items))
    with pytest.raises(UnimixerError, match=r"feature 'part' reads 'part', which names the parts of the split"):
        toy_schema(
            split={"by": "column", "column": "part"},
            features=[{"name": "part", "kind": "categorical", "domain": "context"}],
            histories=[],
        )
