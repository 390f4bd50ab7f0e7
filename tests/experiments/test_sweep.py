"""A sweep with real processes: rates searched where models are small, every size at its own, rows that are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from sweep_case import LITE, small_sweep
from tiny import caller_states

from unimixer.analysis.points import read_points
from unimixer.data.dataset import Store
from unimixer.errors import UnimixerError
from unimixer.experiments import Machine
from unimixer.experiments.lr_transfer import best_rate, losses
from unimixer.experiments.points_file import blocks, write_points
from unimixer.experiments.results import read_rows, row_path, write_row
from unimixer.experiments.run_sweep import PlannedSweep, compute_sweep, plan_sweep, try_rates
from unimixer.experiments.size_series import width
from unimixer.experiments.sweep_config import build_ladders, is_sweep, joined, open_sweep, read_sweep, write_sweep

ONE = Machine(workers=1, threads=1)
GRID = (1e-3, 2e-3, 4e-3)


@pytest.fixture(scope="module")
def whole(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlannedSweep]:
    """A finished sweep; tests must not change it."""
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    before = caller_states()
    planned = plan_sweep(small_sweep(toy_folder), folder, ONE)
    assert (planned.missing, planned.total) == (14, 14)  # 2 models: 3 rates, then 2 sizes with 2 seeds
    outcome = compute_sweep(planned, folder, ONE, quiet=True)
    assert outcome.failed == []
    assert caller_states() == before
    assert 12 <= len(outcome.computed) <= 14  # a best rate on the grid makes its row of the search count
    return folder, planned


def test_the_plan_says_what_is_trained_and_what_it_costs(whole: tuple[Path, PlannedSweep]) -> None:
    planned = whole[1]
    lines = planned.table()
    assert [(line["model"], line["rows"]) for line in lines] == [
        *(("rankmixer", 5), ("rankmixer", 2)),
        *(("lite", 5), ("lite", 2)),
    ]
    for line, budget in zip(lines, (6_000, 24_000) * 2, strict=True):
        assert line["dense parameters"] == pytest.approx(budget, rel=0.02)
        assert line["samples/s"] > 0
    assert planned.seconds(1) == pytest.approx(sum(e.total_seconds for e in planned.estimates))
    assert planned.seconds(100) == max(e.seconds for e in planned.estimates)
    assert planned.flops() == sum(3.0 * e.runs * e.case.flops_per_sample * 4 * 128 for e in planned.estimates)


def test_the_rate_of_a_size_follows_the_rule_from_the_best_at_the_smallest(whole: tuple[Path, PlannedSweep]) -> None:
    folder, planned = whole
    for ladder in planned.ladders:
        (trial,) = ladder.trials()
        assert set(trial.metrics) == set(GRID)
        rule = ladder.transfer
        assert rule is not None
        assert (rule.rate, rule.at_edge) == best_rate(trial.metrics)
        small, large = ladder.cases
        assert rule.at(width(small)) == pytest.approx(rule.rate, rel=1e-2)
        assert rule.at(width(large)) == pytest.approx(rule.rate * (width(small) / width(large)) ** 0.5, rel=1e-2)
        for job in ladder.jobs():
            row = json.loads(row_path(folder, job.key).read_text())
            assert row["dense_lr"] == rule.at(width(job.case))
            assert row["samples"] == 4 * 128  # one pass, cut short


def test_points_are_the_runs_that_count_with_what_fits_need(whole: tuple[Path, PlannedSweep], toy_folder: Path) -> None:
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
        assert (line["training_flops"], line["rows"], line["store"]) == (3 * line["flops"], 512, row["store"])
    points = read_points(folder)
    assert (points.models, points.metric) == (["rankmixer", "lite"], "auc")
    assert len({point.config for point in points.points}) == 4
    assert len(pl.read_csv(folder / "rows.csv")) == len(rows)
    assert Store(toy_folder).hash == read_sweep(folder).data[0].hash
    cases = [case for ladder in planned.ladders for case in ladder.cases]
    assert [blocks(case) for case in cases] == [2, 2, 1, 1]


def test_what_is_done_is_not_done_again_and_a_seed_and_a_size_come_on_top(
    whole: tuple[Path, PlannedSweep], toy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    again = plan_sweep(small_sweep(toy_folder), folder, ONE)
    assert (again.missing, again.seconds(1)) == (0, 0.0)
    assert {line["to compute"] for line in again.table()} == {0}
    more = plan_sweep(small_sweep(toy_folder, models=[LITE], params=[3_000, 6_000], seeds=2), folder, ONE)
    assert more.sweep.params == (3_000, 6_000, 24_000)
    assert more.sweep.anchors == (6_000,)  # rates of rows that are there do not move
    assert more.missing == 4  # two models at the new size
    outcome = compute_sweep(more, folder, ONE, quiet=True)
    assert len(outcome.computed) == 4
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    assert {name: after[name] for name in before} == before
    assert len(read_points(folder).points) == 12


def test_a_sweep_begun_otherwise_is_refused(whole: tuple[Path, PlannedSweep], toy_folder: Path, tmp_path: Path) -> None:
    folder, old = whole[0], read_sweep(whole[0])
    assert is_sweep(folder)
    for change, message in (
        ({"dense_lr": [1e-3]}, r"began with dense_lr=0.001, 0.002, 0.004, not 0.001; choose another --out"),
        ({"dial": "both"}, r"began with dial=width, not both"),
        ({"lr_power": 1.0}, r"began with lr_power=0.5, not 1.0"),
        ({"recipe": {"training.batch_size": 64}}, r"began with recipe training.batch_size=128, not 64"),
        ({"models": ["rankmixer:ffn=swiglu:label=rankmixer"]}, r"model 'rankmixer' was begun with other settings"),
    ):
        with pytest.raises(UnimixerError, match=message):
            open_sweep(small_sweep(toy_folder, **change), folder)
    other = old.data[0].model_copy(update={"hash": "0" * 8})
    with pytest.raises(UnimixerError, match="began with data"):
        joined(old, old.model_copy(update={"data": (other,)}), folder)
    with pytest.raises(UnimixerError, match=r"is not a sweep \(no sweep.yaml\)"):
        read_sweep(tmp_path)


def test_no_points_before_a_run_that_counts(toy_folder: Path, tmp_path: Path) -> None:
    sweep = open_sweep(small_sweep(toy_folder), tmp_path)
    write_sweep(tmp_path, sweep)
    with pytest.raises(UnimixerError, match="no run that counts is computed yet"):
        write_points(tmp_path, build_ladders(sweep)[0])


def test_a_size_that_cannot_be_built_is_refused_or_left_out(toy_folder: Path, tmp_path: Path) -> None:
    sizes = {"models": ["rankmixer"], "params": [1_000, 6_000]}
    with pytest.raises(UnimixerError, match="rankmixer at 1K parameters: params=1,000 cannot be met within 2%"):
        build_ladders(open_sweep(small_sweep(toy_folder, **sizes), tmp_path))
    ladders, left_out = build_ladders(open_sweep(small_sweep(toy_folder, lenient=True, **sizes), tmp_path))
    assert [case.budget for case in ladders[0].cases] == [6_000]
    assert list(left_out) == ["rankmixer at 1K parameters"]


def test_a_failed_run_of_the_search_stands_aside_and_is_tried_again(toy_folder: Path, tmp_path: Path) -> None:
    (ladder,) = build_ladders(open_sweep(small_sweep(toy_folder, models=["rankmixer"]), tmp_path))[0]
    jobs = ladder.search()
    found = [
        {**job.columns(), "status": "ok", "validation_is_click_auc": value}
        for job, value in zip(jobs, (0.6, 0.7, 0.65), strict=True)
    ]
    assert ladder.after(found[0]) == []
    assert ladder.after(found[1]) == []
    following = ladder.after({**jobs[2].columns(), "status": "failed", "error": "killed"})
    assert [job.recipe.training.seed for job in following] == [0, 1, 0, 1]
    assert following[0].recipe.optimizer.dense_lr == 2e-3  # the better of two
    write_row(tmp_path, found[0])
    write_row(tmp_path, {**jobs[2].columns(), "status": "failed", "error": "killed"})
    fresh = build_ladders(open_sweep(small_sweep(toy_folder, models=["rankmixer"]), tmp_path))[0][0]
    assert list(fresh.missing(tmp_path).values()) == [2 + 2, 2]
    assert fresh.transfer is None


def test_a_search_at_two_sizes_gives_the_power(toy_folder: Path, tmp_path: Path) -> None:
    sweep = small_sweep(toy_folder, models=["rankmixer"], params=[6_000, 24_000, 96_000], lr_search="two", seeds=1)
    assert sweep.anchors == (6_000, 24_000) or sweep.anchors == (6_000, 96_000)
    (ladder,) = build_ladders(open_sweep(sweep, tmp_path))[0]
    small, large = ladder.anchors
    metrics = {small.budget: (0.6, 0.7, 0.6), large.budget: (0.7, 0.6, 0.5)}  # best at 2e-3, then at 1e-3
    for job in ladder.search():
        value = metrics[job.case.budget][GRID.index(job.recipe.optimizer.dense_lr)]
        following = ladder.after({**job.columns(), "status": "ok", "validation_is_click_auc": value})
    rule = ladder.transfer
    assert rule is not None
    assert rule.at_edge
    assert rule.at(width(small)) == 2e-3
    assert rule.at(width(large)) == pytest.approx(1e-3, rel=0.01) or rule.power == 1.0
    assert len(following) == 3


def test_one_rate_is_not_searched(toy_folder: Path, tmp_path: Path) -> None:
    (ladder,) = build_ladders(open_sweep(small_sweep(toy_folder, models=[LITE], dense_lr=[2e-3]), tmp_path))[0]
    assert ladder.search() == []
    assert ladder.first_jobs() == ladder.jobs()
    rates = {job.case.budget: job.recipe.optimizer.dense_lr for job in ladder.jobs()}
    assert rates[6_000] == 2e-3 > rates[24_000]


@pytest.mark.parametrize(("dial", "expected"), [("depth", [2, 8]), ("both", [2, 3])])
def test_depth_grows_and_the_budget_is_met(dial: str, expected: list[int], toy_folder: Path, tmp_path: Path) -> None:
    (ladder,) = build_ladders(open_sweep(small_sweep(toy_folder, models=["rankmixer"], dial=dial), tmp_path))[0]
    assert [blocks(case) for case in ladder.cases] == expected
    for case in ladder.cases:
        assert case.dense_params == pytest.approx(case.budget, rel=0.02)


def test_the_experiment_trains_the_grid_at_every_size(toy_folder: Path, tmp_path: Path) -> None:
    sweep = open_sweep(small_sweep(toy_folder, models=["rankmixer"], recipe={"training.max_steps": 2}), tmp_path)
    planned = PlannedSweep(sweep, *build_ladders(sweep))
    trials, outcome = try_rates(planned, tmp_path, ONE, quiet=True)
    assert len(outcome.computed) == 6
    assert [set(trial.metrics) for trial in trials] == [set(GRID)] * 2
    (line,) = losses(trials)
    assert line["parameters"] == planned.ladders[0].cases[1].dense_params
    assert {"loss at p=0", "loss at p=0.5", "loss at p=1"} <= line.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": []}, "the sizes of a sweep are dense parameters"),
        ({"flops": ["1M"]}, "the sizes of a sweep are dense parameters"),
        ({"sparse_lr": [1e-3, 2e-3]}, "one rate for the embedding tables"),
        ({"dial": "height"}, "dial"),
        ({"params": [6_000], "lr_search": "two"}, "a search at two sizes needs two sizes"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, object], message: str, toy_folder: Path) -> None:
    with pytest.raises(UnimixerError, match=message):
        small_sweep(toy_folder, **changes)
