"""Prepare, train, evaluate, predict, export: the main job as a few calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from unimixer.bundles import Bundle, ExportOptions, export_run
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare as write_dataset
from unimixer.data.raw.origin import open_source
from unimixer.errors import UnimixerError, unknown
from unimixer.evaluation import evaluate_rows, evaluate_split
from unimixer.metrics import TaskMetrics
from unimixer.predictor import Predictor
from unimixer.ranker import Ranker
from unimixer.settings import parse
from unimixer.training.config import Recipe, load_recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import train as train_recipe


def prepare(
    source: str | Path,
    out: Path | str,
    *,
    raw: Path | str | None = None,
    overwrite: bool = False,
    workers: int = 1,
    ray: str | None = None,
    **options: Any,
) -> Dataset:
    """Write the dataset of a data set.

    Args:
        source: name of a data set (``synthetic``, ``kuairand-pure``, ...), or a schema file for your own data.
        out: folder to make.
        raw: folder or file with the raw data.
        overwrite: replace an existing dataset.
        workers: processes that read the log and write the dataset, which is the same for any number.
        ray: workers of a Ray cluster instead: ``local``, ``auto`` or the address of a head.
        options: of the data set, for example ``rows=100_000`` for ``synthetic``.

    Example:
        >>> dataset = prepare("synthetic", "datasets/small", rows=2_000, users=50, items=50)
        >>> dataset.summary("train").rows > dataset.summary("test").rows > 0
        True
    """
    tables, origin = open_source(str(source), None if raw is None else Path(raw), options)
    return write_dataset(tables, Path(out), overwrite=overwrite, origin=origin, workers=workers, ray=ray)


def train(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    folder: Path | str | None = None,
    warm_start: Path | str | None = None,
    continued: Path | str | None = None,
    quiet: bool = False,
) -> Run:
    """Train a recipe (an object, its values, or its file) and return the finished run.

    Args:
        recipe: the model, the data and the training.
        folder: run folder to make (default: below ``runs``).
        warm_start: run whose best weights to start from.
        continued: finished run to go on from, with its last weights and the state of its optimizers.
        quiet: say nothing on standard error.

    Example:
        >>> model = {"backbone": "mlp", "width": 8, "embedding_dim": 4}
        >>> recipe = {"name": "small", "dataset": "datasets/small", "model": model, "training": {"max_steps": 2}}
        >>> run = train(recipe, folder="runs/small", quiet=True)
        >>> sorted(run.result["test"])
        ['click', 'like']
    """
    if isinstance(recipe, Mapping):
        recipe = parse(Recipe, recipe, where="recipe")
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(Path(recipe))
    run = train_recipe(
        recipe,
        folder=None if folder is None else Path(folder),
        start_from=None if warm_start is None else Path(warm_start),
        continued=None if continued is None else Path(continued),
        quiet=quiet,
    )
    return Run(run.folder)


def evaluate(
    run: Run | Path | str,
    split: str | None = None,
    *,
    rows: Any = None,
    dataset: Path | str | None = None,
    device: str = "auto",
    metrics: Sequence[str] = (),
) -> dict[str, TaskMetrics]:
    """Measure a run's best weights, see :meth:`Run.evaluate`.

    Example:
        >>> evaluate("runs/small", "validation")["click"].auc < 1
        True
    """
    return Run.load(run, device=device).evaluate(split, rows=rows, dataset=dataset, metrics=metrics)


def predict(run: Run | Path | str, rows: Any, *, device: str = "auto") -> pl.DataFrame:
    """Score raw rows with a run, see :meth:`Run.predict`.

    Example:
        >>> row = {"user_id": 1, "item_id": 5, "time": 1_737_000_000_000}
        >>> scores = predict("runs/small", [{**row, "tab": 0, "network": 1, "app_version": 2, "position": 0}])
        >>> scores.columns, scores.height
        (['click', 'like'], 1)
    """
    return Run.load(run, device=device).predict(rows)


def export(
    run: Run | Path | str,
    out: Path | str,
    *,
    dataset: Path | str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Bundle:
    """Write a run as a bundle for serving, see :meth:`Run.export`.

    Example:
        >>> export("runs/small", "bundles/small", format="pt2", largest=16).tasks
        ('click', 'like')
    """
    return Run.load(run).export(out, dataset=dataset, overwrite=overwrite, **options)


class Run(RunFolder):
    """A trained run: score rows, measure, export, or take its model into your own code.

    The best weights are loaded once, when they are first needed.

    Args:
        folder: a run folder.
        device: ``auto``, ``cpu`` or ``cuda``, for scores and metrics.

    Example:
        >>> run = Run.load("runs/small")
        >>> run.evaluate("test")["like"].num_rows == run.result["test"]["like"]["num_rows"]
        True
    """

    def __init__(self, folder: Path | str, *, device: str = "auto") -> None:
        super().__init__(folder)
        self.device = device

    @classmethod
    def load(cls, run: Run | Path | str, *, device: str = "auto") -> Run:
        """Open a run folder; a run that is open already stays as it is, unless another device is asked for.

        Raises:
            UnimixerError: if the folder is not a run.
        """
        if isinstance(run, Run):
            return run if device in ("auto", run.device) else cls(run.folder, device=device)
        return cls(run, device=device)

    @cached_property
    def predictor(self) -> Predictor:
        """The best weights and the transform; its ``coverage`` counts the unknown values in all rows so far.

        Raises:
            UnimixerError: if the run has no best weights yet.
        """
        return Predictor(self.folder, device=self.device)

    @property
    def model(self) -> Ranker:
        """The model with the best weights, in evaluation mode."""
        return self.predictor.model

    def predict(self, rows: Any) -> pl.DataFrame:
        """Compute the probabilities of raw rows in any form, see :meth:`~unimixer.predictor.Predictor.predict`."""
        return self.predictor.predict(rows)

    def evaluate(
        self,
        split: str | None = None,
        *,
        rows: Any = None,
        dataset: Path | str | None = None,
        metrics: Sequence[str] = (),
    ) -> dict[str, TaskMetrics]:
        """Measure the best weights on a split of the dataset, or on raw labelled rows.

        Args:
            split: ``train``, ``validation`` or ``test``, or several joined by ``+`` (default: ``test``).
            rows: raw rows instead of a split, in any form that :meth:`predict` takes.
            dataset: the dataset, if it moved since the training.
            metrics: names of metrics beyond those of the recipe, such as ``ndcg@10``.

        Raises:
            UnimixerError: if the dataset has other content than the run was trained on, or a row is malformed.
        """
        if rows is None:
            folder = None if dataset is None else Path(dataset)
            return evaluate_split(self.predictor, split or "test", dataset=folder, metrics=metrics)
        if split is not None or dataset is not None:
            raise UnimixerError("rows are measured instead of a split of a dataset; leave split and dataset out")
        measured = evaluate_rows(self.predictor, rows, metrics=metrics)
        self.predictor.warn()
        return measured

    def export(
        self, out: Path | str, *, dataset: Path | str | None = None, overwrite: bool = False, **options: Any
    ) -> Bundle:
        """Write the best weights as a bundle for serving, check it, and open it.

        Args:
            out: folder of the bundle.
            dataset: the dataset, if it moved since the training.
            overwrite: replace an earlier bundle.
            options: fields of :class:`~unimixer.bundles.ExportOptions`, such as ``format="pt2"``.
        """
        known = [field.name for field in fields(ExportOptions)]
        for name in options:
            if name not in known:
                raise unknown("option of export", name, known)
        folder = None if dataset is None else Path(dataset)
        return export_run(self.folder, out, ExportOptions(**options), dataset=folder, overwrite=overwrite)
