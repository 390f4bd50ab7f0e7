"""Transform numeric features with statistics of the training part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unimixer.data.raw import values
from unimixer.data.raw.tables import Chunk
from unimixer.data.schema import Feature
from unimixer.errors import UnimixerError

FAR, ONE_POINT, ROUNDING = 1e-3, 1e-6, 1e-9
"""Values further apart than ``FAR`` of the spread are told apart, values within ``ONE_POINT`` of it are one point; they
differ where they are further apart than ``ROUNDING`` of their size."""


@dataclass(frozen=True)
class NumericFit:
    """Statistics of a numeric feature in the training part."""

    mean: float = 0.0
    std: float = 1.0
    edges: tuple[float, ...] = ()
    """Quantiles between buckets (``transform: bucketise``)."""

    @classmethod
    def fit(cls, feature: Feature, sample: NDArray[np.float64]) -> NumericFit:
        """Compute moments, or quantiles between buckets, of the known values of the training part."""
        if not len(sample):
            raise UnimixerError(
                f"feature {feature.name!r}: column {feature.column!r} has no number in the training part; "
                "leave the feature out"
            )
        if feature.transform == "bucketise":
            levels = np.linspace(0, 1, feature.num_buckets + 1)[1:-1]
            return cls(edges=tuple(float(e) for e in np.unique(np.quantile(sample, levels))))
        moved = _log(sample) if "log" in feature.transform else sample
        mean, std = float(moved.mean()), float(moved.std())
        if feature.transform == "standardise":
            _check_apart(feature, sample, std)
        # a constant column has a spread of rounding errors, by which nothing must be divided
        return cls(mean=mean, std=std if std > 1e-12 * abs(mean) else 1.0)

    def may_be_boolean(self, feature: Feature) -> bool:
        """Return whether the values of the training part may all be 0 or 1, as far as the statistics tell."""
        if feature.transform == "bucketise":
            return all(0 <= edge <= 1 for edge in self.edges)
        one = float(np.log1p(1)) if "log" in feature.transform else 1.0
        if self.mean in (0.0, one):
            return self.std == 1.0  # the spread of a constant
        return math.isclose(self.std**2, self.mean * (one - self.mean), rel_tol=1e-9)

    def read(self, feature: Feature, chunk: Chunk) -> NDArray[np.float64]:
        """Read the numbers of rows, NaN where missing; a boolean is refused where the training part had none."""
        booleans = self.may_be_boolean(feature)
        return values.as_number(chunk, feature.column, feature.missing, booleans=booleans)

    def apply(self, feature: Feature, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform values; NaN stays NaN."""
        if "log" in feature.transform:
            numbers = _log(numbers)
        if "standardise" in feature.transform:
            numbers = (numbers - self.mean) / self.std
        return numbers

    def bucket(self, numbers: NDArray[np.float64]) -> pl.Series:
        """Return the bucket of every number as text, null where missing."""
        # a number and the same number in 32 bits lie on one side of an edge
        edges, rounded = np.asarray(self.edges, dtype=np.float32), numbers.astype(np.float32)
        buckets = pl.Series(np.searchsorted(edges, rounded, side="right")).cast(pl.String)
        return pl.select(pl.when(pl.Series(np.isnan(numbers))).then(None).otherwise(buckets)).to_series()


def check_range(chunk: Chunk, name: str, numbers: NDArray[np.float64]) -> None:
    """Raise if a transformed value does not fit into 32 bits; NaN does."""
    beyond = np.abs(numbers) > values.LARGEST
    if beyond.any():
        rule = "is so far from the values of the training part that no number of 32 bits holds the distance"
        way_out = "correct the row, or leave the value empty"
        values.require(chunk, values.column(chunk, name), pl.Series(~beyond), rule, way_out)


def _check_apart(feature: Feature, sample: NDArray[np.float64], std: float) -> None:
    """Raise if an outlier makes one point of values that differ."""
    known, counts = np.unique(sample, return_counts=True)
    starts = np.flatnonzero(np.diff(known, prepend=-np.inf) > FAR * std)
    ends = np.append(starts[1:], len(known)) - 1
    width = known[ends] - known[starts]
    differ = width > ROUNDING * np.maximum(np.abs(known[ends]), np.abs(known[starts]))
    if len(starts) < 2 or (width > ONE_POINT * std).any() or not differ.any():
        return
    # the values that are kept apart from everything else by their size, not the many that are no longer told apart
    group = int(np.flatnonzero(~differ)[0]) if not differ.all() else len(starts) - 1
    value, rows = float(known[ends[group]]), int(counts[starts[group] : ends[group] + 1].sum())
    raise UnimixerError(
        f"feature {feature.name!r}: {feature.column}={value!r} is {rows:,} of {len(sample):,} training values "
        f"and lies so far out that {feature.transform!r} makes one point of the others; if it means a missing value, "
        f"write missing: ['{value!r}'], else correct the rows or choose transform: log_standardise"
    )


def _log(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """x|).|Compute sign(x) log(1 + |x|).|x|)."""
    return np.sign(numbers) * np.log1p(np.abs(numbers))
