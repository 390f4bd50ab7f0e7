"""Own files: one file, a folder of parts, a folder with users and items."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from unimixer.data.encoding.layout import resolve
from unimixer.data.file_settings import Files
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.adapters.own import find_tables
from unimixer.errors import UnimixerError

SCHEMA = """
name: shop
keys: {user: user}
labels: [{name: click}]
features: [{name: user, kind: categorical, domain: user}, {name: age, kind: numeric, domain: user}]
"""
LOG = pl.DataFrame({"user": [1, 2], "click": [0, 1]})


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    (tmp_path / "shop.yaml").write_text(SCHEMA)
    return tmp_path / "shop.yaml"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def names(raw: Path) -> tuple[list[str], str | None, str | None]:
    impressions, users, items = find_tables(raw)
    return [p.name for p in impressions], users and users.name, items and items.name


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_one_file_of_impressions_is_enough(schema: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"log.{suffix}"
    LOG.write_csv(file) if suffix == "csv" else LOG.write_parquet(file)
    tables = open_raw(str(schema), file)
    [chunk] = tables.impressions()
    assert chunk.frame.height == 2
    assert tables.users is None
    assert tables.schema.name == "shop"


def test_a_folder_of_parts_is_one_log_in_natural_order(raw: Path) -> None:
    for name in ("day-10.parquet", "day-9.parquet", "_SUCCESS", "notes.md"):
        (raw / name).touch()
    assert names(raw) == (["day-9.parquet", "day-10.parquet"], None, None)


def test_users_and_items_stand_beside_the_parts_or_beside_impressions(raw: Path) -> None:
    for name in ("a.csv", "users.csv", "items.parquet"):
        (raw / name).touch()
    assert names(raw) == (["a.csv"], "users.csv", "items.parquet")
    (raw / "impressions.csv.gz").touch()
    assert names(raw) == (["impressions.csv.gz"], "users.csv", "items.parquet")
    (raw / "impressions").mkdir()
    (raw / "impressions" / "p.parquet").touch()
    with pytest.raises(UnimixerError, match=r"impressions and impressions.csv.gz both hold impressions; keep one"):
        names(raw)
    (raw / "impressions.csv.gz").unlink()
    assert names(raw) == (["p.parquet"], "users.csv", "items.parquet")


def test_entity_tables_are_read_whole(schema: Path, raw: Path) -> None:
    LOG.write_parquet(raw / "impressions.parquet")
    pl.DataFrame({"user": [1, 2], "age": [30, 40]}).write_csv(raw / "users.csv", separator=";")
    tables = open_raw(str(schema), raw, separator=";")
    assert tables.users is not None
    assert tables.users.frame.rows() == [("1", "30"), ("2", "40")]
    assert tables.files == (raw / "impressions.parquet", raw / "users.csv")
    assert tables.users.at(1) == f"{raw / 'users.csv'}, row 2"


def test_a_folder_without_impressions_is_an_error(schema: Path, raw: Path) -> None:
    with pytest.raises(UnimixerError, match=r"no impressions; looked for .*, found an empty folder"):
        open_raw(str(schema), raw)
    (raw / "users.csv").touch()
    with pytest.raises(UnimixerError, match=r"only users and items, no impressions"):
        open_raw(str(schema), raw)
    (raw / "users.parquet").touch()
    with pytest.raises(UnimixerError, match=r"both hold users; keep one"):
        open_raw(str(schema), raw)


def test_no_raw_files_and_an_unknown_option_are_errors(schema: Path) -> None:
    with pytest.raises(UnimixerError, match=r"describes own files, but none was given"):
        open_raw(str(schema))
    with pytest.raises(UnimixerError, match=r"unknown option 'seperator'; did you mean 'separator'"):
        open_raw(str(schema), seperator=";")


def test_what_is_given_besides_the_schema_wins_and_stays_with_the_dataset(schema: Path, tmp_path: Path) -> None:
    schema.write_text(SCHEMA + 'files: {separator: ";", quote: ""}\nsplit: {by: random, validation: 0.2, test: 0.2}\n')
    frame = pl.DataFrame({"user": range(100), "age": range(100), "click": [i % 2 for i in range(100)]})
    frame.write_csv(tmp_path / "log.csv", separator="|")
    tables = open_raw(str(schema), tmp_path / "log.csv", separator="|")
    dataset = prepare(tables, tmp_path / "store")
    assert dataset.transform.schema.files == Files(separator="|", quote="")
    with pytest.raises(UnimixerError, match=r"missing column 'user'.*the first line holds '\|'"):
        next(open_raw(str(schema), tmp_path / "log.csv").impressions())


def test_columns_that_nothing_reads_are_not_read_and_still_suggested(schema: Path, raw: Path) -> None:
    LOG.with_columns(agee=1, unused=2).write_parquet(raw / "log.parquet")
    pl.DataFrame({"user": [1, 2], "age": [3, 4], "more": [5, 6]}).write_parquet(raw / "users.parquet")
    tables = open_raw(str(schema), raw)
    [chunk] = tables.impressions()
    assert chunk.frame.columns == ["user", "click"]
    assert tables.users is not None
    assert tables.users.frame.columns == ["user", "age"]
    (raw / "users.parquet").unlink()
    with pytest.raises(UnimixerError, match=r"feature 'age': no column 'age' in .*did you mean 'agee'"):
        resolve(open_raw(str(schema), raw))


def test_users_may_be_a_folder_but_not_a_folder_and_a_file(schema: Path, raw: Path) -> None:
    LOG.write_parquet(raw / "log.parquet")
    (raw / "users").mkdir()
    for part, user in enumerate((1, 2)):
        pl.DataFrame({"user": [user], "age": [user * 10]}).write_parquet(raw / "users" / f"part-{part}.parquet")
    tables = open_raw(str(schema), raw)
    assert tables.users is not None
    assert tables.users.frame.rows() == [(1, 10), (2, 20)]
    assert [chunk.frame.height for chunk in tables.impressions()] == [2]
    (raw / "users.csv").write_text("user,age\n1,10\n")
    with pytest.raises(UnimixerError, match=r"users and users.csv both hold users; keep one"):
        open_raw(str(schema), raw)


def test_parts_below_the_folder_and_their_partitions_are_one_log(schema: Path, raw: Path) -> None:
    schema.write_text(SCHEMA.replace("{name: age, kind: numeric", "{name: day, kind: categorical"))
    for day, user in (("2", 1), ("10", 2)):
        (raw / f"day={day}" / "hour=0").mkdir(parents=True)
        pl.DataFrame({"user": [user], "click": [0]}).write_parquet(raw / f"day={day}" / "hour=0" / "p.parquet")
    frames = [chunk.frame for chunk in open_raw(str(schema), raw).impressions()]
    assert pl.concat(frames).rows() == [(1, 0, "2"), (2, 0, "10")]


def test_parts_that_type_a_column_differently_are_one_vocabulary(schema: Path, raw: Path) -> None:
    schema.write_text(SCHEMA.replace(", {name: age, kind: numeric, domain: user}", "") + "split: {by: random}\n")
    users, clicks = list(range(100)), [i // 7 % 2 for i in range(100)]
    for part, dtype in enumerate((pl.Int64, pl.String, pl.Float64)):
        frame = pl.DataFrame({"user": pl.Series(users).cast(dtype), "click": clicks})
        frame.write_parquet(raw / f"part-{part}.parquet")
    dataset = prepare(open_raw(str(schema), raw), raw.parent / "store")
    assert sorted(dataset.transform.users.index.keys.to_list(), key=int) == [str(user) for user in users]


def test_files_beside_the_impressions_are_said_not_to_be_read(
    schema: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LOG.write_parquet(raw / "impressions.parquet")
    LOG.write_parquet(raw / "old.parquet")
    assert names(raw) == (["impressions.parquet"], None, None)
    assert capsys.readouterr().err == f"note: {raw}: not read: old.parquet\n"
