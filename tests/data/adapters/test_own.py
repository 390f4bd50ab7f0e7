"""Own files: one file, a folder of parts, a folder with users and items."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from unimixer.data.adapters import open_raw
from unimixer.data.adapters.own import find_tables
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
