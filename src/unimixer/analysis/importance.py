"""Permutation importance: how much worse a trained model ranks when a part of its input is shuffled between rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unimixer.analysis.significance import UserBootstrap, difference
from unimixer.analysis.weighted_metrics import HIGHER_IS_BETTER, LabelledRows
from unimixer.bundles.bundle import Bundle, open_bundle
from unimixer.bundles.manifest import NAME as BUNDLE_MANIFEST
from unimixer.bundles.requests import request_from
from unimixer.bundles.write import vocabulary_hash
from unimixer.data.dataset import Dataset, open_dataset
from unimixer.data.encoding.entities import MISSING_ROW
from unimixer.data.encoding.rows import Rows
from unimixer.data.schema import PADDING_ID
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError, check_choice, check_positive, unknown
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec
from unimixer.progress import progress_bar
from unimixer.training.evaluation import EVALUATION_BATCH, task_columns
from unimixer.training.model import load_ranker, pick_device
from unimixer.training.run import RunFolder, dataset_of

METRICS = ("auc", "uauc", "log_loss")
BY = ("features", "domains")
REPLICATES = 200
USER_DOMAINS = ("user", "behaviour")
Score = Callable[[Batch], Tensor]
"""Logits ``(rows, tasks)`` of a batch."""


@dataclass(frozen=True)
class ImportanceOptions:
    """What is measured."""

    split: str = "test"
    task: str | None = None
    """Task whose metrics are measured (default: the first)."""
    by: str = "features"
    """``features``: every feature, and every history as one; ``domains``: user, item, behaviour, context."""
    groups: Sequence[Sequence[str]] = ()
    """Further parts: features, histories or domains that are replaced together."""
    rows: int | None = None
    """Measure on whole users, drawn with the seed until they have this many rows (default: all rows)."""
    repeats: int = 1
    """Permutations of every part, of which the mean is taken."""
    missing: bool = False
    """Replace values by missing ones instead of permuting them."""
    seed: int = 0
    replicates: int = REPLICATES
    """Draws of users for the intervals."""


@dataclass(frozen=True)
class Loss:
    """How much worse a metric is without a part: the drop of AUC and UAUC, the rise of log loss."""

    worse: float
    low: float
    """Lower end of the interval of 95% over users."""
    high: float


@dataclass(frozen=True)
class PartImportance:
    """The importance of one part of the input."""

    name: str
    parts: tuple[str, ...]
    losses: Mapping[str, Loss]
    """By metric."""


@dataclass(frozen=True)
class Importance:
    """The importance of all parts, the most important first."""

    model: str
    task: str
    split: str
    rows: int
    users: int
    replaced_by: str
    """``permuted`` or ``missing``."""
    base: Mapping[str, float]
    """Metrics of the model as it is."""
    parts: tuple[PartImportance, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@states_kept()
def measure_importance(
    model: Path | str, options: ImportanceOptions, *, dataset: Path | None = None, device: str = "auto"
) -> Importance:
    """Measure how much worse a model is when parts of its input come from other rows, without training it again.

    Values of the user and of the user's histories move between users: all rows of a user get the values of one other
    user. Values of items and of the context move between rows.

    Args:
        model: a run folder, or a bundle.
        options: what is measured.
        dataset: the dataset, needed for a bundle, and for a run whose dataset moved.
        device: ``auto``, ``cpu`` or ``cuda``; a bundle runs on the CPU.
    """
    started = time.perf_counter()
    check_choice("--by", options.by, BY)
    check_positive(repeats=options.repeats, **({} if options.rows is None else {"rows": options.rows}))
    score, tasks, opened = _open(Path(model), dataset, device)
    task = options.task or tasks[0]
    if task not in tasks:
        raise unknown("task", task, tasks)
    generator = np.random.default_rng(options.seed)
    rows = _whole_users(opened, options, generator)
    spec = opened.transform.spec
    parts = _parts(spec, options)
    column, batches = tasks.index(task), range(0, len(rows), EVALUATION_BATCH)

    def logits(change: Callable[[Batch, NDArray[np.int64]], Batch] | None, advance: Callable[[int], None]) -> Any:
        scores = []
        for start in batches:
            places = np.arange(start, min(start + EVALUATION_BATCH, len(rows)))
            batch = opened.transform.batch(rows.take(places))
            scores.append(score(batch if change is None else change(batch, places))[:, column].float().cpu())
            advance(len(places))
        return torch.cat(scores).numpy()

    labelled = _labelled(opened, rows, task)
    bootstrap = UserBootstrap(labelled.num_users, replicates=options.replicates, seed=options.seed)
    metrics = [name for name in METRICS if name in labelled.metrics]
    repeats = 1 if options.missing else options.repeats
    importances = []
    with progress_bar("importance", len(rows) * (1 + repeats * len(parts))) as advance:
        plain = logits(None, advance)
        base = {metric: bootstrap.values(labelled, metric, plain) for metric in metrics}
        for name, members in parts.items():
            changed: dict[str, list[Any]] = {metric: [] for metric in metrics}
            for _ in range(repeats):
                replace_part = _replacement(opened, rows, members, options, generator)
                values = logits(replace_part, advance)
                for metric in metrics:
                    changed[metric].append(bootstrap.values(labelled, metric, values))
            losses = {metric: _loss(metric, base[metric], changed[metric], labelled) for metric in metrics}
            importances.append(PartImportance(name, tuple(members), losses))
    return Importance(
        model=str(model),
        task=task,
        split=options.split,
        rows=len(rows),
        users=labelled.num_users,
        replaced_by="missing" if options.missing else "permuted",
        base={metric: value for metric, (value, _) in base.items()},
        parts=tuple(sorted(importances, key=lambda part: -part.losses["auc"].worse)),
        seconds=round(time.perf_counter() - started, 1),
    )


def _open(model: Path, dataset: Path | None, device: str) -> tuple[Score, tuple[str, ...], Dataset]:
    """Open a run or a bundle: its scores, its tasks and its dataset."""
    if (model / BUNDLE_MANIFEST).exists():
        if dataset is None:
            raise UnimixerError(f"{model} is a bundle, which has no dataset: give --data DATASET")
        bundle, opened = open_bundle(model), open_dataset(dataset)
        if bundle.manifest["vocabularies"] != vocabulary_hash(opened.transform):
            raise UnimixerError(
                f"{opened.folder} has other vocabularies than {model}; give the dataset of its run, or the run itself, "
                "which reads its dataset without the days that were appended since"
            )
        return lambda batch: _bundle_logits(bundle, batch), bundle.tasks, opened
    run, place = RunFolder(model), pick_device(device)
    ranker, recipe = load_ranker(run, device=place), run.recipe

    @torch.no_grad()
    def score(batch: Batch) -> Tensor:
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=recipe.training.precision == "bfloat16"):
            logits: Tensor = ranker(batch.to(place))
        return logits

    return score, tuple(recipe.tasks), dataset_of(run, dataset)


def _bundle_logits(bundle: Bundle, batch: Batch) -> Tensor:
    """Score every row as a request of one candidate."""
    requests = (request_from(batch, bundle.layout, row, row, row + 1) for row in range(len(batch)))
    return torch.from_numpy(np.concatenate([bundle.logits(request) for request in requests]))


def _whole_users(dataset: Dataset, options: ImportanceOptions, generator: np.random.Generator) -> Rows:
    """Read the rows of a split, or of as many whole users as have the rows that were asked for."""
    if not dataset.summary(options.split).rows:
        raise UnimixerError(f"split {options.split!r} of {dataset.folder} has no rows; choose another --split")
    rows = Rows.concatenate(list(dataset.parts(options.split)))
    if options.rows is None or options.rows >= len(rows):
        return rows
    users, counts = np.unique(_user_keys(rows), return_counts=True)
    order = generator.permutation(len(users))
    enough = int(np.searchsorted(np.cumsum(counts[order]), options.rows)) + 1
    return rows.take(np.flatnonzero(np.isin(_user_keys(rows), users[order[:enough]])))


def _user_keys(rows: Rows) -> NDArray[np.int64]:
    """Return the user of every row; a row without one is a user of its own."""
    users = rows.users.astype(np.int64)
    return np.where(users == MISSING_ROW, -1 - np.arange(len(users)), users)


def _labelled(dataset: Dataset, rows: Rows, task: str) -> LabelledRows:
    assert rows.labels is not None
    labels = rows.labels[:, int(task_columns(dataset, (task,))[0])]
    return LabelledRows(labels, _user_keys(rows) if dataset.transform.schema.keys.user is not None else None)


def _parts(spec: FeatureSpec, options: ImportanceOptions) -> dict[str, list[str]]:
    """Name the parts that are replaced, each a list of features and histories."""
    names = list(spec.parts) if options.by == "features" else list(dict.fromkeys(spec.parts.values()))
    parts = {name: spec.select(name) for name in names}
    for group in options.groups:
        parts[" + ".join(group)] = list(dict.fromkeys(part for name in group for part in spec.select(name)))
    return parts


def _replacement(
    dataset: Dataset, rows: Rows, members: Sequence[str], options: ImportanceOptions, generator: np.random.Generator
) -> Callable[[Batch, NDArray[np.int64]], Batch]:
    """Return the function that replaces a part of the batch of some rows."""
    spec = dataset.transform.spec
    if options.missing:
        return lambda batch, _places: without(batch, spec, members)
    of_users = all(spec.parts[name] in USER_DOMAINS for name in members)
    has_users = dataset.transform.schema.keys.user is not None
    donors = user_donors(_user_keys(rows), generator) if of_users and has_users else generator.permutation(len(rows))
    return lambda batch, places: mixed(batch, dataset.transform.batch(rows.take(donors[places])), spec, members)


def user_donors(users: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Choose a row for every row: those of one user, all from one other user, in turn where that user has fewer.

    Example:
        >>> donors = user_donors(np.array([7, 8, 7, 9, 9, 8]), np.random.default_rng(0))
        >>> np.array([7, 8, 7, 9, 9, 8])[donors].tolist()
        [9, 7, 9, 8, 8, 7]
    """
    _, code, counts = np.unique(users, return_inverse=True, return_counts=True)
    order = np.argsort(code, kind="stable")
    starts = np.cumsum(counts) - counts
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - np.repeat(starts, counts)
    circle = generator.permutation(len(counts))  # every user gives to the next one in a circle, so none keeps its own
    donor = np.empty_like(circle)
    donor[circle] = np.roll(circle, 1)
    chosen: NDArray[np.int64] = order[starts[donor[code]] + place % counts[donor[code]]]
    return chosen


