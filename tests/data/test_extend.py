"""Appending days: old parts and rows stay, new ones follow the schema, and a day has one place."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from own_process import script
from test_prepare import contents
from toy import DAY, QUANTILES, START, day_tables, tables_of, toy_frames, toy_schema

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.arrays import window_positions
from unimixer.data.encoding.rows import Rows
from unimixer.data.extend import extend, open_days
from unimixer.data.prepare import prepare
from unimixer.data.schema import FIRST_ID, SPLITS
from unimixer.errors import UnimixerError

FIRST_DAYS, LAST_DAY = 6, 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(day_tables(*range(FIRST_DAYS)), tmp_path_factory.mktemp("base") / "toy").folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """A copy of six days."""
    return Path(shutil.copytree(base, tmp_path / "toy"))


@pytest.fixture(scope="module")
def grown(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten days: six that were prepared, and four that were appended."""
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("grown") / "toy"))
    for day in range(FIRST_DAYS, LAST_DAY):
        extend(folder, day_tables(day))
    return Dataset(folder)


def rows_of(dataset: Dataset) -> Rows:
    """All rows in the order of the log."""
    rows = Rows.concatenate([part for split in SPLITS for part in dataset.parts(split)])
    return rows.take(np.argsort(rows.times, kind="stable"))


def past_of(dataset: Dataset) -> list[list[str]]:
    """The keys of the items that the history of every row shows."""
    window = rows_of(dataset).windows["clicks"]
    positions, offsets = window_positions(window[:, 0], window[:, 1])
    keys = np.array(["missing", "unknown", *dataset.transform.items.index.keys])
    items = keys[dataset.transform.histories["clicks"].items_at(positions)]
    return [part.tolist() for part in np.split(items, offsets[1:-1])]


# ---- rows, histories, vocabularies --------------------------------------------------------------------------------


def test_rows_and_histories_of_appended_days_are_those_of_one_preparation(grown: Dataset, tmp_path: Path) -> None:
    whole = prepare(day_tables(*range(LAST_DAY)), tmp_path / "whole")
    ours, theirs = rows_of(grown), rows_of(whole)
    np.testing.assert_array_equal(ours.times, theirs.times)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    for mine, other in ((ours.users, theirs.users), (ours.items, theirs.items)):
        np.testing.assert_array_equal(mine, other)  # the tables of the days give both the same order of keys
    assert past_of(grown) == past_of(whole)
    assert max(map(len, past_of(grown))) == 5


def test_raw_rows_of_every_day_have_the_past_that_training_read(grown: Dataset) -> None:
    """Segments repeat the last events of a user alone, so old rows need old segments."""
    transform = grown.transform
    keys = transform.items.index.keys

    def past(rows: Rows) -> list[list[str]]:
        positions, offsets = window_positions(*rows.windows["clicks"].T)
        items = transform.histories["clicks"].items_at(positions)
        return [[keys[int(item) - FIRST_ID] for item in part] for part in np.split(items, offsets[1:-1])]

    for number, days in enumerate([range(FIRST_DAYS), *([day] for day in range(FIRST_DAYS, LAST_DAY))]):
        (chunk,) = day_tables(*days).impressions()
        stored = Rows.concatenate(list(grown.day_parts(number)))
        assert past(transform.encode(chunk, labels=True)) == past(stored)


def test_old_parts_and_old_rows_of_tables_stay_as_they_are(base: Path, grown: Dataset) -> None:
    before, after = contents(base), contents(grown.folder)
    parts = [name for name in before if name.endswith(".arrow") and name.split("/")[0] in SPLITS]
    assert len(parts) == 3
    assert {name: after[name] for name in parts} == {name: before[name] for name in parts}
    old = Dataset(base).transform
    assert old.numerics == grown.transform.numerics
    for name, vocabulary in old.vocabularies.items():
        texts = grown.transform.vocabularies[name].texts
        assert texts.head(len(vocabulary.texts)).to_list() == vocabulary.texts.to_list()
        assert texts.is_unique().all()
    assert "late" in grown.transform.vocabularies["tab"].texts.to_list()
    assert "late" not in old.vocabularies["tab"].texts.to_list()


def test_the_newest_day_is_held_out_at_its_end_and_trains_with_the_next(folder: Path) -> None:
    base = Dataset(folder)
    sixth = extend(folder, day_tables(6), hold_out=0.5)
    counts = [sixth.summary(split).rows for split in SPLITS]
    old, new = sum(base.summary(split).rows for split in SPLITS), day_tables(6).num_rows
    assert sum(counts) == old + new
    assert counts[0] - old == pytest.approx(new / 2, abs=3)
    assert counts[1] == pytest.approx(new / 4, abs=3)
    assert sixth.summary("train").last_time < sixth.summary("validation").first_time
    assert sixth.summary("validation").last_time < sixth.summary("test").first_time
    seventh = extend(folder, day_tables(7), hold_out=1)
    assert seventh.summary("train").rows == old + new
    assert seventh.summary("test").first_time > seventh.summary("train").last_time


