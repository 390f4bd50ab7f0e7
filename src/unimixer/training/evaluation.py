"""Exact metrics of a model over all batches of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unimixer.data.dataset import Dataset
from unimixer.data.encoding.entities import MISSING_ROW
from unimixer.data.loader import Loader
from unimixer.data.prepare import check_labels
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError
from unimixer.metrics import MetricAccumulator, TaskMetrics
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.config import Recipe
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup
from unimixer.training.sampling import all_rows_weights

EVALUATION_BATCH = 4_096
MOST_BROKEN = 0.01
"""Largest share of a label's positives without the label before it in a chain."""


def evaluate_model(
    model: Ranker,
    dataset: Dataset,
    split: str,
    tasks: tuple[str, ...],
    *,
    precision: str = "float32",
    metrics: Sequence[str] = (),
    chain: Mapping[str, str] | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    scored: Callable[[torch.Tensor], None] | None = None,
) -> dict[str, TaskMetrics]:
    """Measure every task on one split, or on the union of several, named ``validation+test``.

    Each process scores its part of the rows. Rank 0 merges the scores and sends the metrics to all; they equal those
    of a single process to the last bit. A label of the ``chain`` is also measured given the one before it. ``scored``
    takes the logits of every batch of this process.
    """
    splits = split.split("+")
    for part in splits:
        check_tasks(dataset, part, tasks)
    schema = dataset.transform.schema
    weighted = any(all_rows_weights(schema, part) is not None for part in splits)
    accumulator = empty_accumulator(dataset, tasks, metrics, weighted=weighted, chain=chain)
    was_training = model.training
    model.eval()
    for part in splits:
        _score(model, dataset, part, accumulator, precision=precision, processes=processes, scored=scored)
    model.train(was_training)
    return merged_metrics(accumulator, processes)


def empty_accumulator(
    dataset: Dataset,
    tasks: tuple[str, ...],
    metrics: Sequence[str],
    *,
    weighted: bool = False,
    chain: Mapping[str, str] | None = None,
) -> MetricAccumulator:
    """Make an accumulator for the tasks; ``metrics`` are those beyond the usual ones, over the lists of users."""
    schema = dataset.transform.schema
    truths = tuple(task for task in tasks if task in schema.truths)
    has_users = schema.keys.user is not None
    return MetricAccumulator(
        tasks, with_users=has_users, truths=truths, metrics=metrics, weighted=weighted, chain=chain
    )


def merged_metrics(own: MetricAccumulator, processes: ProcessGroup) -> dict[str, TaskMetrics]:
    """Compute the metrics of the rows of all processes."""
    states = processes.collect(own.state()) if processes.size > 1 else []

    def compute() -> dict[str, TaskMetrics]:
        if processes.size == 1:
            return own.compute()
        whole = own.empty()
        for state in states:
            whole.update(**state)
        return whole.compute()

    return processes.on_rank_zero(compute)


def _score(
    model: Ranker,
    dataset: Dataset,
    split: str,
    metrics: MetricAccumulator,
    *,
    precision: str,
    processes: ProcessGroup,
    scored: Callable[[torch.Tensor], None] | None,
) -> None:
    """Add the logits of one split, or of this process's part of it, to the metrics."""
    device, size = next(model.parameters()).device, processes.size
    loader = Loader(dataset, split, batch_size=EVALUATION_BATCH * size, shards=processes.shards(size), num_shards=size)
    columns, negative = task_columns(dataset, metrics.tasks), all_rows_weights(dataset.transform.schema, split)
    schema = dataset.transform.schema
    sampled = 0 if schema.sampled_label is None else schema.label_names.index(schema.sampled_label.name)
    truths = task_columns(dataset, tuple(dataset.transform.schema.truths[task] for task in metrics.truths))
    with torch.no_grad(), progress_bar(f"evaluating {split}", loader.num_rows) as advance:
        for batch in loader.batches():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(batch.padded().to(device)).float().cpu()[: len(batch)]
            assert batch.labels is not None
            assert batch.users is not None
            users = user_keys(batch.users, metrics.num_rows, processes) if metrics.with_users else None
            truth = batch.labels[:, truths] if metrics.truths else None
            weights = torch.where(batch.labels[:, sampled] > 0, 1.0, negative or 1.0) if metrics.weighted else None
            metrics.update(logits, batch.labels[:, columns], users, truth, weights)
            if scored is not None:
                scored(logits)
            advance(len(batch))