def mixed(batch: Batch, donor: Batch, spec: FeatureSpec, members: Sequence[str]) -> Batch:
    """Take some features and histories of a batch from another batch of as many rows."""
    ids, dense, groups = _columns(spec, members)
    sparse_ids, dense_features = batch.sparse_ids.clone(), batch.dense_features.clone()
    sparse_ids[:, ids], dense_features[:, dense] = donor.sparse_ids[:, ids], donor.dense_features[:, dense]
    return replace(
        batch,
        sparse_ids=sparse_ids,
        dense_features=dense_features,
        sequence_values=batch.sequence_values | {group: donor.sequence_values[group] for group in groups},
        sequence_offsets=batch.sequence_offsets | {group: donor.sequence_offsets[group] for group in groups},
    )


def without(batch: Batch, spec: FeatureSpec, members: Sequence[str]) -> Batch:
    """Make some features of a batch missing and some histories empty."""
    ids, dense, groups = _columns(spec, members)
    sparse_ids, dense_features = batch.sparse_ids.clone(), batch.dense_features.clone()
    sparse_ids[:, ids], dense_features[:, dense] = PADDING_ID, float("nan")
    return replace(
        batch,
        sparse_ids=sparse_ids,
        dense_features=dense_features,
        sequence_values=batch.sequence_values | {group: batch.sequence_values[group][:0] for group in groups},
        sequence_offsets=batch.sequence_offsets
        | {group: torch.zeros_like(batch.sequence_offsets[group]) for group in groups},
    )


