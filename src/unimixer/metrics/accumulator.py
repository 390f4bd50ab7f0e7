"""All metrics of a model over many batches, parts or ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError, check_shape
from unimixer.metrics.columns import Labels, Scores, as_array, as_labels, as_scores
from unimixer.metrics.probability import (
    excess_log_losses,
    label_entropy,
    mean_calibration,
    mean_log_loss,
    sorted_rows,
)
from unimixer.metrics.ranking import sorted_auc, sorted_user_auc, user_codes

LOWER_IS_BETTER = frozenset({"log_loss", "normalised_entropy", "excess_log_loss"})
"""Metrics of which a smaller value is a better model."""


@dataclass(frozen=True)
class TaskMetrics:
    """Metrics of one task."""

    auc: float
    uauc: float | None
    """Mean AUC over users with both classes; None without users, or where no user has both (``users_counted`` is 0)."""
    gauc: float | None
    """The same, weighted by impressions."""
    log_loss: float
    normalised_entropy: float
    calibration: float
    """Sum of the predicted probabilities over the sum of the labels."""
    num_rows: int
    positive_rate: float
    """Mean label."""
    users_counted: int
    users_left_out: int
    """Users whose labels are all 0 or all 1."""
    excess_log_loss: float | None = None
    """Mean cross entropy against the true probability minus its entropy; None where the truth is not known."""
    excess_log_loss_error: float | None = None
    """Its standard error over the rows."""


class MetricAccumulator:
    """Collects logits and labels, and computes exact metrics of them.

    An exact AUC needs every score, so the memory is 4 bytes a logit, 1 a label (4 where one is a probability) and 8 a
    user (13 MB a million rows of one task). The result is the same to the last bit in whatever order and parts the
    rows came.

    Args:
        tasks: Names of the tasks, in the order of the logits' columns.
        with_users: Whether :meth:`update` is given the users, from which UAUC and GAUC follow.
        truths: Tasks whose true probability :meth:`update` is given, from which the excess log loss follows.

    Example:
        >>> metrics = MetricAccumulator(("click",), with_users=False)
        >>> metrics.update(logits=[[0.3], [-1.2]], labels=[[1], [0]])
        >>> metrics.compute()["click"].auc
        1.0
    """

    def __init__(self, tasks: Sequence[str], *, with_users: bool = True, truths: Sequence[str] = ()) -> None:
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise UnimixerError(f"tasks={tasks!r} must be one or more different names")
        self.tasks, self.with_users, self.truths = tuple(tasks), with_users, tuple(truths)
        if not set(self.truths) <= set(self.tasks):
            raise UnimixerError(f"truths={truths!r} must be some of the tasks {self.tasks}")
        self._logits: list[Scores] = []
        self._labels: list[Labels] = []
        self._users: list[NDArray[np.int64]] = []
        self._truth: list[Labels] = []

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return sum(len(part) for part in self._labels)

    def update(self, logits: Any, labels: Any, users: Any = None, truth: Any = None) -> None:
        """Add a batch; arrays or tensors on any device.

        Args:
            logits: ``(B, tasks)``
            labels: ``(B, tasks)`` of 0 and 1, or probabilities.
            users: ``(B,)`` integers.
            truth: ``(B, truths)`` true probabilities, for an accumulator with ``truths``.
        """
        scores, classes = as_scores(logits, "logits"), as_labels(labels)
        check_shape("logits", scores, (None, len(self.tasks)))
        check_shape("labels", classes, scores.shape)
        if self.with_users != (users is not None):
            rule, fact = ("needs", "none were") if self.with_users else ("takes no", "they were")
            raise UnimixerError(
                f"MetricAccumulator(with_users={self.with_users}) {rule} users, and {fact} given to update()"
            )
        if users is not None:
            keys = as_array(users)
            check_shape("users", keys, scores.shape[:1])
            if keys.dtype.kind not in "iu":
                raise UnimixerError(f"users are {keys.dtype}, expected integers; encode their keys first")
        if bool(self.truths) != (truth is not None):
            rule, fact = ("needs", "none was") if self.truths else ("takes no", "it was")
            raise UnimixerError(f"MetricAccumulator(truths={self.truths}) {rule} truth, and {fact} given to update()")
        if truth is not None:
            truths = as_labels(truth, "truth")
            check_shape("truth", truths, (len(scores), len(self.truths)))
            self._truth.append(truths)
        if users is not None:
            self._users.append(keys.astype(np.int64))
        self._logits.append(scores)
        self._labels.append(classes)

    def merge(self, other: MetricAccumulator) -> None:
        """Add the rows of another accumulator, as of another part or rank."""
        if (other.tasks, other.with_users, other.truths) != (self.tasks, self.with_users, self.truths):
            raise UnimixerError(
                f"accumulators differ: tasks {self.tasks} and {other.tasks}, "
                f"with_users {self.with_users} and {other.with_users}, truths {self.truths} and {other.truths}; "
                "merge equal ones"
            )
        self._logits += other._logits
        self._labels += other._labels
        self._users += other._users
        self._truth += other._truth

    def compute(self) -> dict[str, TaskMetrics]:
        """Metrics by task.

        Raises:
            UnimixerError: without rows, or naming the task whose labels are all equal: it has no AUC.
        """
        if not self.num_rows:
            raise UnimixerError("no rows: update the accumulator before it computes")
        columns = self.state()
        codes = user_codes(columns["users"]) if self.with_users else None
        results = {}
        for column, task in enumerate(self.tasks):
            logits, labels = columns["logits"][:, column].copy(), as_labels(columns["labels"][:, column])
            truth = as_labels(columns["truth"][:, self.truths.index(task)]) if task in self.truths else None
            results[task] = _task_metrics(task, logits, labels, codes, truth)
        return results

    def state(self) -> dict[str, NDArray[Any]]:
        """All rows as arrays: ``logits`` and ``labels`` ``(rows, tasks)``, ``users`` ``(rows,)``, and ``truth``.

        Labels and truth are uint8 where all are 0 or 1, else floats.
        """
        empty = (0, len(self.tasks))
        state: dict[str, NDArray[Any]] = {
            "logits": np.concatenate([np.empty(empty, np.float32), *self._logits]),
            "labels": _plain(np.concatenate([np.empty(empty, np.bool_), *self._labels])),
        }
        if self.truths:
            state["truth"] = _plain(np.concatenate([np.empty((0, len(self.truths)), np.bool_), *self._truth]))
        if self.with_users:
            state["users"] = np.concatenate([np.empty(0, np.int64), *self._users])
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace all rows by those of :meth:`state`, whose arrays may come back as tensors."""
        names = {"logits", "labels"} | ({"users"} if self.with_users else set()) | ({"truth"} if self.truths else set())
        if set(state) != names:
            raise UnimixerError(f"state has {sorted(state)}, expected {sorted(names)}")
        fresh = MetricAccumulator(self.tasks, with_users=self.with_users, truths=self.truths)
        fresh.update(state["logits"], state["labels"], state.get("users"), state.get("truth"))
        self._logits, self._labels, self._users = fresh._logits, fresh._labels, fresh._users
        self._truth = fresh._truth


