"""Replayed days: every day meets the models of the day before, as they were."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import tiny_recipe
from toy import day_tables

from unimixer.analysis.days import judge
from unimixer.analysis.significance import Difference, difference
from unimixer.data.dataset import Dataset
from unimixer.data.encoding.cut import cut, known_rows
from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.data.schema import OOV_ID, SPLITS
from unimixer.errors import UnimixerError
from unimixer.experiments.days import STRATEGIES, Replayed, replay_days
from unimixer.metrics import auc
from unimixer.predictor import Predictor
from unimixer.report.days import day_table, judgement_table, total_table, write_page
from unimixer.training.run import RunFolder
from unimixer.training.train import train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days, a copy of them, and the same dataset with three more days."""
    folder = tmp_path_factory.mktemp("world")
    prepare(day_tables(*range(6)), folder / "data")
    shutil.copytree(folder / "data", folder / "six-days")
    for day in (6, 7, 8):
        extend(folder / "data", day_tables(day))
    return folder


@pytest.fixture(scope="module")
def replayed(world: Path) -> list[Replayed]:
    return replay_days({"tiny": tiny_recipe(world / "data")}, Dataset(world / "data"), world / "out", seeds=2)


def test_a_cut_transform_encodes_a_later_day_as_the_earlier_one_did(world: Path) -> None:
    old, data = Dataset(world / "six-days").transform, Dataset(world / "data")
    before = cut(data.transform, data.days[0]["tables"])
    assert before.spec == old.spec
    assert {n: v.texts.to_list() for n, v in before.vocabularies.items()} == {
        n: v.texts.to_list() for n, v in old.vocabularies.items()
    }
    n = len(old.users)
    np.testing.assert_array_equal(before.users.ids[:n], old.users.ids)
    (chunk,) = day_tables(6).impressions()
    theirs = old.encode(chunk, labels=True)
    rows = [known_rows(before, part) for part in data.day_parts(1)]
    np.testing.assert_array_equal(np.concatenate([part.ids for part in rows]), theirs.ids)
    for name in theirs.lists:
        values = np.concatenate([part.lists[name].values for part in rows])
        np.testing.assert_array_equal(values, theirs.lists[name].values)
    assert (theirs.ids == OOV_ID).any()


def test_the_first_prediction_of_a_day_is_that_of_a_run_which_has_never_seen_later_days(
    world: Path, replayed: list[Replayed], tmp_path: Path
) -> None:
    """Without later days the same recipe trains the same weights, and scores the raw rows of the next day alike.

    Rows of a user after the first click of the day are left out: only the replay has its event in their history.
    """
    run = train(tiny_recipe(world / "six-days"), folder=tmp_path / "run", quiet=True)
    first = replayed[0]
    (chunk,) = day_tables(6).impressions()
    logits = Predictor(run.folder).logits(chunk)
    clicked = chunk.frame.select((pl.col("is_click").cum_sum() - pl.col("is_click")).over("user_id") > 0).to_series()
    same = ~clicked.to_numpy()
    assert same.sum() > 20
    np.testing.assert_allclose(first.logits[same], logits[same], atol=1e-6)
    assert first.rows == chunk.frame.height
    assert first.day == "2022-05-07"


