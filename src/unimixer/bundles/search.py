"""Search one user's long history for many candidates, with the results of :mod:`unimixer.features.search`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.features.search import HistorySearch, inner_products


def latest_equal(values: Tensor, wanted: Tensor, count: int) -> Tensor:
    """Number the latest events that have the value of a candidate, counted from 1 and the newest first; 0 is none.

    Shape:
        - values: ``(V,)``, the newest last; wanted: ``(N,)``; output: ``(N, count)``

    Example:
        >>> latest_equal(torch.tensor([7, 7, 5, 7]), torch.tensor([7, 5]), 2)
        tensor([[4, 2],
                [3, 0]])
    """
    numbers = torch.arange(1, values.shape[0] + 1, device=values.device)
    equal = torch.where(values == wanted.unsqueeze(1), numbers, 0)
    return F.pad(equal, (0, count)).topk(count, dim=1).values


def largest_products(keys: Tensor, targets: Tensor, count: int) -> Tensor:
    """Number the events with the largest inner products, as :func:`latest_equal` does.

    Shape:
        - keys: ``(V, Q)``, the newest last; targets: ``(N, Q)``; output: ``(N, count)``

    Example:
        >>> largest_products(torch.tensor([[2.0], [1.0], [1.0]]), torch.tensor([[1.0], [-1.0]]), 2)
        tensor([[3, 1],
                [3, 2]])
    """
    scores = inner_products(keys.flip(0), targets.unsqueeze(1))  # the newest first, and of equal ones it comes first
    order = F.pad(scores, (0, count), value=float("-inf")).sort(dim=1, descending=True).indices[:, :count]
    return (keys.shape[0] - order).clamp(min=0).sort(dim=1, descending=True).values


def found_events(
    search: HistorySearch, events: Tensor, values: Tensor, ids: Tensor, keys: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Lay out the found events of every candidate as ``pad_events`` lays out a batch, the newest first.

    Shape:
        - events: ``(V, E)``; values: ``(V,)``, the field of a hard search; keys: ``(V, Q)``
        - ids: ``(N,)``, the same field of the candidates; targets: ``(N, Q)``
        - output: ``(N, top_k, E)`` and the numbers of events ``(N,)``
    """
    if search.kind == "hard":
        numbers = latest_equal(values, ids, search.top_k)
    else:
        numbers = largest_products(keys, targets, search.top_k)
    padded = F.pad(events, (0, 0, 1, 0))[numbers]  # event 0 is the padding
    return padded, (numbers > 0).sum(1)