def _plain(labels: NDArray[Any]) -> NDArray[Any]:
    return labels.view(np.uint8) if labels.dtype == np.bool_ else labels


def _task_metrics(
    task: str, logits: Scores, labels: Labels, codes: NDArray[np.uint64] | None, truth: Labels | None
) -> TaskMetrics:
    area = sorted_auc(logits, labels, name=f"label {task!r}")
    by_user = None if codes is None else sorted_user_auc(logits, labels, codes)
    rows = sorted_rows(logits, labels)
    loss = mean_log_loss(rows)
    excess = None if truth is None else np.sort(excess_log_losses(logits, truth))
    return TaskMetrics(
        auc=area,
        uauc=by_user.uauc if by_user and by_user.users_counted else None,
        gauc=by_user.gauc if by_user and by_user.users_counted else None,
        log_loss=loss,
        normalised_entropy=loss / label_entropy(rows),
        calibration=mean_calibration(rows),
        num_rows=len(labels),
        positive_rate=rows.sum_of_labels / len(labels),
        users_counted=by_user.users_counted if by_user else 0,
        users_left_out=by_user.users_left_out if by_user else 0,
        excess_log_loss=None if excess is None else float(excess.mean()),
        excess_log_loss_error=None
        if excess is None or len(excess) < 2
        else float(excess.std(ddof=1) / np.sqrt(len(excess))),
    )
