"""Replay days: every day is predicted by the models of the day before, then they train on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimixer.data.dataset import Dataset, SplitSummary, add_up
from unimixer.data.encoding.cut import cut, known_rows
from unimixer.data.encoding.layout import is_id
from unimixer.data.schema import OOV_ID
from unimixer.errors import UnimixerError
from unimixer.io import atomic_file, atomic_folder, kind_of, read_json, write_text
from unimixer.metrics import MetricAccumulator
from unimixer.progress import say
from unimixer.training.config import Recipe
from unimixer.training.evaluation import EVALUATION_BATCH, as_json, task_columns, user_keys
from unimixer.training.model import load_ranker, resolve
from unimixer.training.run import RunFolder
from unimixer.training.sampling import NegativeSampling
from unimixer.training.train import resume, train

DAILY, RETRAINED, FROZEN = "daily", "retrained", "frozen"
STRATEGIES = {
    DAILY: "continued on every day",
    RETRAINED: "trained from nothing on all days",
    FROZEN: "never updated",
}
"""Ways to have a model for the next day, and their meaning."""
ROWS, MARKER = "rows.json", "replay.json"


@dataclass(frozen=True)
class Replayed:
    """One model on one day: metrics by task, what it did not know, and what it had cost."""

    recipe: str
    seed: int
    strategy: str
    day: str
    """The day that is predicted."""
    rows: int
    metrics: Mapping[str, Mapping[str, Any]]
    unknown: Mapping[str, float]
    """Share of unknown ids: ``ids`` of all fields, ``users`` and ``items`` of the keys where a feature reads them."""
    seconds: float
    """Training time of the update that made the model; 0 where there was none."""
    samples: int
    logits: NDArray[np.float32]
    labels: NDArray[np.float32]
    users: NDArray[np.int64] | None


def replay_days(
    recipes: Mapping[str, Recipe],
    dataset: Dataset,
    out: Path,
    *,
    seeds: int = 1,
    strategies: Sequence[str] = tuple(STRATEGIES),
) -> list[Replayed]:
    """Train every recipe in every way, day after day; finished runs and scores in ``out`` are kept.

    Args:
        recipes: by name.
        dataset: to which days were appended.
        out: folder for runs, scores and rows.
        seeds: runs of each, with seeds 0, 1, ...
        strategies: some of :data:`STRATEGIES`.
    """
    if len(dataset.days) < 2:
        raise UnimixerError(
            f"{dataset.folder} has no appended days to replay; append them one after the other: "
            f"unimixer data extend {dataset.folder} --raw NEWDAY"
        )
    replayed: list[Replayed] = []
    for recipe in recipes.values():
        _check_classes(dataset, tuple(resolve(recipe, dataset.transform.spec).tasks))
    _begin(recipes, dataset, out)
    for name, recipe in recipes.items():
        for seed in range(seeds):
            training = recipe.training.model_copy(update={"seed": seed})
            replayed += _replay(name, recipe.model_copy(update={"training": training}), dataset, out, strategies)
    facts = [
        {key: value for key, value in vars(one).items() if key not in ("logits", "labels", "users")} for one in replayed
    ]
    write_text(out / ROWS, json.dumps({"dataset": dataset.hash, "rows": facts}, indent=1) + "\n")
    return replayed


def _begin(recipes: Mapping[str, Recipe], dataset: Dataset, out: Path) -> None:
    """Raise unless ``out`` is free, or holds a replay of these first days and of no other recipes."""
    first, begun = dataset.days[0]["hash"], list[str]()
    if (out / MARKER).is_file():
        facts = read_json(out / MARKER, "first", "recipes", way_out="choose another --out")
        begun = list(facts["recipes"])
        if facts["first"] != first:
            raise UnimixerError(
                f"{out} is a replay of other data: its first days have content {facts['first']}, and those of "
                f"{dataset.folder} have {first}; choose another --out"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UnimixerError(f"{out} is {kind_of(out) or 'not empty'} and no replay of days; choose another --out")
    if left_out := [name for name in begun if name not in recipes]:
        raise UnimixerError(
            f"{out} holds the replay of recipe {left_out[0]!r} too, and its tables would be lost; name all of its "
            "recipes, or choose another --out"
        )
    write_text(out / MARKER, json.dumps({"first": first, "recipes": list(recipes)}, indent=1) + "\n")


def _check_classes(dataset: Dataset, tasks: tuple[str, ...]) -> None:
    """Raise if a task has one class only on a day that is predicted, before anything trains."""
    columns = task_columns(dataset, tasks).tolist()
    for day in dataset.days[1:]:
        whole = add_up([SplitSummary(**summary) for summary in day["splits"].values()])
        for task, column in zip(tasks, columns, strict=True):
            positives = whole.positives[column]
            if positives in (0, whole.rows):
                raise UnimixerError(
                    f"{dataset.folder}: label {task!r} is {int(positives > 0)} in all {whole.rows:,} rows of "
                    f"{day['last']}, so no model can be judged on them; leave the task out of the recipe"
                )


def _replay(name: str, recipe: Recipe, dataset: Dataset, out: Path, strategies: Sequence[str]) -> Iterator[Replayed]:
    """Replay one recipe with one seed; the model of the first days is the same in every way."""
    folder = out / "runs" / name / f"seed{recipe.training.seed}"
    first = _run(recipe, _as_it_was(dataset, 0, out), folder / "first", None)
    before: dict[str, RunFolder] = {}
    for number in range(len(dataset.days) - 1):
        data = _as_it_was(dataset, number, out)
        for strategy in strategies:
            run = first
            if number and strategy != FROZEN:
                source = before[DAILY] if strategy == DAILY else None
                run = _run(recipe, data, folder / strategy / f"{number:05d}", source)
            before[strategy] = run
            updated = run is not first or number == 0
            yield _scored(name, strategy, run, dataset, number + 1, updated)


def _as_it_was(dataset: Dataset, number: int, out: Path) -> Dataset:
    """Return the dataset without the days after entry ``number``, with a transform that does not know their values."""
    day, state = dataset.days[number], out / "states" / f"{number:05d}"
    if not state.exists():
        with atomic_folder(state) as folder:
            cut(dataset.transform, day["tables"]).save(folder / "transform", before=dataset.transform_folder)
    return Dataset(dataset.folder, at=day["hash"], transform=state / "transform")


def _run(recipe: Recipe, data: Dataset, folder: Path, source: RunFolder | None) -> RunFolder:
    """Train, or find what an earlier call has trained."""
    if folder.exists():
        run = RunFolder(folder)
        if run.environment["data"]["hash"] != data.hash or _without_place(run.recipe) != _expected(
            recipe, data, source
        ):
            raise UnimixerError(f"{folder} is the run of another recipe or other data; choose another --out")
        return resume(folder, quiet=True)
    say(f"training {folder}")
    continued = None if source is None else source.folder
    return train(recipe, folder=folder, continued=continued, dataset=data, quiet=True)


def _expected(recipe: Recipe, data: Dataset, source: RunFolder | None) -> dict[str, Any]:
    resolved = resolve(recipe, data.transform.spec)
    if source is not None:
        resolved = resolved.model_copy(update={"temperature": source.recipe.temperature})
    return _without_place(resolved)


def _without_place(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json", exclude={"dataset", "temperature"})
    values["model"].pop("field_order")
    return values


# ---- scores of a day ------------------------------------------------------------------------------------------------


def _scored(name: str, strategy: str, run: RunFolder, dataset: Dataset, number: int, updated: bool) -> Replayed:
    """Score all rows of the days that entry ``number`` of the dataset has appended."""
    day, tasks = dataset.days[number], tuple(run.recipe.tasks)
    transform = run.transform
    known = _read_scores(run, dataset, number) or _score(run, dataset, number)
    _write_scores(run, dataset, number, known)
    scores, labels, users, unknown, weights = known
    with_users, weighted = transform.schema.keys.user is not None, len(weights) > 0
    accumulator = MetricAccumulator(tasks, with_users=with_users, weighted=weighted)
    keys = user_keys(torch.from_numpy(users), 0) if with_users else None
    accumulator.update(scores, labels, keys, weights=weights if weighted else None)
    result = run.result or {}
    item = {"ids": unknown[0], "users": unknown[1], "items": unknown[2]}
    return Replayed(
        recipe=name,
        seed=run.recipe.training.seed,
        strategy=strategy,
        day=day["last"],
        rows=len(labels),
        metrics=as_json(accumulator.compute()),
        unknown={key: float(value) for key, value in item.items() if not np.isnan(value)},
        seconds=float(result["seconds"]) if updated else 0.0,
        samples=int(result["samples"]) if updated else 0,
        logits=scores,
        labels=labels,
        users=keys.numpy() if keys is not None else None,
    )


Scores = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float64], NDArray[np.float32]]
"""Logits and labels ``(rows, tasks)``, rows of the users table, the shares of unknown ids, users and items, and the
weights of the rows, which are empty unless the log was sampled before."""


def _score(run: RunFolder, dataset: Dataset, number: int) -> Scores:
    """Score the rows of a day as the run encodes them: values that got rows later are unknown to it.

    The transform that the run keeps may be older than users, items and events of the day.
    """
    trained_on = next(day for day in dataset.days if day["hash"] == run.environment["data"]["hash"])
    transform, model = cut(dataset.transform, trained_on["tables"]), load_ranker(run)
    columns = task_columns(dataset, tuple(run.recipe.tasks))
    logits, labels, users, unknown, weights = [], [], [], [], [np.empty(0, dtype=np.float32)]
    sampling = NegativeSampling.of(dataset)
    for part in dataset.day_parts(number):
        rows = known_rows(transform, part)
        for start in range(0, len(rows), EVALUATION_BATCH):
            batch = transform.batch(rows.take(np.arange(start, min(start + EVALUATION_BATCH, len(rows)))))
            with torch.no_grad():
                logits.append(model(batch).float().numpy())
            assert batch.labels is not None
            assert batch.users is not None
            labels.append(batch.labels[:, columns].numpy())
            users.append(batch.users.numpy())
            unknown.append(batch.sparse_ids.numpy() == OOV_ID)
            if sampling is not None:
                weights.append(sampling.weights(batch.labels).numpy())
    return (
        np.concatenate(logits),
        np.concatenate(labels),
        np.concatenate(users),
        _shares(np.concatenate(unknown), run),
        np.concatenate(weights),
    )


def _shares(unknown: NDArray[np.bool_], run: RunFolder) -> NDArray[np.float64]:
    """Return the shares of unknown ids over all fields, and over the fields that read the keys of users and items."""
    schema, names = run.transform.schema, [field.name for field in run.transform.spec.ids]
    by_field = dict(zip(names, unknown.mean(0), strict=True))
    keys = []
    for key in (schema.keys.user, schema.keys.item):
        fields = [f.name for f in schema.features if f.column == key and is_id(f) and f.history is None]
        keys.append(max((by_field[name] for name in fields if name in by_field), default=np.nan))
    return np.array([unknown.mean() if unknown.size else np.nan, *keys])


def _file(run: RunFolder, dataset: Dataset, number: int) -> Path:
    return run.folder / "days" / f"{dataset.days[number]['hash']}.npz"


def _read_scores(run: RunFolder, dataset: Dataset, number: int) -> Scores | None:
    path = _file(run, dataset, number)
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["logits"], file["labels"], file["users"], file["unknown"], file["weights"]


def _write_scores(run: RunFolder, dataset: Dataset, number: int, scores: Scores) -> None:
    path = _file(run, dataset, number)
    if not path.exists():
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            logits, labels, users, unknown, weights = scores
            np.savez(file, logits=logits, labels=labels, users=users, unknown=unknown, weights=weights)