def _columns(spec: FeatureSpec, members: Sequence[str]) -> tuple[list[int], list[int], list[str]]:
    """Find the columns of ids and numbers, and the groups of sequences, of some parts."""
    starts = np.cumsum([0, *(field.width for field in spec.dense)]).tolist()
    ids = [i for i, field in enumerate(spec.ids) if field.name in members]
    dense = [c for i, f in enumerate(spec.dense) if f.name in members for c in range(starts[i], starts[i + 1])]
    return ids, dense, [group for group in spec.groups if group in members]


def _loss(
    metric: str,
    base: tuple[float, NDArray[np.float64]],
    changed: Sequence[tuple[float, NDArray[np.float64]]],
    rows: LabelledRows,
) -> Loss:
    """Compute how much worse a metric became, with its interval over users and permutations."""
    estimates, draws = [value for value, _ in changed], np.stack([drawn for _, drawn in changed])
    plain, plain_draws = [base[0]] * len(changed), np.stack([base[1]] * len(changed))
    pairs = (plain, estimates, plain_draws, draws)
    if not HIGHER_IS_BETTER[metric]:
        pairs = (estimates, plain, draws, plain_draws)
    worse = difference(*pairs, num_users=rows.users_of(metric))
    return Loss(worse.estimate, worse.low, worse.high)
