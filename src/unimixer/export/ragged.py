"""Ragged lists in forms that every exported graph can hold."""

from __future__ import annotations

import torch
from torch import Tensor


def list_of(offsets: Tensor, length: int) -> Tensor:
    r"""The list that each of ``length`` values belongs to, by one count and one running sum of whole numbers.

    .. math:: o_v = \#\{ n : \mathrm{offsets}_{n + 1} \le v \}

    Equal to :func:`unimixer.features.sequence.owners`, whose result has a length that follows from values and is
    therefore no operation of ONNX. Nothing here is rounded, so sums over the lists keep their exactness.

    Shape:
        - offsets: ``(N + 1,)``; output: ``(length,)``

    Example:
        >>> list_of(torch.tensor([0, 2, 2, 3]), 3)
        tensor([0, 0, 2])
    """
    ends = offsets[1:]
    marks = torch.zeros(length + 1, dtype=torch.long, device=offsets.device).scatter_add(0, ends, torch.ones_like(ends))
    return marks.cumsum(0)[:-1]


def list_means(vectors: Tensor, offsets: Tensor) -> Tensor:
    """Mean vector of every list, zero for an empty one: what ``embedding_bag`` gives for looked-up vectors.

    Shape:
        - vectors: ``(V, C)``; offsets: ``(N + 1,)``; output: ``(N, C)``

    Example:
        >>> list_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 2, 3])).flatten()
        tensor([2., 0., 5.])
    """
    rows, width = offsets.shape[0] - 1, vectors.shape[1]
    owner = list_of(offsets, vectors.shape[0]).unsqueeze(1).expand(-1, width)
    sums = torch.zeros(rows, width, dtype=vectors.dtype, device=vectors.device).scatter_add(0, owner, vectors)
    return sums / offsets.diff().clamp(min=1).unsqueeze(1).to(vectors.dtype)


def mean_of_all(vectors: Tensor) -> Tensor:
    """Mean of one list as a row, zero where it is empty: ``(V, C)`` to ``(1, C)``.

    Example:
        >>> mean_of_all(torch.tensor([[1.0], [3.0]])), mean_of_all(torch.zeros(0, 1))
        (tensor([[2.]]), tensor([[0.]]))
    """
    count = torch.ones_like(vectors[:, :1]).sum().clamp(min=1)  # a count from the tensor: no guard on its length
    return vectors.sum(0, keepdim=True) / count


def newest_first(events: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """One list as a rectangle of ``max_length`` events, the newest first, as ``pad_events`` lays out a batch of one.

    Shape:
        - events: ``(V, E)``, the newest last; output: ``(1, max_length, E)`` and the length ``(1,)``

    Example:
        >>> padded, length = newest_first(torch.tensor([[1.0], [2.0], [3.0]]), 2)
        >>> padded.flatten().tolist(), length.tolist()
        ([3.0, 2.0], [2])
    """
    count = torch.ones_like(events[:, 0], dtype=torch.long).sum()
    age = count - torch.arange(1, events.shape[0] + 1, device=events.device)
    place = age.clamp(max=max_length).unsqueeze(1).expand(-1, events.shape[1])
    # one place more than needed takes what is too old
    padded = torch.zeros(max_length + 1, events.shape[1], dtype=events.dtype, device=events.device)
    padded = padded.scatter_add(0, place, events)
    return padded[:max_length].unsqueeze(0), count.clamp(max=max_length).unsqueeze(0)
