"""Count unknown and missing values of every feature and compare their shares with those of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimixer.data.dataset import Dataset
from unimixer.data.schema import OOV_ID, PADDING_ID
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec

SAID, MOST, NEARLY_ALL = 0.1, 0.5, 0.9
"""Shares from which an unknown feature is said, and is a warning, and from which a missing one is a warning."""


class UnknownValuesWarning(UserWarning):
    """Warns that most values of a feature are unknown or missing, unlike in training."""


@dataclass(frozen=True)
class Remark:
    """A share of unknown or missing values that differs from training."""

    feature: str
    text: str
    grave: bool

    def __str__(self) -> str:
        return f"warning: {self.text}" if self.grave else self.text


class Coverage:
    """Counts of values, unknown values and missing values of every feature, added up batch by batch.

    A value of an id or of a number is that of a row; a value of a sequence is one of its events.

    Args:
        spec: features, in the order of a batch.
        expected: shares where the model was trained, as :func:`expected_shares` has them, if they are known.
    """

    def __init__(self, spec: FeatureSpec, expected: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.spec, self.expected = spec, expected or {}
        self._groups = spec.groups
        sequences = [f.name for fields in self._groups.values() for f in fields]
        self.names = [*(f.name for f in spec.ids), *(f.name for f in spec.dense), *sequences]
        self._dense_columns = np.cumsum([0, *(f.width for f in spec.dense)])[:-1]
        self.rows = 0
        self.values, self.unknown, self.missing = np.zeros((3, len(self.names)), dtype=np.int64)

    def add(self, *parts: Batch, missing: bool = True) -> None:
        """Count a batch, or parts of one whose columns stand side by side, each with rows of its own.

        Without ``missing`` unknown values alone are counted, which takes less time.
        """
        self.rows += len(parts[-1])
        at = 0
        for part in parts:
            at = self._add(at, part.sparse_ids.numpy(), missing)
        if missing:
            dense = [part.dense_features.numpy() for part in parts]
            of_dense = slice(at, at + len(self._dense_columns))
            self.values[of_dense] += np.concatenate([np.full(d.shape[1], len(d)) for d in dense])[self._dense_columns]
            self.missing[of_dense] += np.concatenate([_true(np.isnan(d)) for d in dense])[self._dense_columns]
        at += len(self._dense_columns)
        sequences = {name: values for part in parts for name, values in part.sequence_values.items()}
        for name in self._groups:
            at = self._add(at, sequences[name].numpy(), missing)

    def _add(self, at: int, ids: NDArray[np.int32], missing: bool) -> int:
        """Count some columns of ids that begin at this feature; return the one after them."""
        end: int = at + ids.shape[1]
        self.values[at:end] += len(ids)
        self.unknown[at:end] += _true(ids == OOV_ID)
        if missing:
            self.missing[at:end] += _true(ids == PADDING_ID)
        return end

    @classmethod
    def of_split(cls, dataset: Dataset, split: str) -> Coverage:
        """Count a split, or several joined by ``+``, from the manifest, which has no counts of sequences."""
        coverage, ids = cls(dataset.transform.spec, expected_shares(dataset)), len(dataset.transform.spec.ids)
        for summary in map(dataset.summary, split.split("+")):
            counted = len(summary.missing)
            coverage.rows += summary.rows
            coverage.values[:counted] += summary.rows
            coverage.unknown[:ids] += np.asarray(summary.out_of_vocabulary, dtype=np.int64)
            coverage.missing[:counted] += np.asarray(summary.missing, dtype=np.int64)
        return coverage

    def shares(self) -> dict[str, dict[str, float]]:
        """Return the shares of unknown and of missing values by feature; features without values are left out."""
        met = [(at, name) for at, name in enumerate(self.names) if self.values[at]]
        numbers = {f.name for f in self.spec.dense}
        return {
            "unknown": {n: round(float(self.unknown[at] / self.values[at]), 6) for at, n in met if n not in numbers},
            "missing": {n: round(float(self.missing[at] / self.values[at]), 6) for at, n in met},
        }

    def remarks(self) -> list[Remark]:
        """Return the shares that differ from training."""
        remarks, shares = list[Remark](), self.shares()
        for name, share in shares["unknown"].items():
            usual = self.expected.get("unknown", {}).get(name)
            if share >= SAID and share >= 2 * (usual or 0.0):
                count = self.values[self.names.index(name)]
                known = "" if usual is None else f" ({_percent(usual)} in validation)"
                of = "rows" if count == self.rows else "values"
                text = f"{name}: {_percent(share)} of {count:,} {of} unknown{known}"
                grave = share > MOST
                remarks.append(Remark(name, f"{text}; are they written as in training?" if grave else text, grave))
        for name, share in shares["missing"].items():
            usual = self.expected.get("missing", {}).get(name)
            if share >= NEARLY_ALL and (usual or 0.0) < MOST:
                known = "" if usual is None else f" ({_percent(usual)} in training)"
                remarks.append(Remark(name, f"{name}: missing in {_percent(share)} of {self.rows:,} rows{known}", True))
        return remarks


def expected_shares(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return the shares of unknown values in validation and of missing values in training."""
    spec, validation, train = dataset.transform.spec, dataset.summary("validation"), dataset.summary("train")
    plain = [*(f.name for f in spec.ids), *(f.name for f in spec.dense)]
    return {
        "unknown": {
            f.name: _share(n, validation.rows) for f, n in zip(spec.ids, validation.out_of_vocabulary, strict=False)
        },
        "missing": {name: _share(n, train.rows) for name, n in zip(plain, train.missing, strict=False)},
    }


def _share(count: int, rows: int) -> float:
    return round(count / rows, 6) if rows else 0.0


def _true(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the true values of every column by a matrix product, several times as fast as a sum over rows."""
    counts: NDArray[np.float32] = np.ones(len(mask), dtype=np.float32) @ mask.astype(np.float32)
    return counts.astype(np.int64)


def _percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")
