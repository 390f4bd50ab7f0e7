"""What a change of the model costs: AUC of the same held-out rows before and after."""

from __future__ import annotations

from typing import Any

import torch

from unimixer.data.dataset import Store
from unimixer.data.loader import Loader
from unimixer.errors import UnimixerError
from unimixer.export.graph import Input, feed
from unimixer.export.requests import request_from
from unimixer.export.runners import Runner
from unimixer.features.request import RequestLayout
from unimixer.metrics import MetricAccumulator
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.evaluation import task_columns

ROWS = 20_000
"""Held-out impressions, each scored as a request of one candidate."""


def auc_change(
    before: Ranker,
    runner: Runner,
    inputs: tuple[Input, ...],
    layout: RequestLayout,
    store: Store,
    split: str,
    tasks: tuple[str, ...],
    rows: int,
) -> dict[str, dict[str, Any]]:
    """AUC of every task by the trained model and by the written graph, on the first rows of a seeded shuffle."""
    metrics = {name: MetricAccumulator(tasks, with_users=False) for name in ("before", "after")}
    columns, seen = task_columns(store, tasks), 0
    with torch.no_grad(), progress_bar("measuring AUC before and after", rows) as advance:
        for batch in Loader(store, split, batch_size=1_024, shuffle=True, num_workers=0).batches():
            taken = min(len(batch), rows - seen)
            assert batch.labels is not None
            labels = batch.labels[:taken, columns]
            requests = (request_from(batch, layout, row, row, row + 1) for row in range(taken))
            after = torch.cat([torch.from_numpy(runner(feed(inputs, request))[0]) for request in requests])
            metrics["before"].update(before(batch)[:taken].float(), labels)
            metrics["after"].update(after, labels)
            seen += taken
            advance(taken)
            if seen >= rows:
                break
    try:
        found = {name: accumulator.compute() for name, accumulator in metrics.items()}
    except UnimixerError as error:
        raise UnimixerError(f"AUC of {seen} {split} rows: {error}; pass more --auc-rows") from None
    return {task: {name: found[name][task].auc for name in found} | {"rows": seen, "split": split} for task in tasks}