def one_column(days: list[list[str]], policy: dict[str, Any]) -> list[list[str]]:
    """Texts of a vocabulary after each day; all rows of a day but the last two train on that day."""
    schema = {
        "name": "one",
        "keys": {"time": "t", "time_format": "ms"},
        "labels": [{"name": "y"}],
        "histories": [],
        "split": QUANTILES,
        "features": [{"name": "x", "kind": "categorical", "domain": "context", "vocabulary": policy}],
    }
    known: list[list[str]] = []
    for number, values in enumerate(days):
        n = len(values)
        times = START + 8 * 3_600_000 + number * DAY + np.arange(n) * 1_000
        log = pl.DataFrame({"x": values, "t": times, "y": [i % 2 for i in range(n)]})
        tables = tables_of(toy_schema(**schema) if not known else Dataset("one").transform.schema, log)
        dataset = extend("one", tables, hold_out=2 / n) if known else prepare(tables, "one")
        known.append(dataset.transform.vocabularies["x"].texts.to_list())
    return known


def test_a_value_gets_a_row_when_the_rows_that_train_have_shown_it_often_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    days = [
        ["a", "a", "b", "a", "a", "a", "a", "a", "c", "d"],  # c and d are held out
        ["b", "c", "e", "e", "e", "a", "a", "a", "d", "f"],  # b 2, c 2, e 3; d 1 trains now, d 1 is held out
        ["a", "a", "a", "a", "a", "a", "a", "a", "f", "g"],  # d 2
    ]
    assert one_column(days, {"min_count": 2}) == [["a"], ["a", "e", "b", "c"], ["a", "e", "b", "c", "d"]]
    shutil.rmtree("one")
    assert one_column(days, {"min_count": 2, "max_size": 3}) == [["a"], ["a", "e", "b"], ["a", "e", "b"]]
    shutil.rmtree("one")
    assert one_column(days, {"policy": "hash", "num_buckets": 4}) == [[], [], []]
    assert Dataset("one").transform.spec.tables == {"x": 4 + FIRST_ID}


def test_a_day_without_tables_brings_new_keys_and_leaves_known_features(folder: Path) -> None:
    before = Dataset(folder).transform
    log, _, _ = toy_frames()
    new = log.head(40).with_columns(
        pl.Series("user_id", ["u1", "someone"] * 20),
        pl.Series("time_ms", START + 6 * DAY + np.arange(40) * 1_000),
        pl.Series("is_click", [0, 1] * 20),
    )
    after = extend(folder, tables_of(before.schema, new)).transform
    row = int(after.users.index.lookup(pl.Series(["someone"]))[0])
    assert row == len(before.users)
    assert np.isnan(after.users.dense[row]).all()
    assert after.vocabularies["user_id"].texts.to_list()[-1] == "someone"
    assert after.users.ids[row, 0] == before.spec.tables["user_id"]
    np.testing.assert_array_equal(after.users.dense[:row], before.users.dense)


def test_a_table_that_lacks_a_column_is_refused_and_erases_nothing(folder: Path) -> None:
    before, tables = contents(folder), day_tables(6)
    assert tables.items is not None
    items = replace(tables.items, frame=tables.items.frame.drop("price"))
    with pytest.raises(UnimixerError, match="missing column 'price'"):
        extend(folder, replace(tables, items=items))
    after = contents(folder)
    after.pop(".lock", None)
    assert after == before


# ---- the chain of days ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ([5], "the day 2022-05-06 is there already; its last day is 2022-05-06, so append rows of 2022-05-07 on"),
        ([5, 6], "the day 2022-05-06 is there already"),
        ([7], "the day 2022-05-07 is missing: the last day is 2022-05-06, and the new rows are of 2022-05-08"),
        ([6, 8], "the day 2022-05-08 is missing"),
        ([], "the log of the new days has no rows"),
    ],
)
def test_a_day_twice_or_missing_is_refused_by_name(folder: Path, days: list[int], message: str) -> None:
    before = contents(folder)
    with pytest.raises(UnimixerError) as error:
        extend(folder, day_tables(*days))
    assert message in str(error.value)
    after = contents(folder)
    after.pop(".lock", None)
    assert after == before


def test_a_day_before_the_first_is_refused(tmp_path: Path) -> None:
    folder = prepare(day_tables(3, 4, 5, 6), tmp_path / "toy").folder
    with pytest.raises(UnimixerError, match="2022-05-02 lies before its first day 2022-05-04"):
        extend(folder, day_tables(1))


