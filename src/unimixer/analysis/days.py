"""Judge replayed days: differences of models, the mean over all days, with intervals over users and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.comparison import ONE_SEED, conclusion
from unimixer.analysis.significance import Difference, UserBootstrap, difference, holm_where_known
from unimixer.analysis.weighted_metrics import Counts, LabelledRows, Values
from unimixer.progress import progress_bar

JUDGED = ("auc", "uauc", "ne")


class Day(Protocol):
    """The scores of a model on a day."""

    @property
    def day(self) -> str: ...
    @property
    def logits(self) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[np.float32]: ...
    @property
    def users(self) -> NDArray[np.int64] | None: ...


Model = tuple[str, str]
"""Recipe and strategy."""


@dataclass(frozen=True)
class Judgement:
    """A model against another in one metric of one task: the mean over all days."""

    model: Model
    base: Model
    task: str
    metric: str
    compared: Difference
    holm: float | None
    conclusion: str


def judge(
    days: Mapping[Model, Mapping[int, Sequence[Day]]],
    pairs: Sequence[tuple[Model, Model]],
    tasks: Sequence[str],
    *,
    replicates: int,
) -> list[Judgement]:
    """Judge pairs of models as ``unimixer compare`` does; p-values are corrected after Holm over all of them.

    Args:
        days: by model, then by seed: all days.
        pairs: model and base.
        tasks: the tasks, in the order of the columns of the scores.
        replicates: draws of users.
    """
    found: list[Judgement] = []
    with progress_bar("comparing models", len(tasks) * len(JUDGED) * len(pairs)) as advance:
        for column, task in enumerate(tasks):
            drawn = _Draws(days, column, replicates)
            for metric in drawn.metrics:
                for model, base in pairs:
                    compared = drawn.difference(model, base, metric)
                    found.append(Judgement(model, base, task, metric, compared, None, ONE_SEED))
                    advance(1)
    corrected = holm_where_known([one.compared.p for one in found])
    return [
        one if p is None else replace(one, holm=p, conclusion=conclusion(one.compared, p, one.metric))
        for one, p in zip(found, corrected, strict=True)
    ]


class _Draws:
    """Metrics of one task, the mean over the days, on the rows and on draws of the users of all days."""

    def __init__(self, days: Mapping[Model, Mapping[int, Sequence[Day]]], column: int, replicates: int) -> None:
        self._days, self._column = days, column
        some = next(iter(next(iter(days.values())).values()))
        self._rows = [LabelledRows(day.labels[:, column], day.users) for day in some]
        keys = [self._of_day(number, rows.keys) for number, rows in enumerate(self._rows)]
        users = np.unique(np.concatenate(keys))
        self._positions = [np.searchsorted(users, own) for own in keys]
        self._bootstrap = UserBootstrap(len(users), replicates=replicates)
        self._known: dict[tuple[Model, int, str], tuple[float, Values]] = {}
        self.metrics = [name for name in JUDGED if all(name in rows.metrics for rows in self._rows)]

    def difference(self, model: Model, base: Model, metric: str) -> Difference:
        """Compute the difference over the seeds of both."""
        seeds = sorted(set(self._days[model]) & set(self._days[base]))
        values, own = zip(*(self._of(model, seed, metric) for seed in seeds), strict=True)
        others, theirs = zip(*(self._of(base, seed, metric) for seed in seeds), strict=True)
        users = self._bootstrap.num_users
        if metric == "uauc":
            counted = [at[rows.both] for rows, at in zip(self._rows, self._positions, strict=True)]
            users = len(np.unique(np.concatenate(counted)))
        return difference(values, others, np.stack(own), np.stack(theirs), num_users=users)

    def _of_day(self, number: int, keys: NDArray[Any]) -> NDArray[Any]:
        """Return the keys of the users of a day; those of rows without a user are negative, and of this day alone."""
        own = keys if self._rows[number].has_users else -1 - keys
        return np.where(own < 0, own - number * (1 << 40), own)

    def _of(self, model: Model, seed: int, metric: str) -> tuple[float, Values]:
        key = (model, seed, metric)
        if key not in self._known:
            own = [day.logits[:, self._column] for day in self._days[model][seed]]
            prepared = [rows.weighted(metric, logits) for rows, logits in zip(self._rows, own, strict=True)]

            def mean(counts: Counts) -> Values:
                parts = [one(counts[:, at]) for one, at in zip(prepared, self._positions, strict=True)]
                return np.asarray(np.mean(parts, axis=0))

            self._known[key] = self._bootstrap.values_of(mean)
        return self._known[key]
