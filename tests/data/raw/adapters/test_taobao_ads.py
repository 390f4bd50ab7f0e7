"""The ads of Taobao on made files of their layout: the published header, missing values, behavior before the log."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw, taobao_ads
from unimixer.data.schema import SPLITS
from unimixer.data.split_settings import DateSplit
from unimixer.errors import UnimixerError


def at(day: int, hour: int = 0, month: int = 5) -> int:
    """A time of Shanghai, in seconds."""
    return int((datetime(2017, month, day, hour, tzinfo=UTC) - timedelta(hours=8)).timestamp())


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two impressions a day of users 1 and 2, the later day first; user 3 has behavior only."""
    days = [(day, row) for day in range(13, 5, -1) for row in range(2)]
    rows = [f"{1 + row},{at(day, row)},{10 + row},430548_1007,{1 - row},{row}" for day, row in days]
    (tmp_path / "raw_sample.csv").write_text("\n".join(["user,time_stamp,adgroup_id,pid,nonclk,clk", *rows]) + "\n")
    (tmp_path / "ad_feature.csv").write_text(
        "adgroup_id,cate_id,campaign_id,customer,brand,price\n10,5,100,1000,NULL,9.9\n11,6,101,1001,7,19.0\n"
    )
    (tmp_path / "user_profile.csv").write_text(
        "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
        "new_user_class_level \n1,0,5,2,5,,3,0,3\n2,0,5,1,5,2,3,0,\n"
    )
    return tmp_path


def with_behavior(raw: Path) -> Path:
    rows = [f"1,{at(day, month=4)},pv,{day},{100 + day}" for day in (25, 23, 24)]
    rows += [f"1,{at(6)},buy,99,99", f"3,{at(5, 23)},cart,7,8"]
    (raw / "behavior_log.csv").write_text("\n".join(["user,time_stamp,btag,cate,brand", *rows]) + "\n")
    return raw


def test_days_are_those_of_shanghai_and_the_last_one_tests(raw: Path, tmp_path: Path) -> None:
    tables = open_raw("taobao-ads", raw, min_count=1)
    assert tables.schema.split == DateSplit(validation=date(2017, 5, 12), test=date(2017, 5, 13))
    dataset = prepare(tables, tmp_path / "store")
    assert [dataset.summary(split).rows for split in SPLITS] == [12, 2, 2]
    with pytest.raises(UnimixerError, match=r"taobao-ads: validation=2017-05-13 must be before test=2017-05-13"):
        open_raw("taobao-ads", raw, validation="2017-05-13")


def test_the_space_in_the_published_header_and_the_missing_values_are_read(raw: Path) -> None:
    tables = open_raw("taobao-ads", raw)
    assert tables.users is not None
    assert tables.users.frame.select("user", "new_user_class_level").rows() == [("1", "3"), ("2", "")]
    brand = next(feature for feature in tables.schema.features if feature.name == "brand")
    assert "NULL" in brand.missing
    columns = {feature.column for feature in tables.schema.features}
    assert not columns & {"clk", "nonclk"}


@pytest.mark.parametrize("kept_rows", [1, 4_000_000])
def test_behavior_before_the_log_becomes_lists_of_the_users(
    raw: Path, monkeypatch: pytest.MonkeyPatch, kept_rows: int
) -> None:
    monkeypatch.setattr(taobao_ads, "KEPT_ROWS", kept_rows)
    tables = open_raw("taobao-ads", with_behavior(raw), max_length=2)
    assert tables.users is not None
    assert tables.users.frame.select("user", "past_cates", "past_brands").rows() == [
        ("1", ["24", "25"], ["124", "125"]),  # the oldest is cut off, and the first day of the log is too late
        ("2", None, None),
        ("3", ["7"], ["8"]),
    ]
    tables_of = {feature.name: feature.table_name for feature in tables.schema.features if feature.kind == "sequence"}
    assert (tables_of["past_cates"], tables_of["past_brands"]) == ("cate_id", "brand")
    assert [file.name for file in tables.files][-1] == "behavior_log.csv"


def test_the_behavior_log_is_optional_and_its_absence_is_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_raw("taobao-ads", raw)
    assert "no behavior_log.csv; the users have no past categories and brands" in capsys.readouterr().err
    with pytest.raises(UnimixerError, match=r"no the behavior of the users|no .*looked for behavior_log.csv"):
        open_raw("taobao-ads", raw, behavior=True)
    names = {feature.name for feature in open_raw("taobao-ads", with_behavior(raw), behavior=False).schema.features}
    assert "past_cates" not in names
    with (raw / "behavior_log.csv").open("a") as log:
        log.write("1,noon,pv,1,1\n")
    with pytest.raises(UnimixerError, match=r"behavior_log.csv, row 6: time_stamp='noon' is not a number of seconds"):
        open_raw("taobao-ads", raw)
