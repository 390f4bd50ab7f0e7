"""Avazu: time in hours, and a user that must be made up."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import pytest

from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.times import as_time
from unimixer.data.split_settings import DateSplit, QuantileSplit
from unimixer.errors import UnimixerError

HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21\n"
)
LINE = (
    "1000009418151094273,0,14102123,1005,0,1f,f3,28,ec,77,07,a99f214a,ddd2926e,44956a24,1,2,"
    "15706,320,50,1722,0,35,-1,79\n"
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(HEADER + LINE * 2)
    return tmp_path


def test_the_time_is_an_hour_of_a_day_in_october(raw: Path) -> None:
    tables = open_raw("avazu", raw)
    [chunk] = tables.impressions()
    assert as_time(chunk, tables.schema.keys).tolist() == [1_413_932_400_000] * 2  # 2014-10-21 23:00 UTC
    assert [str(file) for file in tables.files] == [chunk.source]


def test_there_is_no_user_unless_one_is_made(raw: Path) -> None:
    assert open_raw("avazu", raw).schema.keys.user is None
    expected = {"device_id": "a99f214a", "device_ip": "ddd2926e", "device": "a99f214a/ddd2926e/44956a24"}
    for option, user in expected.items():
        tables = open_raw("avazu", raw, user=option)
        [chunk] = tables.impressions()
        assert tables.schema.keys.user == "user"
        assert chunk.frame.get_column("user").to_list() == [user] * 2


def test_the_split_is_by_quantile_or_by_date(raw: Path) -> None:
    assert open_raw("avazu", raw).schema.split == QuantileSplit()
    expected = DateSplit(validation=date(2014, 10, 28), test=date(2014, 10, 30))
    assert open_raw("avazu", raw, split="date", validation="2014-10-28").schema.split == expected
    with pytest.raises(UnimixerError, match=r"validation=2014-10-31 must be before test=2014-10-30"):
        open_raw("avazu", raw, validation="2014-10-31")


def test_every_column_but_the_row_number_and_the_click_is_a_feature(raw: Path) -> None:
    columns = {f.column for f in open_raw("avazu", raw).schema.features}
    assert columns == {*HEADER.strip().split(","), "time"} - {"id", "click", "hour"}


def test_a_file_without_a_column_is_an_error(raw: Path) -> None:
    (raw / "train.csv").write_text(HEADER.replace("C14", "c_14") + LINE)
    with pytest.raises(UnimixerError, match=r"train.csv: missing column 'C14'"):
        list(open_raw("avazu", raw).impressions())


def test_the_file_as_it_is_downloaded_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.gz").write_bytes(gzip.compress((HEADER + LINE * 3).encode()))
    assert sum(chunk.frame.height for chunk in open_raw("avazu", tmp_path).impressions()) == 3
    (tmp_path / "train.csv").write_text(HEADER + LINE * 3)
    with pytest.raises(UnimixerError, match=r"train.csv and train.gz seem to hold the same rows"):
        open_raw("avazu", tmp_path)
