"""The jobs of one model: a search for learning rates with the first seed, then the runs that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from unimixer.experiments.cases import Case, Job, unique
from unimixer.experiments.lr_search import (
    LRTrial,
    Rates,
    Transfer,
    best_rate,
    chosen_rates,
    power_between,
    search_metric,
)
from unimixer.experiments.results import FAILED, OK, read_row


class SizeSeries:
    """One model on one dataset at one or several sizes, with one search for its learning rates.

    A search among one choice of rates has no runs of its own.

    Args:
        cases: from the smallest size to the largest.
        seeds: runs per size.
        grid: rates to search, with the first seed.
        monitor: ``TASK.METRIC`` on validation (default: the first task's AUC).
        base_sizes: budgets of the cases that are searched (default: all).
    """

    search_counts: ClassVar[bool]
    """Whether the run of the search at the chosen rates is one of the runs that count."""
    accepted: ClassVar[tuple[str, ...]]
    """Statuses of rows on disk that the search uses; a row of another status is computed again first."""

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        seeds: int,
        grid: Sequence[Rates],
        monitor: str | None = None,
        base_sizes: Sequence[int] | None = None,
    ) -> None:
        self.cases, self.seeds, self.grid, self.monitor = list(cases), seeds, tuple(grid), monitor
        searched = [case for case in cases if base_sizes is None or case.budget in base_sizes]
        self.base_cases = searched if len(grid) > 1 else []
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._searched = {job.key for job in self.search()}

    @property
    def name(self) -> str:
        """Label of the model."""
        return self.cases[0].variant

    @property
    def words(self) -> str:
        """The model with its dataset, and with its size if the series has one size, in words."""
        first = self.cases[0]
        return f"{first.name if len(self.cases) == 1 else self.name} on {first.dataset.name}"

    def rates(self) -> list[Rates] | None:
        """Return the rates of every case, or None before the search is complete or if all of it failed."""
        raise NotImplementedError

    def search(self) -> list[Job]:
        """Return the runs that decide the rates."""
        return [case.job(0, rates) for case in self.base_cases for rates in self.grid]

    def jobs(self) -> list[Job]:
        """Return the runs that count, size by size; none before the rates are known."""
        pairs = zip(self.cases, self.rates() or [], strict=False)
        return [case.job(seed, rates) for case, rates in pairs for seed in range(self.seeds)]

    def first_jobs(self) -> list[Job]:
        """Return the runs that can start at once."""
        return self.search() or self.jobs()

    def after(self, row: Mapping[str, Any]) -> list[Job]:
        """Return the runs that a finished row makes possible: all that count, once the search is complete."""
        if row["key"] not in self._searched:
            return []
        self._rows[str(row["key"])] = row
        return self.jobs()

    def load(self, folder: Path) -> None:
        """Read the rows of the search that a folder has."""
        for key in self._searched:
            row = read_row(folder, key)
            if row is not None and row["status"] in self.accepted:
                self._rows[key] = row

    def missing(self, folder: Path) -> list[int]:
        """Count the rows of every case that a folder does not have."""
        self.load(folder)
        unknown = 0 if self.rates() else self.seeds - self.search_counts
        counts = [unknown] * len(self.cases)
        for job in unique([*self.search(), *self.jobs()]):
            row = read_row(folder, job.key)
            counts[self.cases.index(job.case)] += row is None or row["status"] != OK
        return counts

    def rows_of(self, case: Case) -> int:
        """Count the rows of a case in the end, at most."""
        return self.seeds + (len(self.grid) - self.search_counts if case in self.base_cases else 0)

    def total(self) -> int:
        """Count the rows in the end; at most so many while the rates are not known."""
        if self.rates() is None:
            return sum(self.rows_of(case) for case in self.cases)
        return len(unique([*self.search(), *self.jobs()]))


class GridSeries(SizeSeries):
    """A model at one size, trained at the best rates of its own grid."""

    search_counts = True
    accepted = (OK, FAILED)

    def rates(self) -> list[Rates] | None:
        """Return the best rates of the grid."""
        chosen = chosen_rates(list(self._rows.values()), self.grid, self.monitor)
        return None if chosen is None else [chosen]


class TransferSeries(SizeSeries):
    """A model at several sizes, with the dense rate that a rule carries from the base sizes to the others.

    Args:
        power: p of the rule, for one base size; two base sizes give it themselves.
        series: arguments of :class:`SizeSeries`.
    """

    search_counts = False
    accepted = (OK,)

    def __init__(self, cases: Sequence[Case], *, power: float, **series: Any) -> None:
        super().__init__(cases, **series)
        self.power = power

    def trials(self) -> list[LRTrial]:
        """Return the searched grids as far as they are computed."""
        trials = []
        for case in self.base_cases:
            metrics = {}
            for rates in self.grid:
                row = self._rows.get(case.job(0, rates).key)
                value = search_metric(row, self.monitor) if row is not None and row["status"] == OK else None
                if value is not None:
                    metrics[rates.dense] = value
            trials.append(LRTrial(self.name, case.dense_params, case.width, metrics))
        return trials

    @property
    def transfer(self) -> Transfer | None:
        """The rule with its numbers; None while the search is not complete, or if all of it failed."""
        if not self.base_cases:
            return Transfer(self.grid[0].dense, self.cases[0].width, self.power)
        trials = self.trials()
        if len(self._rows) < len(self._searched) or any(not trial.metrics for trial in trials):
            return None
        rate, at_edge = best_rate(trials[0].metrics)
        if len(trials) == 1:
            return Transfer(rate, trials[0].width, self.power, at_edge)
        other, other_at_edge = best_rate(trials[1].metrics)
        power = power_between((trials[0].width, rate), (trials[1].width, other))
        return Transfer(rate, trials[0].width, power, at_edge or other_at_edge)

    def rates(self) -> list[Rates] | None:
        """Return the rates of the rule."""
        rule = self.transfer
        return None if rule is None else [self.grid[0]._replace(dense=rule.at(case.width)) for case in self.cases]

    def searched_everywhere(self) -> TransferSeries:
        """Return the series with a search at every size, which tests the rule."""
        return TransferSeries(self.cases, power=self.power, seeds=1, grid=self.grid, monitor=self.monitor)
