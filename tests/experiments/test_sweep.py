"""A sweep with real processes: rates searched where models are small, every size at its own, rows that are kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from sweep_case import LITE, small_sweep
from tiny import caller_states

from unimixer.analysis.points import read_points
from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.experiments import Experiment, Machine, Sweep, plan_experiment, size_experiment
from unimixer.experiments.lr_search import best_rate, losses
from unimixer.experiments.plan import is_begun, read_plan, write_plan
from unimixer.experiments.results import read_rows, row_path, write_row
from unimixer.experiments.size_series import TransferSeries

ONE = Machine(workers=1, threads=1)
GRID = (1e-3, 2e-3, 4e-3)


def one_series(dataset: Path, folder: Path, **changes: object) -> TransferSeries:
    """The series of a sweep of one model."""
    (series,) = size_experiment(small_sweep(dataset, **changes), folder).transfers
    return series


@pytest.fixture(scope="module")
def whole(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment]:
    """A finished sweep; tests must not change it."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    before = caller_states()
    planned = plan_experiment(small_sweep(toy_folder), folder, ONE)
    assert (planned.missing, planned.total) == (14, 14)  # 2 models: 3 rates, then 2 sizes with 2 seeds
    outcome = planned.compute(quiet=True)
    assert outcome.failed == []
    assert caller_states() == before
    assert 12 <= len(outcome.computed) <= 14  # a best rate on the grid makes its row of the search count
    return folder, planned


def test_the_plan_says_what_is_trained_and_what_it_costs(whole: tuple[Path, Experiment]) -> None:
    planned = whole[1]
    lines = planned.table()
    assert [(line["model"], line["rows"]) for line in lines] == [
        *(("rankmixer", 5), ("rankmixer", 2)),
        *(("lite", 5), ("lite", 2)),
    ]
    for line, budget in zip(lines, (6_000, 24_000) * 2, strict=True):
        assert line["dense parameters"] == pytest.approx(budget, rel=0.02)
        assert line["samples/s"] > 0
    assert planned.seconds() == pytest.approx(sum(e.total_seconds for e in planned.estimates))
    assert replace(planned, machine=Machine(workers=100)).seconds() == max(e.seconds for e in planned.estimates)
    assert planned.flops() == sum(3.0 * e.runs * e.case.flops_per_sample * 4 * 128 for e in planned.estimates)


def test_the_rate_of_a_size_follows_the_rule_from_the_best_at_the_smallest(whole: tuple[Path, Experiment]) -> None:
    folder, planned = whole
    for series in planned.transfers:
        (trial,) = series.trials()
        assert set(trial.metrics) == set(GRID)
        rule = series.transfer
        assert rule is not None
        assert (rule.rate, rule.at_edge) == best_rate(trial.metrics)
        small, large = series.cases
        assert rule.at(small.width) == pytest.approx(rule.rate, rel=1e-2)
        assert rule.at(large.width) == pytest.approx(rule.rate * (small.width / large.width) ** 0.75, rel=1e-2)
        for job in series.jobs():
            row = json.loads(row_path(folder, job.key).read_text())
            assert row["dense_lr"] == rule.at(job.case.width)
            assert row["samples"] == 4 * 128  # one pass, cut short


def test_points_are_the_runs_that_count_with_what_fits_need(whole: tuple[Path, Experiment], toy_folder: Path) -> None:
    folder, planned = whole
    frame = pl.read_csv(folder / "points.csv")
    assert frame["model"].to_list() == ["rankmixer"] * 4 + ["lite"] * 4
    assert frame["seed"].to_list() == [0, 1] * 4
    assert frame["status"].unique().to_list() == ["ok"]
    rows = {row["key"]: row for row in read_rows(folder)}
    for line in frame.to_dicts():
        row = rows[line["key"]]
        assert (line["params"], line["flops"]) == (row["dense_params"], row["flops_per_sample"])
        assert line["metric"] == line["auc"] == pytest.approx(row["test_is_click_auc"], abs=1e-12)
        assert (line["training_flops"], line["rows"], line["dataset"]) == (3 * line["flops"], 512, row["dataset"])
    points = read_points(folder)
    assert (points.models, points.metric) == (["rankmixer", "lite"], "auc")
    assert len({point.config for point in points.points}) == 4
    assert len(pl.read_csv(folder / "rows.csv")) == len(rows)
    assert Dataset(toy_folder).hash == read_plan(folder, Sweep).data[0].hash
    assert [case.blocks for case in planned.cases] == [2, 2, 1, 1]