def user_keys(users: torch.Tensor, first: int, processes: ProcessGroup = SINGLE_PROCESS) -> torch.Tensor:
    """Compute the keys by which UAUC groups: an impression without a user gets a key of its own and so is left out.

    Args:
        users: rows of the user table ``(B,)``.
        first: number of impressions before these, so that no two share a key.
        processes: processes that measure together; their keys differ too.
    """
    unique = -1 - (torch.arange(first, first + len(users)) * processes.size + processes.rank)
    return torch.where(users == MISSING_ROW, unique, users)


def check_tasks(dataset: Dataset, split: str, tasks: Sequence[str]) -> None:
    """Raise if a task has only one class in a split; labels that are not tasks may."""
    schema, summary = dataset.transform.schema, dataset.summary(split)
    chosen = [i for i, label in enumerate(schema.labels) if label.name in tasks]
    labels = tuple(schema.labels[i] for i in chosen)
    positives = [summary.positives[i] for i in chosen]
    check_labels(schema.model_copy(update={"labels": labels}), replace(summary, positives=positives), split)


def check_chain(dataset: Dataset, chain: Mapping[str, str], splits: Sequence[str] = SPLITS) -> list[str]:
    """Count the rows that break a chain: a label is 1 where the one before it is 0.

    Such rows keep their labels: the loss and the metrics of all rows read them as they are, and metrics given the label
    before leave them out.

    Returns:
        A sentence for every label and split with such rows.

    Raises:
        UnimixerError: if they are more than :data:`MOST_BROKEN` of the label's positives, or a label never differs
            where the one before it happened.
    """
    names, lines = dataset.transform.schema.label_names, list[str]()
    for split in splits if chain else ():
        counts = {task: np.zeros((2, 2), dtype=np.int64) for task in chain}
        for rows in dataset.parts(split):
            assert rows.labels is not None
            for task, before in chain.items():
                own, first = (np.asarray(rows.labels[:, names.index(name)]) > 0 for name in (task, before))
                counts[task] += np.bincount(2 * first + own, minlength=4).reshape(2, 2)
        for task, before in chain.items():
            (_, broken), (without, with_it) = counts[task].tolist()
            text = f"model.chain: {broken:,} of {broken + with_it:,} {split} rows with {task} have no {before}"
            if broken > MOST_BROKEN * (broken + with_it):
                raise UnimixerError(
                    f"{text}, more than {MOST_BROKEN:.0%}, so {task} does not depend on {before}; correct the labels "
                    f"or leave {task} out of the chain"
                )
            if not without or not with_it:
                raise UnimixerError(
                    f"model.chain: {task} is {int(not without)} in all {split} rows with {before}, so there is nothing "
                    f"to learn given {before}; take more rows or leave {task} out of the chain"
                )
            lines += [f"{text}; they keep their labels"] if broken else []
    return lines


def task_columns(dataset: Dataset, tasks: tuple[str, ...]) -> torch.Tensor:
    """Return the columns of the tasks among the labels of the dataset."""
    names = dataset.transform.schema.label_names
    return torch.tensor([names.index(task) for task in tasks], dtype=torch.int64)


def soft_columns(dataset: Dataset, recipe: Recipe) -> torch.Tensor:
    """Return the column of the soft label of every task; a task without one has its own column."""
    soft = recipe.soft_labels
    return task_columns(dataset, tuple(soft[task].label if task in soft else task for task in recipe.tasks))


def as_json(metrics: dict[str, TaskMetrics]) -> dict[str, dict[str, Any]]:
    """Convert metrics to plain values."""
    return {task: values.as_dict() for task, values in metrics.items()}
