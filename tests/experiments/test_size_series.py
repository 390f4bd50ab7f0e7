"""The choice of the learning rate: validation alone, the first seed alone, after the whole grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small import small_cases

from unimixer.experiments.lr_search import Rates, chosen_rates
from unimixer.experiments.size_series import GridSeries, TransferSeries

GRID = [Rates(rate, 1e-3) for rate in (5e-4, 1e-3, 2e-3)]


def row(rate: float, auc: float | None, *, seed: int = 0, **others: Any) -> dict[str, Any]:
    found = {"dense_lr": rate, "sparse_lr": 1e-3, "seed": seed, "status": "ok", "tasks": '["click"]'}
    return {**found, "validation_click_auc": auc, "test_click_auc": 1.0 - (auc or 0.0), **others}


def test_the_best_on_validation_is_chosen_whatever_the_test_says() -> None:
    rows = [row(5e-4, 0.7), row(1e-3, 0.72), row(2e-3, 0.71), row(2e-3, 0.9, seed=1)]
    assert chosen_rates(rows, GRID, None) == Rates(1e-3, 1e-3)


def test_another_monitor_and_a_loss_choose_otherwise() -> None:
    rows = [
        row(rate, 0.7, validation_click_uauc=uauc, validation_click_log_loss=loss)
        for (rate, *_), uauc, loss in zip(GRID, (0.6, 0.61, 0.65), (0.3, 0.4, 0.5), strict=True)
    ]
    assert chosen_rates(rows, GRID, "click.uauc") == Rates(2e-3, 1e-3)
    assert chosen_rates(rows, GRID, "click.log_loss") == Rates(5e-4, 1e-3)
    assert chosen_rates(rows, GRID, None) == Rates(5e-4, 1e-3)  # the first of equal ones


def test_nothing_is_chosen_before_the_grid_is_complete_and_failures_do_not_count() -> None:
    failed = row(1e-3, None, status="failed")
    assert chosen_rates([row(5e-4, 0.7), failed], GRID, None) is None
    assert chosen_rates([row(5e-4, 0.7), failed, row(2e-3, 0.71)], GRID, None) == Rates(2e-3, 1e-3)
    assert chosen_rates([row(rate, None, status="failed") for rate, *_ in GRID], GRID, None) is None
    assert chosen_rates([], [Rates(1e-3, 1e-3)], None) == Rates(1e-3, 1e-3)


def test_rates_of_mixings_are_chosen_with_the_others() -> None:
    grid = [Rates(1e-3, 1e-3, mixing) for mixing in (1e-3, 1e-2)]
    rows = [row(1e-3, auc, mixing_lr=rates.mixing) for rates, auc in zip(grid, (0.7, 0.71), strict=True)]
    assert chosen_rates(rows, grid, None) == Rates(1e-3, 1e-3, 1e-2)
    assert chosen_rates(rows, [Rates(1e-3, 1e-3), Rates(2e-3, 1e-3)], None) is None  # rows of another search


def test_a_search_gives_the_other_seeds_when_its_last_row_is_in(toy_folder: Path) -> None:
    first, second = small_cases(toy_folder)
    search, other = (GridSeries([case], seeds=3, grid=GRID) for case in (first, second))
    jobs = [*search.first_jobs(), *other.first_jobs()]
    assert [(job.case.variant, job.recipe.training.seed) for job in jobs] == [("rankmixer", 0)] * 3 + [("lite", 0)] * 3
    assert (search.total(), other.rows_of(second)) == (5, 5)
    rows = [
        row(job.recipe.optimizer.dense_lr, auc, key=job.key) for job, auc in zip(jobs, (0.5, 0.6, 0.7), strict=False)
    ]
    assert search.after(rows[0]) == search.after(rows[1]) == []
    first_again, *later = search.after(rows[2])
    assert first_again.key == jobs[2].key  # the first seed's row at the best rate counts
    assert [(j.case.variant, j.recipe.training.seed, j.recipe.optimizer.dense_lr) for j in later] == [
        ("rankmixer", 1, 2e-3),
        ("rankmixer", 2, 2e-3),
    ]
    assert search.after(row(2e-3, 0.9, seed=1, key=later[0].key)) == []


def test_a_grid_of_one_starts_all_seeds_at_once(toy_folder: Path) -> None:
    search, other = (GridSeries([case], seeds=2, grid=[Rates(1e-3, 1e-3)]) for case in small_cases(toy_folder))
    jobs = [*search.first_jobs(), *other.first_jobs()]
    assert [job.recipe.training.seed for job in jobs] == [0, 1, 0, 1]
    assert search.total() + other.total() == 4
    assert search.after(row(1e-3, 0.6, key=jobs[0].key)) == []


def test_a_rule_across_sizes_searches_the_base_size_and_runs_every_size_at_its_own_rate(toy_folder: Path) -> None:
    small, large = small_cases(toy_folder, models=["rankmixer"], params=["6K", "24K"])
    series = TransferSeries([small, large], power=0.5, seeds=2, grid=GRID, base_sizes=[6_000])
    assert (series.rows_of(small), series.rows_of(large), series.total()) == (5, 2, 7)
    assert series.rates() is None
    for job, auc in zip(series.search(), (0.6, 0.7, 0.6), strict=True):
        jobs = series.after(row(job.recipe.optimizer.dense_lr, auc, key=job.key))
    assert series.rates() == [
        Rates(1e-3, 1e-3),
        Rates(float(f"{1e-3 * (large.width / small.width) ** -0.5:.3g}"), 1e-3),
    ]
    assert [(job.case.budget, job.recipe.training.seed) for job in jobs] == [
        *((6_000, 0), (6_000, 1), (24_000, 0), (24_000, 1)),
    ]
    assert series.total() == 6  # the run of the search at the best rate is one of those that count
