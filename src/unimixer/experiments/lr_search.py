"""The learning rate of every model: the same small grid, the first seed, validation alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unimixer.experiments.cases import Case, Job

Rates = tuple[float, float]
"""Of the dense parameters and of the embedding tables."""


def search_metric(row: Mapping[str, Any], monitor: str | None) -> float | None:
    """The validation metric by which rates are chosen, the larger the better; None for a row without one."""
    task, metric = (monitor or f"{json.loads(row['tasks'])[0]}.auc").rsplit(".", 1)
    value = row.get(f"validation_{task}_{metric}")
    return None if value is None else float(-value if metric == "log_loss" else value)


def chosen_rates(rows: Sequence[Mapping[str, Any]], grid: Sequence[Rates], monitor: str | None) -> Rates | None:
    """The best pair of rates of a case, None while rows of its search are missing, or where all of them failed.

    Of equal ones the first of the grid is taken. With a grid of one there is nothing to search.

    Args:
        rows: rows of one case; those of the first seed decide.
        grid: pairs of rates.
        monitor: ``TASK.METRIC`` on validation (default: the first task's AUC).
    """
    if len(grid) == 1:
        return grid[0]
    first = {(row["dense_lr"], row["sparse_lr"]): row for row in rows if row["seed"] == 0}
    if any(rates not in first for rates in grid):
        return None
    values = {rates: search_metric(first[rates], monitor) for rates in grid if first[rates]["status"] == "ok"}
    found = {rates: value for rates, value in values.items() if value is not None}
    return max(found, key=lambda rates: found[rates]) if found else None


class RateSearch:
    """Gives the jobs of a study in two rounds: the grid with the first seed, then all seeds at the best rates.

    Args:
        cases: models at budgets.
        seeds: runs a case.
        grid: pairs of a dense and a sparse rate.
        monitor: see :func:`chosen_rates`.
    """

    def __init__(self, cases: Sequence[Case], *, seeds: int, grid: Sequence[Rates], monitor: str | None = None) -> None:
        self.seeds, self.grid, self.monitor = seeds, tuple(grid), monitor
        self._cases: dict[str, Case] = {}
        self._rows: dict[int, list[Mapping[str, Any]]] = {}
        for case in cases:
            for rates in self.grid:
                for seed in range(seeds):
                    self._cases[case.job(seed, *rates).key] = case
        self.cases = list(cases)

    def first_jobs(self) -> list[Job]:
        """What can start at once: the grid, or all seeds where there is no choice."""
        seeds = range(self.seeds) if len(self.grid) == 1 else [0]
        return [case.job(seed, *rates) for case in self.cases for seed in seeds for rates in self.grid]

    def after(self, row: Mapping[str, Any]) -> list[Job]:
        """What a finished row makes possible: the other seeds of its case, once the search is complete."""
        case = self._cases.get(str(row["key"]))
        if case is None or len(self.grid) == 1 or row["seed"] != 0:
            return []
        rows = self._rows.setdefault(id(case), [])
        rows.append(row)
        chosen = chosen_rates(rows, self.grid, self.monitor)
        return [] if chosen is None else [case.job(seed, *chosen) for seed in range(1, self.seeds)]

    def total(self) -> int:
        """Rows of the whole study."""
        return len(self.cases) * self.rows_a_case

    @property
    def rows_a_case(self) -> int:
        """The grid, and the seeds after the first."""
        return len(self.grid) + self.seeds - 1
