"""Measure a run on a split or on raw rows, and measure a file of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from unimixer.data.encoding.entities import KeyIndex
from unimixer.data.file_settings import Files
from unimixer.data.label_settings import Label
from unimixer.data.raw import values
from unimixer.data.raw.folders import log_files
from unimixer.data.raw.readers import read_chunks
from unimixer.data.raw.tables import Chunk
from unimixer.environment import states_kept
from unimixer.metrics import MetricAccumulator, TaskMetrics, metric_names
from unimixer.predictor import Predictor
from unimixer.progress import progress_bar
from unimixer.settings import parse
from unimixer.training.convert import ScoreChange, hardened_ranker, score_change
from unimixer.training.evaluation import evaluate_model, user_keys
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder, dataset_of
from unimixer.training.sampling import all_rows_weights

_INSIDE = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)
"""The smallest and the largest probability with a finite loss."""


@states_kept()
def evaluate_split(
    predictor: Predictor, split: str, *, dataset: Path | None = None, metrics: Sequence[str] = ()
) -> dict[str, TaskMetrics]:
    """Measure an open model on a split of the dataset that its run was trained on.

    Args:
        predictor: the model of a run.
        split: ``train``, ``validation`` or ``test``, or several joined by ``+``.
        dataset: the dataset, if it moved since the training.
        metrics: names of metrics beyond those of the recipe, such as ``ndcg@10``.

    Raises:
        UnimixerError: if the dataset has other content than the run was trained on.
    """
    recipe, opened = predictor.run.recipe, dataset_of(predictor.run, dataset)
    precision, names = recipe.training.precision, metric_names([*recipe.metrics, *metrics])
    return evaluate_model(
        *(predictor.model, opened, split, predictor.tasks),
        precision=precision,
        metrics=names,
        chain=recipe.model.chain,
    )


@states_kept()
def evaluate_hardened(
    run: Path | str, form: str, split: str, *, dataset: Path | None = None, metrics: Sequence[str] = ()
) -> tuple[dict[str, TaskMetrics], ScoreChange]:
    """Measure a run after its learned mixings were made hard, and how far its scores moved.

    Args:
        run: a run folder with best weights.
        form: ``permutation`` or ``top-K``, see :func:`unimixer.mixing.discretize`.
        split: ``train``, ``validation`` or ``test``.
        dataset: the dataset, if it moved since the training.
        metrics: as in :func:`evaluate_split`.
    """
    folder = RunFolder(run)
    opened, model = dataset_of(folder, dataset), load_ranker(folder)
    hard = hardened_ranker(model, form, folder)
    change = score_change(model, hard, opened, split)
    names = metric_names([*folder.recipe.metrics, *metrics])
    recipe = folder.recipe
    return evaluate_model(hard, opened, split, tuple(recipe.tasks), metrics=names, chain=recipe.model.chain), change


@states_kept()
def evaluate_rows(
    predictor: Predictor, rows: Any, *, separator: str | None = None, metrics: Sequence[str] = ()
) -> dict[str, TaskMetrics]:
    """Measure an open model on raw labelled rows; its ``coverage`` then counts the unknown values in them.

    Args:
        predictor: the model of a run.
        rows: in any form that :meth:`Predictor.predict` takes.
        separator: between two fields of CSV (default: as the log of the run was read).
        metrics: as in :func:`evaluate_split`.
    """
    schema = predictor.transform.schema
    labels = [label for task in predictor.tasks for label in schema.labels if label.name == task]
    true = [i for i, task in enumerate(predictor.tasks) if schema.truths.get(task) == task]
    truths = [predictor.tasks[i] for i in true]
    negative, sampled = all_rows_weights(schema, "new"), schema.sampled_label
    accumulator = MetricAccumulator(
        predictor.tasks,
        with_users=schema.keys.user is not None,
        truths=truths,
        metrics=metric_names([*predictor.run.recipe.metrics, *metrics]),
        weighted=negative is not None,
        chain=predictor.chain,
    )
    users = _Groups(schema.keys.user)
    sources = list(dict.fromkeys(label.column for label in (*labels, *([sampled] if negative and sampled else []))))
    with progress_bar("scoring", None) as advance:
        for chunk in predictor.chunks(rows, also=sources, separator=separator):
            logits = predictor.logits(chunk)
            classes = np.stack([values.as_label(chunk, label) for label in labels], axis=1)
            weights = None
            if negative is not None and sampled is not None:
                weights = np.where(values.as_label(chunk, sampled) > 0, 1.0, negative)
            accumulator.update(logits, classes, users.of(chunk), classes[:, true] if true else None, weights)
            advance(chunk.frame.height)
    return accumulator.compute()


@dataclass(frozen=True)
class ScoreColumns:
    """Columns of a file of scores, of this library or another."""

    label: str
    score: str = "score"
    user: str | None = None
    request: str | None = None
    weight: str | None = None
    threshold: float | None = None
    """The label is ``column >= threshold``."""
    logits: bool = False
    """The scores are logits; otherwise they are probabilities."""

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        named = (self.label, self.score, self.user, self.request, self.weight)
        return list(dict.fromkeys(name for name in named if name is not None))


def evaluate_predictions(
    path: Path, columns: ScoreColumns, *, metrics: Sequence[str] = (), separator: str | None = None
) -> dict[str, TaskMetrics]:
    """Measure a file of scores and labels: the label's column is the task.

    Args:
        path: a Parquet or CSV file, or a folder of such files.
        columns: names of the columns; without users there is no UAUC, and a row without a user or request is alone.
        metrics: names of metrics such as ``ndcg@10``; lists are those of requests, else of users.
        separator: between two fields of CSV (default: a comma).
    """
    accumulator = MetricAccumulator(
        (columns.label,),
        with_users=columns.user is not None,
        with_requests=columns.request is not None,
        weighted=columns.weight is not None,
        metrics=metrics,
    )
    label = parse(Label, {"name": columns.label, "threshold": columns.threshold}, where="label")
    users, requests = _Groups(columns.user), _Groups(columns.request)
    files = Files() if separator is None else Files(separator=separator)
    with progress_bar("reading scores", None) as advance:
        for chunk in read_chunks(log_files(path, "scores"), columns=columns.names, files=files):
            weights = None if columns.weight is None else values.as_weight(chunk, columns.weight)
            accumulator.update(
                _logits(chunk, columns)[:, None],
                values.as_label(chunk, label)[:, None],
                users.of(chunk),
                weights=weights,
                requests=requests.of(chunk),
            )
            advance(chunk.frame.height)
    return accumulator.compute()


def _logits(chunk: Chunk, columns: ScoreColumns) -> NDArray[np.float64]:
    """Read scores as logits; probabilities of exactly 0 and 1 count as the nearest ones with a finite loss."""
    scores = values.as_number(chunk, columns.score, way_out="write a number for every row")
    series = values.column(chunk, columns.score)
    values.require(chunk, series, pl.Series(~np.isnan(scores)), "is missing", "write a score for every row")
    if columns.logits:
        return scores
    valid = pl.Series((scores >= 0) & (scores <= 1))
    values.require(chunk, series, valid, "is not a probability", "pass --logits if the scores are logits")
    inside = np.clip(scores, *_INSIDE)
    logits: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return logits


class _Groups:
    """Numbers the users or requests of raw rows as they come; a row without one is a group of its own."""

    def __init__(self, name: str | None) -> None:
        self.name, self.keys, self.rows = name, KeyIndex(), 0

    def of(self, chunk: Chunk) -> torch.Tensor | None:
        """Return the number of every row's group; None without a column."""
        if self.name is None:
            return None
        texts = values.key_column(chunk, self.name)
        self.keys.add(texts)
        numbers = user_keys(torch.from_numpy(self.keys.lookup(texts).astype(np.int64)), self.rows)
        self.rows += len(numbers)
        return numbers