def test_a_dataset_of_sampled_negatives_is_refused_unless_the_log_was_sampled(tmp_path: Path) -> None:
    """Held-out rows keep all negatives; as training rows they would be taken for a sample."""
    label = {"name": "is_click", "negative_sampling_rate": 0.5}
    folder = prepare(day_tables(*range(6), labels=[label]), tmp_path / "toy").folder
    with pytest.raises(UnimixerError, match="label 'is_click' has negative_sampling_rate"):
        extend(folder, day_tables(6, labels=[label]))
    label["presampled"] = True
    folder = prepare(day_tables(*range(6), labels=[label]), tmp_path / "sampled").folder
    assert len(extend(folder, day_tables(6, labels=[label])).days) == 2


def test_the_hash_of_a_day_covers_the_days_before(grown: Dataset, tmp_path: Path) -> None:
    hashes = [day["hash"] for day in grown.days]
    assert len(set(hashes)) == 5
    assert hashes[-1] == grown.hash
    copy = Path(shutil.copytree(grown.folder, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["days"][1]["splits"]["train"]["parts"][0]["crc32"] = "00000000"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnimixerError, match="damaged: the hash of 2022-05-07 differs"):
        Dataset(copy)


def test_an_extended_dataset_shows_itself_as_it_was(base: Path, grown: Dataset) -> None:
    old = Dataset(base)
    view = Dataset(grown.folder, at=old.hash, transform=base / "transform")
    assert view.hash == old.hash
    for split in SPLITS:
        assert view.summary(split) == old.summary(split)
        for ours, theirs in zip(view.parts(split), old.parts(split), strict=True):
            batches = view.transform.batch(ours), old.transform.batch(theirs)
            assert batches[0].sparse_ids.equal(batches[1].sparse_ids)
    with pytest.raises(UnimixerError, match="never had abc"):
        Dataset(grown.folder, at="abc")


def test_only_folders_of_unfinished_days_are_removed(folder: Path) -> None:
    for name in ("00001", ".00001.77.tmp", "notes"):
        (folder / "days" / name).mkdir(parents=True)
    (folder / "days" / ".DS_Store").touch()
    extend(folder, day_tables(6))
    assert {path.name for path in (folder / "days").iterdir()} == {"00001", "notes", ".DS_Store"}
    assert (folder / "days" / "00001" / "transform").is_dir()


def test_data_prepared_without_counts_of_unknown_values_is_refused(folder: Path) -> None:
    (folder / "pending.arrow").unlink()
    with pytest.raises(UnimixerError, match="prepare it again to append days"):
        extend(folder, day_tables(6))


def test_events_of_earlier_days_are_linked_and_not_written_again(grown: Dataset) -> None:
    newest, before = (grown.folder / "days" / number / "transform" for number in ("00004", "00003"))
    names = [f"history{number}.clicks.arrow" for number in ("", "-00001", "-00002", "-00003")]
    assert [(newest / name).samefile(before / name) for name in names] == [True] * 4
    assert sorted(path.name for path in (grown.folder / "days" / "00001").iterdir()) == sorted(SPLITS)


# ---- killed ---------------------------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from unimixer.data import extend as module
from unimixer.data.dataset import Dataset
target, stop = Path(sys.argv[1]), sys.argv[2]
original = getattr(module, stop)
def stopped(*args, **options):
    if stop == "encode":
        original(*args, **options)
    print("here", flush=True)
    import time
    time.sleep(60)
setattr(module, stop, stopped)
tables, origin = module.open_days(Dataset(target), Path(sys.argv[3]))
module.extend(target, tables, origin=origin)
"""


@pytest.mark.parametrize("stop", ["encode", "write_text"])
def test_a_killed_call_leaves_the_dataset_and_can_be_run_again(folder: Path, tmp_path: Path, stop: str) -> None:
    raw = tmp_path / "day"
    raw.mkdir()
    tables = day_tables(6)
    pl.concat([chunk.frame for chunk in tables.impressions()]).write_parquet(raw / "impressions.parquet")
    tables.users.frame.write_parquet(raw / "users.parquet")
    tables.items.frame.write_parquet(raw / "items.parquet")
    before = Dataset(folder)
    with script(KILLED, folder, stop, raw) as process:
        assert process.stdout.readline() == "here\n"
        time.sleep(0.1)
        process.kill()
    after = Dataset(folder)
    assert after.hash == before.hash
    assert [after.summary(split) for split in SPLITS] == [before.summary(split) for split in SPLITS]
    appended, origin = open_days(after, raw)
    again = extend(folder, appended, origin=origin)
    assert again.days[-1]["last"] == "2022-05-07"
    assert [path.name for path in (folder / "days").iterdir()] == ["00001"]
    assert sum(again.summary(split).rows for split in SPLITS) == len(rows_of(again))
