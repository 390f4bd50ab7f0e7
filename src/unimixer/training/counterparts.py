"""Match the rows, numbers and buckets of two transforms by their meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimixer.data.encoding.numeric import NumericFit
from unimixer.data.encoding.transform import Transform
from unimixer.data.encoding.vocabulary import Vocabulary
from unimixer.data.schema import FIRST_ID, OOV_ID, Schema
from unimixer.errors import UnimixerError

_MEANING = ("kind", "domain", "transform", "table_name", "width", "history")
"""Properties of a feature that must agree in both schemas, or its vectors would change their meaning."""


@dataclass(frozen=True)
class Rows:
    """The rows of a table that two vocabularies share."""

    source: Tensor
    target: Tensor
    """The new row of every row in ``source``."""
    new: int = 0
    lost: int = 0

    @classmethod
    def same(cls, count: int) -> Rows:
        """Match all rows of a table that is the same in both."""
        return cls(torch.arange(count), torch.arange(count))

    @classmethod
    def of_texts(cls, source: Vocabulary, target: Vocabulary) -> Rows:
        """Match rows of equal values; the rows of missing and of unknown values match each other.

        A new row takes the row that the source would have looked up for it. If only the target knows the form of its
        values (``True`` there, 1 here), it takes the row of the most frequent text with the same value.
        """
        old = FIRST_ID + np.arange(len(source.texts))
        becomes = target.lookup(source.texts)
        first = np.full(target.num_embeddings, OOV_ID, dtype=np.int64)
        first[becomes[::-1]] = old[::-1]
        rows = source.lookup(target.texts).astype(np.int64)
        rows = np.where(rows == OOV_ID, first[FIRST_ID:], rows)
        known = np.flatnonzero(rows >= FIRST_ID)
        special = np.arange(FIRST_ID)
        kept = np.union1d(rows[known], old[becomes >= FIRST_ID])
        return cls(
            torch.from_numpy(np.concatenate([special, rows[known]])),
            torch.from_numpy(np.concatenate([special, FIRST_ID + known])),
            new=len(rows) - len(known),
            lost=len(old) - len(kept),
        )

    @classmethod
    def of_edges(cls, source: NumericFit, target: NumericFit) -> Rows:
        """Match every new bucket with the old one that contains its middle, and outermost buckets with outermost."""
        edges = np.asarray(target.edges)
        inside = np.searchsorted(np.asarray(source.edges), (edges[1:] + edges[:-1]) / 2, side="right")
        buckets = np.concatenate([[0], inside, [len(source.edges)]])[: len(edges) + 1]
        rows = torch.from_numpy(np.concatenate([np.arange(FIRST_ID), FIRST_ID + buckets]))
        return cls(rows, torch.arange(len(rows)), lost=len(source.edges) + 1 - len(np.unique(buckets)))


class Counterparts:
    """Matches rows, numbers and buckets of a run's data with those of other data.

    Args:
        run: folder of the run, for messages.
        there: transform of the run.
        here: transform of the other data.

    Raises:
        UnimixerError: if the features differ, or the rows of a table cannot be matched.
    """

    def __init__(self, run: Path, there: Transform, here: Transform) -> None:
        check_features(run, there.schema, here.schema)
        features = here.schema.features
        self._run, self.there, self.here = run, there, here
        pairs = {name: (there.numerics[name], fit) for name, fit in here.numerics.items()}
        moved = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        self.numbers = {f.name: moved[f.name] for f in features if "standardise" in f.transform and f.name in moved}
        """Standardized features whose mean or spread has changed."""
        self.buckets = {f.name: moved[f.name] for f in features if f.transform == "bucketise" and f.name in moved}
        """Features whose bucket edges have changed."""
        self.rows = {table: self._rows(table) for table in here.vocabularies}

    def _rows(self, table: str) -> Rows:
        there, here = self.there.vocabularies[table], self.here.vocabularies[table]
        if there.num_buckets or here.num_buckets:
            if there.num_buckets != here.num_buckets:
                a, b = (f"{n:,} hash buckets" if n else "no hash" for n in (there.num_buckets, here.num_buckets))
                raise refusal(self._run, f"table {table!r} has {a} there and {b} in this data, so no row fits another")
            if there.form != here.form:
                raise refusal(
                    self._run,
                    f"the values of table {table!r} are a {there.form} there and a {here.form} in this data, "
                    "so they have other hashes",
                )
            return Rows.same(here.num_embeddings)
        members = [f.name for f in self.here.schema.features if f.table_name == table]
        moved = [name for name in members if name in self.buckets]
        if not moved:
            return Rows.of_texts(there, here)
        if len(members) > 1:
            raise refusal(
                self._run, f"the buckets of {moved[0]!r} have other edges, and other features share its table"
            )
        return Rows.of_edges(*self.buckets[moved[0]])


def refusal(run: Path, reason: str) -> UnimixerError:
    """Make the error for a run that cannot be the start of another."""
    return UnimixerError(f"no warm start from {run}: {reason}")


def check_features(run: Path, there: Schema, here: Schema) -> None:
    """Raise unless two schemas have features of the same meaning, in any order."""
    theirs, ours = ({f.name: f for f in schema.features} for schema in (there, here))
    rule = "a warm start needs the same features, and"
    for name in {**theirs, **ours}:
        if name not in ours or name not in theirs:
            raise refusal(run, f"{rule} {'this data' if name not in ours else 'that run'} has no {name!r}")
        for key in _MEANING:
            a, b = getattr(theirs[name], key), getattr(ours[name], key)
            if a != b:
                raise refusal(run, f"{rule} {name!r} has {key.removesuffix('_name')} {a} there and {b} in this data")
    zones = there.keys.timezone, here.keys.timezone
    if zones[0] != zones[1] and any(f.transform in ("hour", "weekday") for f in here.features):
        raise refusal(run, f"{rule} hours are those of {zones[0]} there and of {zones[1]} in this data")
