"""The Open Bandit Dataset on made files of its layout: policies, campaigns, propensities, the affinity of one item."""

from __future__ import annotations

from pathlib import Path

import pytest

from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two policies of two campaigns with three items; user 0 of a campaign likes item 1."""
    for policy in ("random", "bts"):
        for campaign in ("all", "men"):
            folder = tmp_path / "open_bandit_dataset" / policy / campaign
            folder.mkdir(parents=True)
            users = ",".join(f"user_feature_{i}" for i in range(4))
            affinities = ",".join(f"user-item_affinity_{i}" for i in range(3))
            lines = [f",timestamp,item_id,position,click,propensity_score,{users},{affinities}"]
            for row in range(20):
                time = f"2019-11-{24 + row // 10} 00:0{row % 10}:03.979311+00:00"
                lines.append(f"{row},{time},{row % 3},{1 + row % 3},{row % 2},0.33,a,b,c,d{row % 2},0.0,2.0,0.0")
            (folder / f"{campaign}.csv").write_text("\n".join(lines) + "\n")
            items = [f"{i},{i},-0.{i},{policy}x,y,z" for i in range(3)]
            header = ",item_id," + ",".join(f"item_feature_{i}" for i in range(4))
            (folder / "item_context.csv").write_text("\n".join([header, *items]) + "\n")
    return tmp_path


def test_the_log_of_a_policy_has_propensities_and_the_affinity_of_the_item_that_was_shown(raw: Path) -> None:
    tables = open_raw("open-bandit", raw)
    [chunk] = tables.impressions()
    assert chunk.source.endswith("random/all/all.csv")
    assert chunk.frame.select("item_id", "propensity_score", "affinity").rows()[:3] == [
        ("0", "0.33", "0.0"),
        ("1", "0.33", "2.0"),
        ("2", "0.33", "0.0"),
    ]
    assert "propensity_score" not in {feature.column for feature in tables.schema.features}
    assert [file.name for file in tables.files] == ["all.csv", "item_context.csv"]


def test_policy_and_campaign_are_chosen_and_the_dataset_is_prepared(raw: Path, tmp_path: Path) -> None:
    tables = open_raw("open-bandit", raw, policy="bts", campaign="men", min_count=1)
    assert tables.items is not None
    assert tables.items.frame.get_column("item_feature_1").to_list() == ["btsx"] * 3
    dataset = prepare(tables, tmp_path / "store")
    assert [dataset.summary(split).rows for split in SPLITS] == [16, 2, 2]
    assert tables.schema.keys.user is None


def test_a_policy_that_is_not_there_and_an_item_without_affinity_are_named(raw: Path) -> None:
    with pytest.raises(UnimixerError, match=r"looked for random/women/women.csv, found open_bandit_dataset"):
        open_raw("open-bandit", raw, campaign="women")
    log = raw / "open_bandit_dataset" / "random" / "all" / "all.csv"
    log.write_text(log.read_text().replace("+00:00,2,", "+00:00,3,", 1))
    with pytest.raises(UnimixerError, match=r"all.csv, row 3: item_id='3' is not the number of an item; the log has 3"):
        list(open_raw("open-bandit", raw).impressions())