def test_every_day_is_predicted_in_every_way_before_anything_trains_on_it(
    world: Path, replayed: list[Replayed]
) -> None:
    data = Dataset(world / "data")
    assert [(one.day, one.strategy) for one in replayed if one.seed == 0] == [
        (day, strategy) for day in ("2022-05-07", "2022-05-08", "2022-05-09") for strategy in STRATEGIES
    ]
    for number in (1, 2):
        daily, retrained = (
            RunFolder(world / "out" / "runs" / "tiny" / "seed0" / name / f"{number:05d}")
            for name in ("daily", "retrained")
        )
        hashes = [run.environment["data"]["hash"] for run in (daily, retrained)]
        assert hashes == [data.days[number]["hash"]] * 2
        known = Dataset(data.folder, at=hashes[0], transform=daily.folder / "transform")
        assert known.summary("test").last_time < min(part.times.min() for part in data.day_parts(number + 1))
        assert retrained.result is not None
        assert retrained.result["samples"] == known.summary("train").rows
    samples = {(one.day, one.strategy): one.samples for one in replayed if one.seed == 0}
    rows = [sum(d["splits"][split]["rows"] for split in SPLITS) for d in data.days]
    held = [sum(d["splits"][split]["rows"] for split in ("validation", "test")) for d in data.days]
    assert samples["2022-05-08", "daily"] == held[0] + rows[1] - held[1]
    assert samples["2022-05-08", "frozen"] == 0


def test_the_share_of_unknown_ids_grows_for_a_model_that_is_never_updated(replayed: list[Replayed]) -> None:
    last = {one.strategy: one.unknown for one in replayed if one.day == "2022-05-09" and one.seed == 0}
    assert last["daily"] == last["retrained"]
    assert last["frozen"]["ids"] > last["daily"]["ids"]
    assert last["frozen"]["items"] > 0 == last["daily"]["items"]


def test_a_second_call_keeps_what_is_there(
    world: Path, replayed: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimixer.experiments.days.train", None)
    monkeypatch.setattr("unimixer.experiments.days._score", None)
    recipes = {"tiny": tiny_recipe(world / "data")}
    again = replay_days(recipes, Dataset(world / "data"), world / "out", seeds=2)
    assert [one.metrics for one in again] == [one.metrics for one in replayed]
    other = {"tiny": tiny_recipe(world / "data", "optimizer.dense_lr=0.02")}
    with pytest.raises(UnimixerError, match="is the run of another recipe or other data; choose another --out"):
        replay_days(other, Dataset(world / "data"), world / "out")


def test_a_folder_of_other_recipes_other_data_or_other_files_is_refused(
    world: Path, replayed: list[Replayed], tmp_path: Path
) -> None:
    data, out = Dataset(world / "data"), world / "out"
    with pytest.raises(UnimixerError, match="out holds the replay of recipe 'tiny' too, and its tables would be lost"):
        replay_days({"other": tiny_recipe(world / "data", "name=other")}, data, out)
    other = extend(prepare(day_tables(*range(5)), tmp_path / "data").folder, day_tables(5))
    with pytest.raises(UnimixerError, match="is a replay of other data: its first days have content"):
        replay_days({"tiny": tiny_recipe(other.folder)}, other, out)
    for folder, kind in ((world / "six-days", "a prepared dataset"), (tmp_path, "not empty")):
        with pytest.raises(UnimixerError, match=f"is {kind} and no replay of days; choose another --out"):
            replay_days({"tiny": tiny_recipe(world / "data")}, data, folder)
        assert not (folder / "replay.json").exists()


def test_a_second_call_after_more_days_scores_them_as_one_call_would(world: Path, tmp_path: Path) -> None:
    """New days bring users and events that the transform of the first run does not have."""
    folder = Path(shutil.copytree(world / "six-days", tmp_path / "data"))
    recipes = {"tiny": tiny_recipe(folder)}
    for days in ([6], [7, 8], [9]):  # day 8 has a new user
        extend(folder, day_tables(*days))
        replayed = replay_days(recipes, Dataset(folder), tmp_path / "out", strategies=["frozen"])
    assert len(replayed) == 3
    once = replay_days(recipes, Dataset(folder), tmp_path / "once", strategies=["frozen"])
    np.testing.assert_allclose(replayed[-1].logits, once[-1].logits, atol=1e-6)


def test_rows_of_a_sampled_log_count_as_in_evaluate(tmp_path: Path) -> None:
    labels = [{"name": "is_click", "negative_sampling_rate": 0.5, "presampled": True}]
    folder = prepare(day_tables(*range(6), labels=labels), tmp_path / "data").folder
    extend(folder, day_tables(6, labels=labels))
    recipes = {"tiny": tiny_recipe(folder)}
    (one,) = replay_days(recipes, Dataset(folder), tmp_path / "out", strategies=["frozen"])
    weights = np.where(one.labels[:, 0] > 0, 1.0, 2.0)
    expected = (weights / (1 + np.exp(-one.logits[:, 0]))).sum() / one.labels.sum()
    assert one.metrics["is_click"]["calibration"] == pytest.approx(expected, rel=1e-5)


def test_a_dataset_without_appended_days_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="has no appended days to replay"):
        replay_days({"tiny": tiny_recipe(world / "six-days")}, Dataset(world / "six-days"), tmp_path / "out")


