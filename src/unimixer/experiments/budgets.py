"""Budgets of a whole ranker: dense parameters by the ranker's own solver, forward FLOPs by the same search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unimixer.backbones import meet_budget
from unimixer.features.spec import FeatureSpec
from unimixer.profiling.flops import flops_a_row
from unimixer.ranker import Ranker, changeable

TOLERANCE = 0.02
"""Largest relative miss of a budget."""


def small_spec(spec: FeatureSpec) -> FeatureSpec:
    """The same inputs with tiny tables: a budget counts none of their rows."""
    return replace(spec, tables=dict.fromkeys(spec.tables, 2))


def ranker_flops(spec: FeatureSpec, **arguments: Any) -> int:
    """Forward FLOPs of a ranker a sample: tokenizer, backbone and towers, two for every multiply-add of a product.

    Looking up embeddings has none, and sequence encoders below the vector E, which are the same for every model with
    the same setting, are not in; nor is what is done once a step whatever the batch, see
    :func:`~unimixer.profiling.flops.count_flops`.

    Args:
        spec: shapes of the encoded data.
        arguments: of :class:`~unimixer.ranker.Ranker`.
    """
    hollow = arguments.get("sequences", "pooled") == "pooled"
    with torch.device("meta" if hollow else "cpu"):  # models that read events look at their numbers
        ranker = Ranker(small_spec(spec), **{**arguments, "managed_rows": None})
    width = sum(field.width for field in ranker.embedding.slices)

    def inputs(rows: int) -> tuple[Tensor, ...]:
        found = [torch.zeros(rows, width, device="cpu")]
        for group in ranker.embedding.event_groups:
            found += [torch.zeros(rows, group.max_length, group.width), torch.full((rows,), group.max_length)]
        return tuple(found)

    return flops_a_row(ranker, inputs, method="score", hollow=hollow)


def width_for_flops(spec: FeatureSpec, *, flops: int, tolerance: float = TOLERANCE, **arguments: Any) -> float:
    """The dial at which a ranker has so many forward FLOPs a sample.

    Args:
        spec: shapes of the encoded data.
        flops: the budget.
        tolerance: largest relative miss.
        arguments: of the ranker, without its size.

    Raises:
        UnimixerError: if no size comes within ``tolerance``, with what to change.
    """

    def count(**arguments: Any) -> int:
        return ranker_flops(spec, **arguments)

    return meet_budget(count, arguments, flops, tolerance=tolerance, what="flops", changeable=changeable(arguments))
