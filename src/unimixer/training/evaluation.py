"""A model over all batches of a split: exact metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from unimixer.data.dataset import Store
from unimixer.data.encoding.entities import MISSING_ROW
from unimixer.data.loader import Loader
from unimixer.data.prepare import check_labels
from unimixer.metrics import MetricAccumulator, TaskMetrics
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.process_group import ALONE, World

EVALUATION_BATCH = 4_096


def evaluate_model(
    model: Ranker,
    store: Store,
    split: str,
    tasks: tuple[str, ...],
    *,
    device: torch.device,
    precision: str = "float32",
    world: World = ALONE,
) -> dict[str, TaskMetrics]:
    """Metrics of every task on one split, or on the union of several, named ``validation+test``.

    Several processes score a part each; rank 0 puts their scores together and tells all of them what came out, which
    is to the last bit what one process would measure of these scores.
    """
    splits = split.split("+")
    for part in splits:
        check_tasks(store, part, tasks)
    accumulator = MetricAccumulator(tasks, with_users=store.transform.schema.keys.user is not None)
    was_training = model.training
    model.eval()
    for part in splits:
        _score(model, store, part, accumulator, device=device, precision=precision, world=world)
    model.train(was_training)
    return merged_metrics(accumulator, world)


def merged_metrics(own: MetricAccumulator, world: World) -> dict[str, TaskMetrics]:
    """Metrics of the rows of all processes."""
    states = world.collect(own.state()) if world.size > 1 else []

    def compute() -> dict[str, TaskMetrics]:
        if world.size == 1:
            return own.compute()
        whole = MetricAccumulator(own.tasks, with_users=own.with_users)
        for state in states:
            whole.update(state["logits"], state["labels"], state.get("users"))
        return whole.compute()

    return world.lead(compute)


def _score(
    model: Ranker,
    store: Store,
    split: str,
    metrics: MetricAccumulator,
    *,
    device: torch.device,
    precision: str,
    world: World,
) -> None:
    """Add the logits of one split, or of this process's part of it, to the metrics."""
    batch_size, shards = EVALUATION_BATCH * world.size, world.shards(world.size)
    loader = Loader(store, split, batch_size=batch_size, shards=shards, num_shards=world.size)
    columns = task_columns(store, metrics.tasks)
    with torch.no_grad(), progress_bar(f"evaluating {split}", loader.num_rows) as advance:
        for batch in loader.batches():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(batch.padded().to(device)).float().cpu()[: len(batch)]
            assert batch.labels is not None
            assert batch.users is not None
            users = user_keys(batch.users, metrics.num_rows, world) if metrics.with_users else None
            metrics.update(logits, batch.labels[:, columns], users)
            advance(len(batch))


def user_keys(users: torch.Tensor, first: int, world: World = ALONE) -> torch.Tensor:
    """Keys by which UAUC groups: an impression without a user is a user of its own, and so left out.

    Args:
        users: rows of the user table ``(B,)``.
        first: impressions before these, so that no two share a key.
        world: processes that measure together, whose keys must not meet either.
    """
    alone = -1 - (torch.arange(first, first + len(users)) * world.size + world.rank)
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
