"""Compare the models of a study with a base: metrics, differences, intervals, and corrected p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.selection import (
    Chosen,
    ComparisonGroup,
    Row,
    choose,
    comparison_groups,
    find_base,
    is_finished,
    tasks_of,
)
from unimixer.analysis.significance import LEVEL, REPLICATES, Difference, UserBootstrap, difference, holm
from unimixer.analysis.weighted_metrics import HIGHER_IS_BETTER, LabelledRows, Values
from unimixer.errors import UnimixerError, unknown
from unimixer.experiments.plan import JUDGED
from unimixer.progress import progress_bar

BETTER, WORSE, INCONCLUSIVE, BASE = "better", "worse", "inconclusive", "base"
ONE_SEED = "one seed: seed variation not covered"
NO_SCORES = "no pair of seeds to compare"
NO_USERS = "fewer than two users: no interval"
SCORES = "scores"


@dataclass(frozen=True)
class Line:
    """One model in one table."""

    chosen: Chosen
    values: Mapping[int, float]
    """The metric on the test rows, by seed."""
    compared: Difference | None = None
    holm: float | None = None
    conclusion: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return mean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Table:
    """One metric of one task, for the models that may be compared with each other."""

    group: ComparisonGroup
    task: str
    metric: str
    lines: tuple[Line, ...]
    comparisons: int
    """Number of comparisons that are corrected together: all tasks, metrics and models of the group."""
    rows: int
    users: int
    """Number of users that the metric is computed from."""
    best_reachable: float | None = None
    """AUC of the true probabilities, if the data are simulated."""


@dataclass(frozen=True)
class ComparisonReport:
    """All tables of a study, and its failed rows."""

    base: str
    tasks: tuple[str, ...]
    tables: tuple[Table, ...]
    failures: tuple[Row, ...]
    rows: tuple[Row, ...]
    """Every row, those of searches too."""
    replicates: int = REPLICATES

    @property
    def groups(self) -> tuple[ComparisonGroup, ...]:
        """Groups of comparable models, in the order of the tables."""
        return tuple(dict.fromkeys(table.group for table in self.tables))

    def table(self, group: ComparisonGroup, task: str, metric: str) -> Table | None:
        """Return one table, or None if the metric cannot be computed on the data."""
        key = (group, task, metric)
        return next((table for table in self.tables if (table.group, table.task, table.metric) == key), None)


@dataclass
class _Scores:
    """Cached scores of one data set, and metrics on draws of its users."""

    folder: Path
    dataset_hash: str
    tasks: tuple[str, ...]
    """Tasks in the order of the columns of the files."""
    replicates: int
    _rows: dict[str, LabelledRows] = field(default_factory=dict)
    _draws: dict[tuple[str, str, str], tuple[float, Values]] = field(default_factory=dict)
    _bootstrap: UserBootstrap | None = None

    def rows(self, task: str) -> LabelledRows | None:
        """Return labels and users of the test rows, or None if the study has none."""
        path = self.folder / SCORES / f"{self.dataset_hash}-labels.npy"
        if not path.exists():
            return None
        if task not in self._rows:
            users = path.with_name(f"{self.dataset_hash}-users.npy")
            labels = self._column(np.load(path), task, path)
            known = path.with_name(f"{self.dataset_hash}-truth.npy")
            truth = self._column(np.load(known), task, known) if known.exists() else None
            if truth is not None and np.isnan(truth).any():
                truth = None  # of another task
            self._rows[task] = LabelledRows(labels, np.load(users) if users.exists() else None, truth)
        return self._rows[task]

    def has(self, row: Row) -> bool:
        """Return whether the logits of a row are on disk."""
        return self._path(row).exists()

    def draws(self, row: Row, task: str, metric: str) -> tuple[float, Values]:
        """Compute a metric of a row, on the test rows and on every draw of users."""
        key = (row["key"], task, metric)
        if key not in self._draws:
            labelled = self.rows(task)
            assert labelled is not None
            if self._bootstrap is None:
                self._bootstrap = UserBootstrap(labelled.num_users, replicates=self.replicates)
            logits = self._column(np.load(self._path(row)), task, self._path(row))
            if len(logits) != len(labelled.labels):
                raise UnimixerError(
                    f"{self._path(row)} has {len(logits):,} rows, the test split {len(labelled.labels):,}; "
                    "delete the row's file in rows/ and run the study again"
                )
            metric_draws = self._bootstrap.values(labelled, metric, logits)
            self._check_fits(row, f"test_{task}_{metric}", metric_draws[0])
            self._draws[key] = metric_draws
        return self._draws[key]

    def _check_fits(self, row: Row, column: str, value: float) -> None:
        """Raise if the scores do not give the number of the row, because files of different runs are mixed."""
        noted = row.get(column)
        if noted is not None and abs(noted - value) > 1e-6:
            raise UnimixerError(
                f"{self._path(row)} gives {column}={value:.6f}, the row says {noted:.6f}: they are of different runs; "
                "delete the row's file in rows/ and run the study again"
            )

    def _path(self, row: Row) -> Path:
        return self.folder / SCORES / f"{row['key']}.npy"

    def _column(self, values: NDArray[Any], task: str, path: Path) -> NDArray[Any]:
        if values.ndim != 2 or values.shape[1] != len(self.tasks):
            raise UnimixerError(
                f"{path} has shape {values.shape}, expected (rows, {len(self.tasks)}): one column a task"
            )
        column: NDArray[Any] = values[:, self.tasks.index(task)]
        return column


@dataclass(frozen=True)
class Question:
    """The comparisons of a report; fewer of them need less evidence each.

    Args:
        base: label or backbone that the others are compared with (default: that of the first row).
        tasks: tasks to compare (default: all).
        metrics: metrics to compare, names as in :data:`~unimixer.analysis.weighted_metrics.HIGHER_IS_BETTER`.
    """

    base: str | None = None
    tasks: Sequence[str] | None = None
    metrics: Sequence[str] = JUDGED


def compare_models(
    rows: Sequence[Row],
    folder: Path,
    question: Question | None = None,
    *,
    replicates: int = REPLICATES,
    seeds: Sequence[int] = (),
) -> ComparisonReport:
    """Compare every model with the base, at each data set and budget, in each task and metric.

    Args:
        rows: rows of a study; of each model those at its chosen learning rates are compared.
        folder: the study, which holds the scores.
        question: models, tasks and metrics to compare (default: all, with the first model).
        replicates: draws of users.
        seeds: seeds that the plan asks for; the report names the ones that a model lacks.

    Raises:
        UnimixerError: without rows, or naming an unknown task or base, or a file of scores that does not fit.
    """
    if not rows:
        raise UnimixerError(f"{folder} has no rows yet; compute them with: unimixer compare")
    question, known = question or Question(), tasks_of(rows)
    for task in question.tasks or ():
        if task not in known:
            raise unknown("task", task, known)
    compared_tasks, label = tuple(question.tasks or known), find_base(rows, question.base)
    scores: dict[str, _Scores] = {}
    tables: list[Table] = []
    members = comparison_groups(rows, label)
    with progress_bar("comparing models", len(members) * len(compared_tasks) * len(question.metrics)) as advance:
        for group, own in members.items():
            group_scores = scores.setdefault(
                group.dataset_hash, _Scores(folder, group.dataset_hash, tasks_of(own), replicates)
            )
            chosen, group_tables = choose(own, group_scores.tasks, seeds), []
            for task in (task for task in compared_tasks if task in group_scores.tasks):
                for metric in question.metrics:
                    group_tables.append(_table(group, task, metric, chosen, label, group_scores))
                    advance(1)
            tables += _corrected([table for table in group_tables if any(line.values for line in table.lines)])
    failures = tuple(row for row in rows if not is_finished(row))
    return ComparisonReport(label, compared_tasks, tuple(tables), failures, tuple(rows), replicates)


def _table(
    group: ComparisonGroup, task: str, metric: str, chosen: Sequence[Chosen], base: str, scores: _Scores
) -> Table:
    """Make a table without the correction, which needs all tables of the group."""
    against = next((one for one in chosen if one.variant == base), None)
    labelled = scores.rows(task)
    can = labelled is not None and metric in labelled.metrics
    few = labelled is not None and labelled.users_of(metric) < 2
    lines = []
    for one in chosen:
        values = {seed: row.get(f"test_{task}_{metric}") for seed, row in one.finished.items()}
        line = Line(one, {seed: float(value) for seed, value in values.items() if value is not None})
        if one.variant == base:
            line = replace(line, conclusion=BASE)
        else:
            compared = _compare(one, against, task, metric, scores) if can and against is not None else None
            without = NO_USERS if can and few else NO_SCORES
            line = replace(line, compared=compared, conclusion=without if compared is None else ONE_SEED)
        lines.append(line)
    reachable = [row.get(f"best_reachable_{task}_auc") for one in chosen for row in one.finished.values()]
    return Table(
        group=group,
        task=task,
        metric=metric,
        lines=tuple(lines),
        comparisons=0,
        rows=len(labelled.labels) if labelled else 0,
        users=labelled.users_of(metric) if labelled else 0,
        best_reachable=next((value for value in reachable if value is not None), None) if metric == "auc" else None,
    )


def _compare(one: Chosen, against: Chosen, task: str, metric: str, scores: _Scores) -> Difference | None:
    """Compute the difference over the seeds that both models have scores of."""
    both = [s for s in one.finished if s in against.finished]
    seeds = [s for s in both if scores.has(one.finished[s]) and scores.has(against.finished[s])]
    labelled = scores.rows(task)
    if not seeds or labelled is None or labelled.users_of(metric) < 2:
        return None
    values, draws = zip(*(scores.draws(one.finished[seed], task, metric) for seed in seeds), strict=True)
    others, other_draws = zip(*(scores.draws(against.finished[seed], task, metric) for seed in seeds), strict=True)
    users = labelled.users_of(metric)
    return difference(values, others, np.stack(draws), np.stack(other_draws), num_users=users)


def _corrected(tables: Sequence[Table]) -> list[Table]:
    """Correct all comparisons of a group together after Holm, and draw the conclusions.

    Normalized entropy is the log loss divided by one number of the test rows. Both together are one comparison, and
    normalized entropy takes the larger of its own p and the corrected one of the log loss.
    """
    metrics = {table.metric for table in tables}
    counted = [table for table in tables if not (table.metric == "ne" and "log_loss" in metrics)]
    keys, values = [], []
    for table in counted:
        for line in table.lines:
            if line.compared is not None and line.compared.p is not None:
                keys.append((table.task, table.metric, line.chosen.variant))
                values.append(line.compared.p)
    corrected = dict(zip(keys, holm(values), strict=True))
    done = []
    for table in tables:
        lines = []
        for line in table.lines:
            variant, p = line.chosen.variant, line.compared.p if line.compared else None
            if p is not None:
                own = corrected.get((table.task, table.metric, variant))
                value = max(p, corrected[table.task, "log_loss", variant]) if own is None else own
                line = replace(line, holm=value, conclusion=conclusion(line.compared, value, table.metric))
            lines.append(line)
        done.append(replace(table, lines=tuple(lines), comparisons=len(keys)))
    return done


def conclusion(compared: Difference | None, p: float, metric: str) -> str:
    """Say whether a model is better than the base, given the corrected p-value."""
    if compared is None or p >= LEVEL:
        return INCONCLUSIVE
    return BETTER if (compared.estimate > 0) == HIGHER_IS_BETTER[metric] else WORSE
