"""Metrics of a finished run, on a split of its store or on labelled raw rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unimixer.data import values
from unimixer.data.entities import KeyIndex
from unimixer.data.readers import read_chunks
from unimixer.data.store import Store, find_store
from unimixer.errors import UnimixerError
from unimixer.inference import Predictor
from unimixer.metrics import MetricAccumulator, TaskMetrics
from unimixer.training.evaluation import evaluate_model, user_keys
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder


def evaluate_run(
    run: Path | str, split: str, *, store: Path | None = None, device: str = "auto"
) -> dict[str, TaskMetrics]:
    """Metrics of a run's best weights on a split of the store that it was trained on.

    Args:
        run: a run folder with best weights.
        split: ``train``, ``validation`` or ``test``, or several joined by ``+``.
        store: the store, where it moved since the training.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UnimixerError: if the store has other content than the run was trained on.
    """
    folder = RunFolder(run)
    opened = Store(find_store(str(store or folder.recipe.store)))
    expected = folder.environment["data"]["hash"]
    if opened.hash != expected:
        raise UnimixerError(
            f"{opened.folder} has content {opened.hash}, the run was trained on {expected}; "
            "evaluate other data as raw rows, with --input"
        )
    place, recipe = pick_device(device), folder.recipe
    model = load_ranker(folder, device=place)
    return evaluate_model(model, opened, split, tuple(recipe.tasks), device=place, precision=recipe.training.precision)


def evaluate_file(run: Path | str, path: Path, *, device: str = "auto") -> dict[str, TaskMetrics]:
    """Metrics of a run's best weights on raw labelled rows (Parquet or CSV)."""
    predictor = Predictor(run, device=device)
    schema = predictor.transform.schema
    labels = [label for task in predictor.tasks for label in schema.labels if label.name == task]
    accumulator = MetricAccumulator(predictor.tasks, with_users=schema.keys.user is not None)
    keys = KeyIndex()
    for chunk in read_chunks([path]):
        logits = predictor.logits(chunk)
        classes = np.stack([values.as_label(chunk, label) for label in labels], axis=1)
        users = None
        if schema.keys.user is not None:
            # unseen users are users too: number them as they come
            texts = values.as_text(values.column(chunk, schema.keys.user))
            keys.add(texts)
            users = user_keys(torch.from_numpy(keys.lookup(texts).astype(np.int64)), accumulator.num_rows)
        accumulator.update(logits, classes, users)
    return accumulator.compute()
