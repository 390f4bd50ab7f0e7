"""A model over all batches of a split: exact metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from unimixer.data.entities import MISSING_ROW
from unimixer.data.loader import Loader
from unimixer.data.prepare import check_labels
from unimixer.data.store import Store
from unimixer.metrics import MetricAccumulator, TaskMetrics
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker

EVALUATION_BATCH = 4_096


def evaluate_model(
    model: Ranker, store: Store, split: str, tasks: tuple[str, ...], *, device: torch.device, precision: str = "float32"
) -> dict[str, TaskMetrics]:
    """Metrics of every task on one split, or on the union of several, named ``validation+test``."""
    splits = split.split("+")
    for part in splits:
        check_tasks(store, part, tasks)
    accumulator = MetricAccumulator(tasks, with_users=store.transform.schema.keys.user is not None)
    was_training = model.training
    model.eval()
    for part in splits:
        _score(model, store, part, accumulator, device=device, precision=precision)
    model.train(was_training)
    return accumulator.compute()


def _score(
    model: Ranker, store: Store, split: str, metrics: MetricAccumulator, *, device: torch.device, precision: str
) -> None:
    """Add the logits of one split to the metrics."""
    loader = Loader(store, split, batch_size=EVALUATION_BATCH)
    columns = task_columns(store, metrics.tasks)
    with torch.no_grad(), progress_bar(f"evaluating {split}", loader.num_rows) as advance:
        for batch in loader.batches():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(batch.to(device)).float().cpu()
            assert batch.labels is not None
            assert batch.users is not None
            users = user_keys(batch.users, metrics.num_rows) if metrics.with_users else None
            metrics.update(logits, batch.labels[:, columns], users)
            advance(len(batch))


def user_keys(users: torch.Tensor, first: int) -> torch.Tensor:
    """Keys by which UAUC groups: an impression without a user is a user of its own, and so left out.

    Args:
        users: rows of the user table ``(B,)``.
        first: impressions before these, so that no two share a key.
    """
    alone = -1 - torch.arange(first, first + len(users))
    return torch.where(users == MISSING_ROW, alone, users)


def check_tasks(store: Store, split: str, tasks: Sequence[str]) -> None:
    """Raise if a task, unlike labels that are not learned, has one class only in a split."""
    schema, summary = store.transform.schema, store.summary(split)
    chosen = [i for i, label in enumerate(schema.labels) if label.name in tasks]
    labels = tuple(schema.labels[i] for i in chosen)
    positives = [summary.positives[i] for i in chosen]
    check_labels(schema.model_copy(update={"labels": labels}), replace(summary, positives=positives), split)


def task_columns(store: Store, tasks: tuple[str, ...]) -> torch.Tensor:
    """Columns of the tasks among the labels of the store."""
    names = store.transform.schema.label_names
    return torch.tensor([names.index(task) for task in tasks])


def as_json(metrics: dict[str, TaskMetrics]) -> dict[str, dict[str, Any]]:
    """Metrics as plain values."""
    return {task: asdict(values) for task, values in metrics.items()}
