"""Metrics of a finished run, on a split of its store or on labelled raw rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unimixer.caller import states_kept
from unimixer.data.dataset import Store, find_store
from unimixer.data.encoding.entities import KeyIndex
from unimixer.data.raw import values
from unimixer.errors import UnimixerError
from unimixer.metrics import MetricAccumulator, TaskMetrics
from unimixer.mixing import MatrixMixing, discretize
from unimixer.predictor import Predictor, read_rows
from unimixer.progress import progress_bar
from unimixer.training.convert import ScoreChange, score_change
from unimixer.training.evaluation import evaluate_model, user_keys
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder


@states_kept()
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
    opened, place, recipe = store_of(folder, store), pick_device(device), folder.recipe
    model = load_ranker(folder, device=place)
    return evaluate_model(model, opened, split, tuple(recipe.tasks), precision=recipe.training.precision)


@states_kept()
def evaluate_hardened(
    run: Path | str, form: str, split: str, *, store: Path | None = None
) -> tuple[dict[str, TaskMetrics], ScoreChange]:
    """Metrics of a run whose learned mixings were made hard, and how far its scores moved.

    Args:
        run: a run folder with best weights.
        form: ``permutation`` or ``top-K``, see :func:`unimixer.mixing.discretize`.
        split: as in :func:`evaluate_run`, one only.
        store: the store, where it moved since the training.
    """
    folder = RunFolder(run)
    opened, model = store_of(folder, store), load_ranker(folder)
    if not any(isinstance(part, MatrixMixing) for part in model.modules()):
        raise UnimixerError(
            f"{folder.folder} is a {folder.recipe.model.backbone}: it has no learned mixing to harden; "
            "unimixer and unimixer-lite have"
        )
    hard = discretize(model, form)
    change = score_change(model, hard, opened, split)
    return evaluate_model(hard, opened, split, tuple(folder.recipe.tasks)), change


def store_of(run: RunFolder, folder: Path | None = None) -> Store:
    """The store that a run was trained on.

    Args:
        run: the run.
        folder: where the store is, if it moved since the training.

    Raises:
        UnimixerError: if it has other content.
    """
    opened = Store(find_store(str(folder or run.recipe.store)))
    expected = run.environment["data"]["hash"]
    if opened.hash != expected:
        raise UnimixerError(
            f"{opened.folder} has content {opened.hash}, the run was trained on {expected}; "
            "evaluate other data as raw rows, with --input"
        )
    return opened


def evaluate_file(
    run: Path | str, path: Path, *, device: str = "auto", separator: str | None = None
) -> dict[str, TaskMetrics]:
    """Metrics of a run's best weights on raw labelled rows.

    Args:
        run: a run folder with best weights.
        path: a Parquet or CSV file, or a folder of such files.
        device: ``auto``, ``cpu`` or ``cuda``.
        separator: what stands between two fields of CSV (default: as the log of the run was read).
    """
    predictor = Predictor(run, device=device)
    metrics = evaluate_rows(predictor, path, separator=separator)
    predictor.warn()
    return metrics


@states_kept()
def evaluate_rows(predictor: Predictor, path: Path, *, separator: str | None = None) -> dict[str, TaskMetrics]:
    """:func:`evaluate_file` with an open model, whose ``coverage`` then tells of the rows."""
    schema = predictor.transform.schema
    labels = [label for task in predictor.tasks for label in schema.labels if label.name == task]
    accumulator = MetricAccumulator(predictor.tasks, with_users=schema.keys.user is not None)
    keys = KeyIndex()
    sources = [label.source or label.name for label in labels]
    with progress_bar("scoring", None) as advance:
        for chunk in read_rows(schema, path, also=sources, separator=separator):
            logits = predictor.logits(chunk)
            classes = np.stack([values.as_label(chunk, label) for label in labels], axis=1)
            users = None
            if schema.keys.user is not None:
                # unseen users are users too: number them as they come
                texts = values.key_column(chunk, schema.keys.user)
                keys.add(texts)
                users = user_keys(torch.from_numpy(keys.lookup(texts).astype(np.int64)), accumulator.num_rows)
            accumulator.update(logits, classes, users)
            advance(chunk.frame.height)
    return accumulator.compute()