def test_a_day_with_one_class_is_refused_before_anything_trains(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "six-days", tmp_path / "data"))
    tables = day_tables(6)
    (chunk,) = tables.impressions()
    nobody = replace(chunk, frame=chunk.frame.with_columns(is_click=pl.lit(0)))
    extend(folder, replace(tables, impressions=lambda: iter([nobody])))
    with pytest.raises(UnimixerError, match=r"label 'is_click' is 0 in all \d+ rows of 2022-05-07, so no"):
        replay_days({"tiny": tiny_recipe(folder)}, Dataset(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    other = {"tiny": tiny_recipe(folder, "tasks.long_view=1.0")}
    assert replay_days(other, Dataset(folder), tmp_path / "out", strategies=["frozen"])[0].metrics.keys() == {
        "long_view"
    }


@pytest.mark.parametrize(("users", "drawn"), [([-1, -2, 5, 5, 6, 6], 2 * 2 + 2), (None, 2 * 6)])
def test_rows_without_a_user_are_drawn_alone_on_every_day(
    users: list[int] | None, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: dict[str, int] = {}

    def difference_of(*arguments: Any, num_users: int) -> Difference:
        counted.setdefault("auc", num_users)
        return difference(*arguments, num_users=num_users)

    monkeypatch.setattr("unimixer.analysis.days.difference", difference_of)
    labels, logits = np.array([[0], [1]] * 3, dtype=np.float32), np.arange(6, dtype=np.float32)[:, None]
    keys = None if users is None else np.array(users)
    two_days: Any = [SimpleNamespace(logits=logits, labels=labels, users=keys)] * 2
    model = ("tiny", "daily")
    judge({model: {0: two_days}}, [(model, model)], ["y"], replicates=5)
    assert counted == {"auc": drawn}


def test_models_are_judged_by_their_mean_over_the_days(replayed: list[Replayed], tmp_path: Path) -> None:
    days: dict[Any, Any] = {}
    for one in replayed:
        days.setdefault((one.recipe, one.strategy), {}).setdefault(one.seed, []).append(one)
    daily, frozen = ("tiny", "daily"), ("tiny", "frozen")
    pairs = [(daily, frozen), (daily, daily)]
    found = judge(days, pairs, ["is_click", "long_view"], replicates=20)
    assert len(found) == 2 * 3 * 2
    same = [one for one in found if one.base == daily]
    assert all(one.compared.estimate == 0 and one.conclusion == "inconclusive" for one in same)
    expected = np.mean(
        [
            auc(ours.logits[:, 0], ours.labels[:, 0]) - auc(theirs.logits[:, 0], theirs.labels[:, 0])
            for seed in (0, 1)
            for ours, theirs in zip(days[daily][seed], days[frozen][seed], strict=True)
        ]
    )
    assert found[0].compared.estimate == pytest.approx(expected)
    assert found[0].holm is not None
    assert len(day_table(replayed).rows) == 3 * 3 * 2
    assert len(total_table(replayed).rows) == 3 * 2
    page = write_page(replayed, found, tmp_path).read_text()
    assert judgement_table(found).markdown() in page
