"""The jobs of one model over its sizes: a search for the rate where it is small, then every size at its own rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimixer.experiments.cases import Case, Job
from unimixer.experiments.lr_search import search_metric
from unimixer.experiments.lr_transfer import Transfer, Trial, best_rate, power_between
from unimixer.experiments.results import OK, read_row


class Ladder:
    """One model at several sizes on one store.

    With one rate in the grid there is no search: it is that of the smallest size.

    Args:
        cases: from the smallest size to the largest.
        seeds: runs a size.
        grid: rates of the search, which the first seed makes.
        sparse_lr: rate of the embedding tables, the same at every size.
        anchors: budgets at which rates are searched: the smallest, or two of them, which then give the power as well.
        power: p of the rule, for one anchor.
        monitor: ``TASK.METRIC`` on validation (default: the first task's AUC).
    """

    def __init__(
        self,
        cases: Sequence[Case],
        *,
        seeds: int,
        grid: Sequence[float],
        sparse_lr: float,
        anchors: Sequence[int],
        power: float,
        monitor: str | None = None,
    ) -> None:
        self.cases, self.seeds, self.grid, self.sparse_lr = list(cases), seeds, tuple(grid), sparse_lr
        self.power, self.monitor = power, monitor
        self.anchors = [case for case in cases if case.budget in anchors] if len(grid) > 1 else []
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._searched = {job.key for job in self.search()}

    @property
    def name(self) -> str:
        """Label of the model."""
        return self.cases[0].variant

    def search(self) -> list[Job]:
        """The runs that decide about rates."""
        return [case.job(0, rate, self.sparse_lr) for case in self.anchors for rate in self.grid]

    def first_jobs(self) -> list[Job]:
        """What can start at once."""
        return self.search() or self.jobs()

    def after(self, row: Mapping[str, Any]) -> list[Job]:
        """What a finished row makes possible: everything else, once the search is complete."""
        if row["key"] not in self._searched:
            return []
        self._rows[str(row["key"])] = row
        return self.jobs()

    def take(self, folder: Path) -> None:
        """Read the rows of the search that a folder has."""
        for key in self._searched:
            row = read_row(folder, key)
            if row is not None and row["status"] == OK:
                self._rows[key] = row

    def trials(self) -> list[Trial]:
        """The grids of the search as far as they are computed."""
        found = []
        for case in self.anchors:
            metrics = {}
            for rate in self.grid:
                row = self._rows.get(case.job(0, rate, self.sparse_lr).key)
                value = search_metric(row, self.monitor) if row is not None and row["status"] == OK else None
                if value is not None:
                    metrics[rate] = value
            found.append(Trial(self.name, case.dense_params, width(case), metrics))
        return found

    @property
    def transfer(self) -> Transfer | None:
        """The rule with its numbers; None while the search is not complete, or where all of it failed."""
        if not self.anchors:
            return Transfer(self.grid[0], width(self.cases[0]), self.power)
        trials = self.trials()
        if len(self._rows) < len(self._searched) or any(not trial.metrics for trial in trials):
            return None
        rate, at_edge = best_rate(trials[0].metrics)
        if len(trials) == 1:
            return Transfer(rate, trials[0].width, self.power, at_edge)
        other, other_at_edge = best_rate(trials[1].metrics)
        power = power_between((trials[0].width, rate), (trials[1].width, other))
        return Transfer(rate, trials[0].width, power, at_edge or other_at_edge)

    def jobs(self) -> list[Job]:
        """The runs that count, size by size; none before the rule has its numbers."""
        rule = self.transfer
        if rule is None:
            return []
        return [
            case.job(seed, rule.at(width(case)), self.sparse_lr) for case in self.cases for seed in range(self.seeds)
        ]

    def searched_everywhere(self) -> Ladder:
        """The same with the search at every size: what the rule is tested on."""
        anchors = [case.budget for case in self.cases]
        return Ladder(
            self.cases,
            seeds=1,
            grid=self.grid,
            sparse_lr=self.sparse_lr,
            anchors=anchors,
            power=self.power,
            monitor=self.monitor,
        )

    def missing(self, folder: Path) -> dict[str, int]:
        """Rows of every size that a folder does not have, by the name of the case."""
        self.take(folder)
        jobs = {job.key: job for job in [*self.search(), *self.jobs()]}
        found = dict.fromkeys((case.name for case in self.cases), 0 if self.transfer else self.seeds)
        for key, job in jobs.items():
            row = read_row(folder, key)
            found[job.case.name] += row is None or row["status"] != OK
        return found

    def total(self) -> int:
        """Rows in the end, at most: a run of the search may be one of those that count."""
        if self.transfer is None:
            return len(self._searched) + len(self.cases) * self.seeds
        return len({job.key for job in [*self.search(), *self.jobs()]})


def width(case: Case) -> float:
    """The dial at which a case meets its budget."""
    size = case.recipe.model.width
    assert size is not None
    return size
