"""What every metric takes: columns of scores, labels and users, checked once and brought to one form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.errors import UnimixerError

Scores = NDArray[np.float32] | NDArray[np.float64]
HardLabels = NDArray[np.bool_]
SoftLabels = NDArray[np.float32] | NDArray[np.float64]
Labels = HardLabels | SoftLabels
"""Booleans, or probabilities: a row of p counts as a positive of weight p and a negative of weight 1 - p."""
Weights = NDArray[np.float64]
"""A row of weight w counts as w equal rows."""


def as_array(values: Any) -> NDArray[Any]:
    """An array from an array, a list, or a tensor on any device (torch is not imported for it)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()  # numpy has no bfloat16
        values = values.numpy()
    return np.asarray(values)


def as_scores(values: Any, name: str = "scores") -> Scores:
    """Scores as float32 where they are at most that wide, else as float64; ``-0.0`` and ``0.0`` become one value."""
    array = as_array(values)
    if array.dtype.kind not in "fiub":
        raise UnimixerError(f"{name} are {array.dtype}, expected numbers")
    narrow = array.dtype == np.float32 or array.dtype == np.float16
    scores: Scores = array.astype(np.float32) if narrow else array.astype(np.float64)
    if np.isnan(scores).any():
        raise UnimixerError(
            f"{name}, {_place(np.isnan(scores))}: nan is not a score; a model that diverged gives it, "
            "so lower the learning rate or look for missing values among its inputs"
        )
    scores += 0.0
    return scores


def as_labels(values: Any, name: str = "labels") -> Labels:
    """Labels as booleans where all are 0 or 1, else as the probabilities that they are."""
    array = as_array(values)
    positive: HardLabels = array == 1
    if (positive | (array == 0)).all():
        return positive
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise UnimixerError(
            f"{name}, {_place(wrong)}: {array[wrong].flat[0]!s} is not a label; labels are 0 or 1, or probabilities, "
            "so give Label.threshold or map the values first"
        )
    return array.astype(np.float32) if array.dtype == np.float32 else array.astype(np.float64)


def as_weights(values: Any) -> Weights:
    """Weights of rows as float64; finite and not negative."""
    array = as_array(values)
    if array.dtype.kind not in "fiub":
        raise UnimixerError(f"weights are {array.dtype}, expected numbers")
    weights: Weights = array.astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        raise UnimixerError(
            f"weights, {_place(wrong)}: {weights[wrong].flat[0]!s} is not a weight; give numbers from 0 on"
        )
    return weights


def as_column(name: str, values: Any) -> NDArray[Any]:
    """Check an optional column of rows by its name: ``truth``, ``weights``, or integers such as ``users``."""
    if name == "truth":
        return as_labels(values, "truth")
    if name == "weights":
        return as_weights(values)
    keys = as_array(values)
    if keys.dtype.kind not in "iu":
        raise UnimixerError(f"{name} are {keys.dtype}, expected integers; encode their keys first")
    return keys.astype(np.int64)


def plain(column: NDArray[Any]) -> NDArray[Any]:
    """Turn booleans into uint8, which other libraries hold as well."""
    return column.view(np.uint8) if column.dtype == np.bool_ else column


def check_columns(scores: NDArray[Any], **others: NDArray[Any]) -> None:
    """Raise unless all are flat, equally long and not empty."""
    for name, array in {"scores": scores, **others}.items():
        if array.ndim != 1 or len(array) != len(scores):
            raise UnimixerError(f"{name} has shape {array.shape}, expected ({scores.size},): one value a row")
    if not len(scores):
        raise UnimixerError("no rows: a metric needs at least one")


def check_both_classes(labels: Labels, what: str = "AUC", name: str = "label") -> None:
    """Raise where all labels are equal."""
    if labels.min() == labels.max() and labels[0] in (0, 1):
        raise UnimixerError(
            f"{what} needs both classes: {name} is {int(labels[0])} in all {len(labels):,} rows; "
            "evaluate more rows, or train without the task (tasks in the recipe)"
        )


def _place(wrong: NDArray[np.bool_]) -> str:
    where = [int(axis) for axis in np.argwhere(wrong)[0]]
    return f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
