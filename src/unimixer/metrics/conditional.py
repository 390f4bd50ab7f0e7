"""Probabilities of a label given the one before it in a chain, from the probabilities of all rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimixer.metrics.columns import Scores, as_labels

_LARGEST = -float(np.finfo(np.float32).eps)
"""Largest logarithm of such a probability: logits of float32 tell none above it from 1."""


def conditional_name(label: str, before: str) -> str:
    """Return the name of the probability of a label given another, in metrics and predictions."""
    return f"{label}_given_{before}"


def conditional_logits(label: Scores, before: Scores) -> NDArray[np.float64]:
    r"""Turn logits of all rows into the logit of a label given the one before it.

    .. math:: p(y_k \mid y_j) = p(y_k) / p(y_j)

    Shape:
        - label, before, output: ``(rows,)``

    Example:
        >>> joint, before = np.log([0.1 / 0.9]), np.log([0.2 / 0.8])
        >>> 1 / (1 + np.exp(-conditional_logits(joint, before)))  # 0.1 / 0.2
        array([0.5])
    """
    ratio = np.minimum(_log_sigmoid(label) - _log_sigmoid(before), _LARGEST)
    logits: NDArray[np.float64] = ratio - np.log(-np.expm1(ratio))
    return logits


def conditional_rows(
    columns: Mapping[str, NDArray[Any]], tasks: Sequence[str], chain: Mapping[str, str]
) -> Iterator[tuple[str, str, dict[str, NDArray[Any]], NDArray[np.float64]]]:
    """Select, for every label of a chain, the rows on which the one before it happened.

    Args:
        columns: ``logits`` and ``labels`` ``(rows, tasks)``, and others ``(rows, ...)``.
        tasks: names of the tasks.
        chain: by label, the one before it.

    Yields:
        The name of the conditional probability, the label, its rows, and the conditional logits of these rows.
    """
    for task, before in chain.items():
        happened = as_labels(columns["labels"][:, tasks.index(before)]) > 0
        happened_rows = {name: column[happened] for name, column in columns.items()}
        logits = conditional_logits(*(happened_rows["logits"][:, tasks.index(name)] for name in (task, before)))
        yield conditional_name(task, before), task, happened_rows, logits


def _log_sigmoid(logits: Any) -> NDArray[np.float64]:
    wide = np.asarray(logits, dtype=np.float64)
    result: NDArray[np.float64] = -np.logaddexp(0.0, -wide)
    return result
