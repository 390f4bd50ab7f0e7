"""Judge replayed days: differences of models over all days, with intervals over users and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unimixer.analysis.comparison import ONE_SEED, conclusion
from unimixer.analysis.significance import Difference, UserBootstrap, difference, holm
from unimixer.analysis.weighted_metrics import LabelledRows, Values
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
    """A model against another in one metric of one task, on the rows of all days together."""

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
            for metric in (metric for metric in JUDGED if metric in drawn.rows.metrics):
                for model, base in pairs:
                    compared = drawn.difference(model, base, metric)
                    found.append(Judgement(model, base, task, metric, compared, None, ONE_SEED))
                    advance(1)
    tested = [number for number, one in enumerate(found) if one.compared.p is not None]
    for number, p in zip(tested, holm([found[n].compared.p or 0.0 for n in tested]), strict=True):
        one = found[number]
        found[number] = replace(one, holm=p, conclusion=conclusion(one.compared, p, one.metric))
    return found


class _Draws:
    """Metrics of one task on all days together, and on draws of their users."""

    def __init__(self, days: Mapping[Model, Mapping[int, Sequence[Day]]], column: int, replicates: int) -> None:
        self._days, self._column = days, column
        some = next(iter(next(iter(days.values())).values()))
        users = [day.users for day in some if day.users is not None]
        labels = np.concatenate([day.labels[:, column] for day in some])
        self.rows = LabelledRows(labels, np.concatenate(users) if users else None)
        self._bootstrap = UserBootstrap(self.rows.num_users, replicates=replicates)
        self._known: dict[tuple[Model, int, str], tuple[float, Values]] = {}

    def difference(self, model: Model, base: Model, metric: str) -> Difference:
        """Compute the difference over the seeds of both."""
        seeds = sorted(set(self._days[model]) & set(self._days[base]))
        values, own = zip(*(self._of(model, seed, metric) for seed in seeds), strict=True)
        others, theirs = zip(*(self._of(base, seed, metric) for seed in seeds), strict=True)
        users = self.rows.users_of(metric)
        return difference(values, others, np.stack(own), np.stack(theirs), num_users=users)

    def _of(self, model: Model, seed: int, metric: str) -> tuple[float, Values]:
        key = (model, seed, metric)
        if key not in self._known:
            logits = np.concatenate([day.logits[:, self._column] for day in self._days[model][seed]])
            self._known[key] = self._bootstrap.values(self.rows, metric, logits)
        return self._known[key]
