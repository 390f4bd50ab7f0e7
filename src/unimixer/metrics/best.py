"""The best that any model can reach on simulated data, where the true probabilities are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unimixer.errors import UnimixerError
from unimixer.metrics.columns import as_array
from unimixer.metrics.ranking import auc


def best_auc(
    blocks: Iterable[Mapping[str, Any]], tasks: Sequence[str], *, suffix: str = "_probability"
) -> dict[str, float]:
    """AUC of the true probability against the labels that were drawn from it, by task.

    No ranking has a higher expected AUC (the probability is the Neyman-Pearson statistic), so a model's AUC on the
    same rows is read as a share of the way from 0.5 to this number.

    Args:
        blocks: Columns by name, as ``World.impressions()`` yields them.
        tasks: Label columns; the probability of ``click`` is in ``click_probability``.
        suffix: What the probability's name adds to the label's.
    """
    parts = [[(as_array(b[t + suffix]), as_array(b[t])) for t in tasks] for b in blocks]
    if not parts:
        raise UnimixerError("no blocks: the best AUC needs rows")
    columns = ([np.concatenate(column) for column in zip(*part, strict=True)] for part in zip(*parts, strict=True))
    return {task: auc(*pair) for task, pair in zip(tasks, columns, strict=True)}