def test_what_is_done_is_not_done_again_and_a_seed_and_a_size_come_on_top(
    whole: tuple[Path, Experiment], toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    again = plan_experiment(small_sweep(toy_folder), folder, ONE)
    assert (again.missing, again.seconds()) == (0, 0.0)
    assert {line["to compute"] for line in again.table()} == {0}
    more = plan_experiment(small_sweep(toy_folder, models=[LITE], params=[3_000, 6_000], seeds=2), folder, ONE)
    assert more.plan.params == (3_000, 6_000, 24_000)
    assert isinstance(more.plan, Sweep)
    assert more.plan.base_sizes == (6_000,)  # rates of rows that are there do not move
    assert more.missing == 4  # two models at the new size
    outcome = more.compute(quiet=True)
    assert len(outcome.computed) == 4
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(read_points(folder).points) == 12


def test_a_sweep_begun_otherwise_is_refused(whole: tuple[Path, Experiment], toy_folder: Path, tmp_path: Path) -> None:
    folder, old = whole[0], read_plan(whole[0], Sweep)
    assert is_begun(folder, Sweep)
    for change, message in (
        ({"dense_lr": [1e-3]}, r"began with dense_lr=0.001, 0.002, 0.004, not 0.001; choose another --out"),
        ({"dial": "both"}, r"began with dial=width, not both"),
        ({"lr_power": 1.0}, r"began with lr_power=0.75, not 1.0"),
        ({"recipe": {"training.batch_size": 64}}, r"began with recipe training.batch_size=128, not 64"),
        ({"models": ["rankmixer:ffn=swiglu:label=rankmixer"]}, r"model 'rankmixer' was begun with other settings"),
    ):
        with pytest.raises(UnimixerError, match=message):
            size_experiment(small_sweep(toy_folder, **change), folder)
    other = old.data[0].model_copy(update={"hash": "0" * 8})
    with pytest.raises(UnimixerError, match="began with data"):
        old.joined(old.model_copy(update={"data": (other,)}), folder)
    with pytest.raises(UnimixerError, match=r"is not a sweep \(no sweep.yaml\)"):
        read_plan(tmp_path, Sweep)


def test_no_points_before_a_run_that_counts(toy_folder: Path, tmp_path: Path) -> None:
    experiment = size_experiment(small_sweep(toy_folder), tmp_path)
    write_plan(tmp_path, experiment.plan)
    with pytest.raises(UnimixerError, match="no run that counts is computed yet"):
        experiment.write_points()


def test_a_size_that_cannot_be_built_is_refused_or_left_out(toy_folder: Path, tmp_path: Path) -> None:
    sizes = {"models": ["rankmixer"], "params": [1_000, 6_000]}
    with pytest.raises(UnimixerError, match="rankmixer at 1K parameters: params=1,000 cannot be met within 2%"):
        size_experiment(small_sweep(toy_folder, **sizes), tmp_path)
    experiment = size_experiment(small_sweep(toy_folder, lenient=True, **sizes), tmp_path)
    assert [case.budget for case in experiment.cases] == [6_000]
    assert list(experiment.left_out) == ["rankmixer at 1K parameters"]


def test_sizes_that_give_one_model_are_refused(toy_folder: Path, tmp_path: Path) -> None:
    message = r"rankmixer at 6\.01K parameters and rankmixer at 6K parameters are one model of [\d,]+ parameters; leave"
    with pytest.raises(UnimixerError, match=message):
        size_experiment(small_sweep(toy_folder, models=["rankmixer"], params=[6_000, 6_010, 24_000]), tmp_path)


def test_a_failed_run_of_the_search_stands_aside_and_is_tried_again(toy_folder: Path, tmp_path: Path) -> None:
    series = one_series(toy_folder, tmp_path / "sweep", models=["rankmixer"])
    jobs = series.search()
    found = [
        {**job.columns(), "status": "ok", "validation_is_click_auc": value}
        for job, value in zip(jobs, (0.6, 0.7, 0.65), strict=True)
    ]
    assert series.after(found[0]) == []
    assert series.after(found[1]) == []
    following = series.after({**jobs[2].columns(), "status": "failed", "error": "killed"})
    assert [job.recipe.training.seed for job in following] == [0, 1, 0, 1]
    assert following[0].recipe.optimizer.dense_lr == 2e-3  # the better of two
    write_row(tmp_path, found[0])
    write_row(tmp_path, {**jobs[2].columns(), "status": "failed", "error": "killed"})
    fresh = one_series(toy_folder, tmp_path / "sweep", models=["rankmixer"])
    assert fresh.missing(tmp_path) == [2 + 2, 2]
    assert fresh.transfer is None


def test_a_row_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    write_row(tmp_path, {"key": "a", "store_hash": "b"})
    with pytest.raises(
        UnimixerError, match=r"a\.json: no column dataset_hash, as in earlier versions; compute the rows"
    ):
        read_rows(tmp_path)


def test_a_search_at_two_sizes_gives_the_power(toy_folder: Path, tmp_path: Path) -> None:
    sweep = small_sweep(toy_folder, models=["rankmixer"], params=[6_000, 24_000, 96_000], lr_search="two", seeds=1)
    assert sweep.base_sizes == (6_000, 24_000) or sweep.base_sizes == (6_000, 96_000)
    (series,) = size_experiment(sweep, tmp_path).transfers
    small, large = series.base_cases
    metrics = {small.budget: (0.6, 0.7, 0.6), large.budget: (0.7, 0.6, 0.5)}  # best at 2e-3, then at 1e-3
    for job in series.search():
        value = metrics[job.case.budget][GRID.index(job.recipe.optimizer.dense_lr)]
        following = series.after({**job.columns(), "status": "ok", "validation_is_click_auc": value})
    rule = series.transfer
    assert rule is not None
    assert rule.at_edge
    assert rule.at(small.width) == 2e-3
    assert rule.at(large.width) == pytest.approx(1e-3, rel=0.01) or rule.power == 1.0
    assert len(following) == 3


def test_a_search_at_every_size_follows_no_rule(toy_folder: Path, tmp_path: Path) -> None:
    sweep = small_sweep(toy_folder, models=["rankmixer"], lr_search="every")
    small, large = size_experiment(sweep, tmp_path).transfers
    metrics = {small: (0.6, 0.7, 0.6), large: (0.5, 0.6, 0.7)}  # best at 2e-3, then at the end of the grid
    for series, values in metrics.items():
        assert series.rates() is None
        for job, value in zip(series.search(), values, strict=True):
            following = series.after({**job.columns(), "status": "ok", "validation_is_click_auc": value})
        assert [job.case for job in following] == series.cases * 2
    chosen = [series.rates() for series in (small, large)]
    assert [rates and rates[0].dense for rates in chosen] == [2e-3, 4e-3]
    assert [series.transfer and series.transfer.at_edge for series in (small, large)] == [False, True]
    assert [series.words for series in (small, large)] == [
        f"rankmixer at {size} parameters on {toy_folder.name}" for size in ("6K", "24K")
    ]


def test_one_rate_is_not_searched(toy_folder: Path, tmp_path: Path) -> None:
    series = one_series(toy_folder, tmp_path, models=[LITE], dense_lr=[2e-3])
    assert series.search() == []
    assert series.first_jobs() == series.jobs()
    rates = {job.case.budget: job.recipe.optimizer.dense_lr for job in series.jobs()}
    assert rates[6_000] == 2e-3 > rates[24_000]


@pytest.mark.parametrize(("dial", "expected"), [("depth", [2, 8]), ("both", [2, 3])])
def test_depth_grows_and_the_budget_is_met(dial: str, expected: list[int], toy_folder: Path, tmp_path: Path) -> None:
    series = one_series(toy_folder, tmp_path, models=["rankmixer"], dial=dial)
    assert [case.blocks for case in series.cases] == expected
    for case in series.cases:
        assert case.dense_params == pytest.approx(case.budget, rel=0.02)


def test_the_experiment_trains_the_grid_at_every_size(toy_folder: Path, tmp_path: Path) -> None:
    sweep = small_sweep(toy_folder, models=["rankmixer"], recipe={"training.max_steps": 2})
    planned = size_experiment(sweep, tmp_path)
    trials, outcome = planned.try_rates(quiet=True)
    assert len(outcome.computed) == 6
    assert [set(trial.metrics) for trial in trials] == [set(GRID)] * 2
    (line,) = losses(trials)
    assert line["parameters"] == planned.cases[1].dense_params
    assert {"loss at p=0", "loss at p=0.5", "loss at p=1"} <= line.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": []}, "the sizes of a sweep are dense parameters"),
        ({"flops": ["1M"]}, "the sizes of a sweep are dense parameters"),
        ({"sparse_lr": [1e-3, 2e-3]}, "one rate for the embedding tables"),
        ({"models": [{"backbone": "unimixer", "mixing_lr": [1e-2, 3e-2]}]}, "one rate for learned mixings"),
        ({"dial": "height"}, "dial"),
        ({"params": [6_000], "lr_search": "two"}, "a search at two sizes needs two sizes"),
        ({"dense_lr": [1e-3], "lr_search": "every"}, "a search at every size needs rates to choose from"),
        ({"lr_power": 1.0, "lr_search": "every"}, "lr_power 1 belongs to a search at the smallest size"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, object], message: str, toy_folder: Path) -> None:
    with pytest.raises(UnimixerError, match=message):
        small_sweep(toy_folder, **changes)
