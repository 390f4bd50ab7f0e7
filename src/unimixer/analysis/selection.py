"""Select the rows that represent a model: those at the learning rates that validation chose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from unimixer.errors import UnimixerError, unknown
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.sizes import budget_words

Row = Mapping[str, Any]
SEARCH = "search"


@dataclass(frozen=True)
class ComparisonGroup:
    """A group of rows that may be compared with each other: one data set, one budget, one group of models."""

    dataset: str
    dataset_hash: str
    budget_kind: str
    budget: int
    model_group: str = ""

    @property
    def words(self) -> str:
        """The heading, for example ``kuairand-pure, 1M parameters``."""
        return ", ".join([self.dataset, self.budget_words, *([self.model_group] if self.model_group else [])])

    @property
    def budget_words(self) -> str:
        """The budget in words, for example ``1M parameters``."""
        return budget_words(self.budget_kind, self.budget)


@dataclass(frozen=True)
class Chosen:
    """The rows of one model at its chosen learning rates."""

    variant: str
    rates: Rates
    finished: Mapping[int, Row]
    """Finished rows by seed."""
    failed: Mapping[int, Row]
    missing: tuple[int, ...]
    """Seeds without a row, although another model has one or the plan asks for it."""

    @property
    def example(self) -> Row:
        """A row to read sizes from."""
        return next(iter((self.finished or self.failed).values()))


def tasks_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the tasks of the rows, in the order of the columns of their scores; rows of one dataset have the same."""
    return tuple(dict.fromkeys(task for row in rows for task in json.loads(row["tasks"])))


def is_finished(row: Row) -> bool:
    """Return whether the run of a row has finished."""
    return row.get("status") == "ok"


def comparison_groups(rows: Sequence[Row], base: str) -> dict[ComparisonGroup, list[Row]]:
    """Group the rows that may be compared with each other; the base belongs to every group."""
    model_groups = list(dict.fromkeys(_model_group(row) for row in rows if row["variant"] != base)) or [""]
    members: dict[ComparisonGroup, list[Row]] = {}
    for row in rows:
        for name in model_groups if row["variant"] == base else [_model_group(row)]:
            group = ComparisonGroup(row["dataset"], row["dataset_hash"], row["budget_kind"], row["budget"], name)
            members.setdefault(group, []).append(row)
    alone = len({row["variant"] for row in rows}) == 1
    return {group: part for group, part in members.items() if alone or {row["variant"] for row in part} != {base}}


def find_base(rows: Sequence[Row], base: str | None) -> str:
    """Return the label of the base, which may be written as a label or a backbone (default: the first model)."""
    labels = list(dict.fromkeys(row["variant"] for row in rows))
    if base is None:
        return str(labels[0])
    if base in labels:
        return base
    named = list(dict.fromkeys(str(row["variant"]) for row in rows if row["backbone"] == base))
    if len(named) > 1:
        raise UnimixerError(f"base={base!r} could be any of: {' · '.join(named)}; give the whole label")
    if not named:
        raise unknown("base", base, labels)
    return named[0]


def choose(rows: Sequence[Row], tasks: Sequence[str], seeds: Sequence[int] = ()) -> list[Chosen]:
    """Select the rows of every model of one group, in the order of the models.

    The rates are those of the rows whose phase is not ``search``. Where the search is still open, they are the ones
    with the best validation AUC so far (mean over tasks, then seeds). Test metrics play no part.

    Args:
        rows: rows of one :class:`ComparisonGroup`.
        tasks: tasks whose validation AUC chooses.
        seeds: seeds that the plan asks for.
    """
    candidates = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        rates = _chosen_rates(own, tasks)
        candidates.append((str(variant), rates, [row for row in own if Rates.of(row) == rates]))
    expected = sorted({*seeds, *(row["seed"] for _, _, own in candidates for row in own)})
    chosen = []
    for variant, rates, own in candidates:
        finished = {row["seed"]: row for row in own if is_finished(row)}
        failed = {row["seed"]: row for row in own if row["seed"] not in finished}
        missing = tuple(seed for seed in expected if seed not in finished and seed not in failed)
        chosen.append(Chosen(variant, rates, dict(sorted(finished.items())), failed, missing))
    return chosen


def validation_auc(row: Row, tasks: Sequence[str]) -> float | None:
    """Return the mean validation AUC over tasks, or None if one is unknown."""
    values = [row.get(f"validation_{task}_auc") for task in tasks]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def _model_group(row: Row) -> str:
    return row.get("group") or ""


def _chosen_rates(rows: Sequence[Row], tasks: Sequence[str]) -> Rates:
    final = [row for row in rows if row.get("phase") != SEARCH]
    if final:
        pairs = [Rates.of(row) for row in final]
        return max(dict.fromkeys(pairs), key=pairs.count)  # more than one only where a plan was changed by hand
    scores: dict[Rates, list[float]] = {}
    for row in rows:
        score = validation_auc(row, tasks) if is_finished(row) else None
        scores.setdefault(Rates.of(row), []).extend([] if score is None else [score])
    return max(scores, key=lambda pair: mean(scores[pair]) if scores[pair] else float("-inf"))
