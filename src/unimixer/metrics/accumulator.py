"""All metrics of a model over many batches, parts or ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError, check_shape
from unimixer.metrics.columns import (
    Labels,
    Scores,
    Weights,
    as_column,
    as_labels,
    as_scores,
    check_both_classes,
    plain,
)
from unimixer.metrics.conditional import conditional_rows
from unimixer.metrics.lists import list_hit_rate, list_mrr, list_ndcg, sorted_lists
from unimixer.metrics.names import LISTWISE, Metric, metric_names, metrics_of_lists, read_metric
from unimixer.metrics.probability import (
    excess_log_losses,
    label_entropy,
    mean_calibration,
    mean_excess,
    mean_log_loss,
    sorted_rows,
)
from unimixer.metrics.ranking import sorted_auc, sorted_user_auc, user_codes
from unimixer.metrics.reliability import BINS, Bin, calibration_error, reliability_bins

_LIST_METRICS = {"ndcg": list_ndcg, "mrr": list_mrr, "hitrate": list_hit_rate}


def lower_is_better(metric: str) -> bool:
    """Tell whether a smaller value of a metric is a better model."""
    return metric.partition("@")[0] in ("log_loss", "normalised_entropy", "excess_log_loss", "ece")


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
    """PCOC: the sum of the predicted probabilities over the sum of the labels."""
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
    asked: Mapping[str, float | None] = field(default_factory=dict)
    """Values of the metrics that were asked for by name; None where the labels do not allow one."""
    reliability: tuple[Bin, ...] | None = None
    """Bins of the reliability diagram, where ``ece`` was asked for."""

    def value(self, metric: str) -> float | None:
        """Return a metric by its name, whichever way it came to be measured."""
        found: float | None = self.asked[metric] if metric in self.asked else getattr(self, metric)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return all values by their names, those that were asked for last."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("asked", "reliability")}
        bins = {} if self.reliability is None else {"reliability": [b._asdict() for b in self.reliability]}
        return {**plain, **self.asked, **bins}


class MetricAccumulator:
    """Collects logits and labels, and computes exact metrics of them.

    An exact AUC needs every score, so the memory is 4 bytes a logit, 1 a label (4 where one is a probability) and 8 a
    user (13 MB a million rows of one task). The result is the same to the last bit in whatever order and parts the
    rows came.

    Args:
        tasks: Names of the tasks, in the order of the logits' columns.
        with_users: Whether :meth:`update` is given the users, from which UAUC and GAUC follow.
        truths: Tasks whose true probability :meth:`update` is given, from which the excess log loss follows.
        metrics: Further metrics by name, such as ``ndcg@10``; the lists are those of requests, else of users.
        with_requests: Whether :meth:`update` is given the requests.
        weighted: Whether :meth:`update` is given weights. All metrics use them but those of lists.
        chain: Tasks that happen only after another one, as in a recipe. Each is also measured given that other one, on
            the rows where it happened, by the name ``TASK_given_OTHER``.

    Example:
        >>> metrics = MetricAccumulator(("click",), with_users=False)
        >>> metrics.update(logits=[[0.3], [-1.2]], labels=[[1], [0]])
        >>> metrics.compute()["click"].auc
        1.0
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        with_users: bool = True,
        truths: Sequence[str] = (),
        metrics: Sequence[str] = (),
        with_requests: bool = False,
        weighted: bool = False,
        chain: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise UnimixerError(f"tasks={tasks!r} must be one or more different names")
        self.tasks, self.truths, self.metrics = tuple(tasks), tuple(truths), metric_names(metrics)
        self.with_users, self.with_requests, self.weighted = with_users, with_requests, weighted
        self.chain = dict(chain or {})
        if not set(self.truths) <= set(self.tasks):
            raise UnimixerError(f"truths={truths!r} must be some of the tasks {self.tasks}")
        of_lists = metrics_of_lists(self.metrics)
        if of_lists and not (with_users or with_requests):
            raise UnimixerError(f"metric {of_lists[0]} is one of lists; give the users or the requests of the rows")
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self._columns}

    @property
    def _columns(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of every column that is collected."""
        optional = {
            "users": (self.with_users, ()),
            "truth": (bool(self.truths), (len(self.truths),)),
            "weights": (self.weighted, ()),
            "requests": (self.with_requests, ()),
        }
        given: dict[str, tuple[int, ...]] = {name: shape for name, (there, shape) in optional.items() if there}
        return {"logits": (len(self.tasks),), "labels": (len(self.tasks),), **given}

    @property
    def _options(self) -> dict[str, Any]:
        names = ("with_users", "truths", "metrics", "with_requests", "weighted", "chain")
        return {name: getattr(self, name) for name in names}

    def empty(self) -> MetricAccumulator:
        """Return an accumulator of the same metrics without rows."""
        return MetricAccumulator(self.tasks, **self._options)

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return sum(len(part) for part in self._parts["labels"])

    def update(
        self, logits: Any, labels: Any, users: Any = None, truth: Any = None, weights: Any = None, requests: Any = None
    ) -> None:
        """Add a batch; arrays or tensors on any device.

        Args:
            logits: ``(B, tasks)``
            labels: ``(B, tasks)`` of 0 and 1, or probabilities.
            users: ``(B,)`` integers.
            truth: ``(B, truths)`` true probabilities, for an accumulator with ``truths``.
            weights: ``(B,)`` numbers from 0 on.
            requests: ``(B,)`` integers.
        """
        scores = as_scores(logits, "logits")
        check_shape("logits", scores, (None, len(self.tasks)))
        batch = {"logits": scores, "labels": as_labels(labels)}
        optional = {"users": users, "truth": truth, "weights": weights, "requests": requests}
        options = {"users": "with_users", "truth": "truths", "weights": "weighted", "requests": "with_requests"}
        for name, values in optional.items():
            if (name in self._columns) != (values is not None):
                one = name == "truth"
                needs, were = (
                    ("needs", "none was" if one else "none were"),
                    ("takes no", "it was" if one else "they were"),
                )
                needed, given = needs if values is None else were
                option = f"{options[name]}={getattr(self, options[name])}"
                raise UnimixerError(f"MetricAccumulator({option}) {needed} {name}, and {given} given to update()")
            if values is not None:
                batch[name] = as_column(name, values)
        for name, shape in self._columns.items():
            check_shape(name, batch[name], (len(scores), *shape))
        for name, column in batch.items():
            self._parts[name].append(column)

    def merge(self, other: MetricAccumulator) -> None:
        """Add the rows of another accumulator, as of another part or rank."""
        own, others = ({"tasks": a.tasks, **a._options} for a in (self, other))
        if own != others:
            raise UnimixerError(
                f"accumulators differ: {', '.join(f'{k} {own[k]} and {others[k]}' for k in own)}; merge equal ones"
            )
        for name, parts in other._parts.items():
            self._parts[name] += parts

    def compute(self) -> dict[str, TaskMetrics]:
        """Metrics by task.

        Raises:
            UnimixerError: without rows, or naming the task whose labels are all equal: it has no AUC.
        """
        if not self.num_rows:
            raise UnimixerError("no rows: update the accumulator before it computes")
        columns = self.state()
        if self.weighted:  # a row of weight 0 is no row
            counted = columns["weights"] > 0
            columns = {name: column[counted] for name, column in columns.items()}
            if not counted.any():
                raise UnimixerError("weights are 0 in all rows; give a positive weight to some")
        columns |= {name: user_codes(columns[name]) for name in ("users", "requests") if name in columns}
        results = {task: self._measure(task, columns, task) for task in self.tasks}
        for name, task, given, logits in conditional_rows(columns, self.tasks, self.chain):
            results[name] = self._measure(task, given, name, logits)
        return results

    def _measure(
        self, task: str, columns: dict[str, NDArray[Any]], name: str, logits: Scores | None = None
    ) -> TaskMetrics:
        """Measure one task on some rows; other ``logits`` than its own have no known truth."""
        column = self.tasks.index(task)
        labels = as_labels(columns["labels"][:, column])
        known = logits is None and task in self.truths
        truth = as_labels(columns["truth"][:, self.truths.index(task)]) if known else None
        scores = columns["logits"][:, column].copy() if logits is None else logits
        check_both_classes(labels, name=f"label {name!r}")
        users, weights = columns.get("users"), columns.get("weights")
        asked, bins = _asked(self.metrics, scores, labels, columns.get("requests", users), weights)
        return _task_metrics(task, scores, labels, users, truth, weights, asked, bins)

    def state(self) -> dict[str, NDArray[Any]]:
        """All rows as arrays: ``logits`` and ``labels`` ``(rows, tasks)``, ``users`` ``(rows,)``, and the others given.

        Labels and truth are uint8 where all are 0 or 1, else floats.
        """
        kinds = {"logits": np.float32, "labels": np.bool_, "truth": np.bool_, "weights": np.float64}
        return {
            name: plain(np.concatenate([np.empty((0, *shape), kinds.get(name, np.int64)), *self._parts[name]]))
            for name, shape in self._columns.items()
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace all rows by those of :meth:`state`, whose arrays may come back as tensors."""
        if set(state) != set(self._columns):
            raise UnimixerError(f"state has {sorted(state)}, expected {sorted(self._columns)}")
        fresh = self.empty()
        fresh.update(**state)
        self._parts = fresh._parts


def _asked(
    names: Sequence[str],
    logits: Scores,
    labels: Labels,
    lists: NDArray[np.uint64] | None,
    weights: Weights | None,
) -> tuple[dict[str, float | None], tuple[Bin, ...] | None]:
    """Measure the metrics that were asked for, and the bins of the first ECE."""
    metrics = [read_metric(name) for name in names]
    errors = [metric for metric in metrics if metric.kind == "ece"]
    cut = {m.name: reliability_bins(logits, labels, weights, m.number or BINS) for m in errors}
    rows = None
    if lists is not None and any(metric.kind in LISTWISE for metric in metrics):
        rows = sorted_lists(logits, labels, lists)
    hard = labels.dtype == np.bool_

    def value(metric: Metric) -> float | None:
        if metric.kind == "ece":
            return calibration_error(cut[metric.name])
        if metric.kind == "rig":
            sums = sorted_rows(logits, labels, weights)
            return 1 - mean_log_loss(sums) / label_entropy(sums)
        if rows is None or not (hard or metric.kind == "ndcg"):
            return None
        return _LIST_METRICS[metric.kind](rows, metric.number)

    return {m.name: value(m) for m in metrics}, cut[errors[0].name] if errors else None


def _task_metrics(
    task: str,
    logits: Scores,
    labels: Labels,
    codes: NDArray[np.uint64] | None,
    truth: Labels | None,
    weights: Weights | None,
    asked: Mapping[str, float | None],
    bins: tuple[Bin, ...] | None,
) -> TaskMetrics:
    area = sorted_auc(logits, labels, weights=weights)
    by_user = None if codes is None else sorted_user_auc(logits, labels, codes, weights)
    rows = sorted_rows(logits, labels, weights)
    loss = mean_log_loss(rows)
    excess, error = (None, None) if truth is None else mean_excess(excess_log_losses(logits, truth), weights)
    return TaskMetrics(
        auc=area,
        uauc=by_user.uauc if by_user and by_user.users_counted else None,
        gauc=by_user.gauc if by_user and by_user.users_counted else None,
        log_loss=loss,
        normalised_entropy=loss / label_entropy(rows),
        calibration=mean_calibration(rows),
        num_rows=len(labels),
        positive_rate=rows.sum_of_labels / rows.total,
        users_counted=by_user.users_counted if by_user else 0,
        users_left_out=by_user.users_left_out if by_user else 0,
        excess_log_loss=excess,
        excess_log_loss_error=error,
        asked=asked,
        reliability=bins,
    )
