"""Encode a sequence of past items as one vector by comparing its events with the candidate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unimixer.errors import check_divisible, check_positive


def owners(offsets: Tensor, length: int) -> Tensor:
    """Return the bag that each of ``length`` values belongs to: ``(B + 1,)`` to ``(length,)``."""
    rows = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=length)


class TargetAttention(nn.Module):
    r"""Sum the events, each weighted by its match with the candidate; weights are not normalized.

    .. math:: v = \frac{1}{\sqrt{L}} \sum_i a(e_i, t)\, e_i, \qquad a = \mathrm{MLP}([e_i,\ t,\ e_i - t,\ e_i \odot t])

    Source: ours, a form of :class:`~unimixer.features.din.DIN` (arXiv:1706.06978). The activation is SiLU, and the sum
    is divided by the square root of the longest length, which holds its scale at any ``max_length``.

    Args:
        width: E, of an event.
        matched: the columns of an event that have a counterpart among the candidate's fields.
        max_length: L.
        hidden_dim: width of the hidden layer of the MLP.

    Shape:
        - events: ``(V, E)``; target: ``(B, Q)``, the columns ``matched`` of an event that have a counterpart
        - output: ``(B, E)``, zero for an empty sequence

    Example:
        >>> events, offsets = torch.zeros(5, 6), torch.tensor([0, 3, 5])
        >>> TargetAttention(6, [0, 1], max_length=5)(events, offsets, torch.zeros(2, 2)).shape
        torch.Size([2, 6])
    """

    matched: Tensor

    def __init__(self, width: int, matched: list[int], *, max_length: int, hidden_dim: int = 36) -> None:
        super().__init__()
        check_positive(hidden_dim=hidden_dim)
        self.scale = 1 / math.sqrt(max_length)
        self.register_buffer("matched", torch.tensor(matched), persistent=False)
        self.score = nn.Sequential(nn.Linear(4 * len(matched), hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 1))

    def forward(self, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        owner = owners(offsets, events.shape[0])
        query, key = target[owner], events[:, self.matched]
        weight = self.score(torch.cat([key, query, key - query, key * query], dim=-1))
        pooled = torch.zeros(target.shape[0], events.shape[1], dtype=events.dtype, device=events.device)
        pooled = pooled.index_add(0, owner, (weight * events).to(events.dtype))
        return pooled * self.scale

    def encode(self, padded: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Do as :meth:`forward`, with padded events: ``(B, L, E)``, ``(B,)`` and ``(B, Q)`` to ``(B, E)``."""
        key = padded[..., self.matched]
        query = target.unsqueeze(1).expand_as(key)
        weight: Tensor = self.score(torch.cat([key, query, key - query, key * query], dim=-1))
        real = torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)
        return (weight * real.unsqueeze(-1) * padded).sum(1) * self.scale


class SmallTransformer(nn.Module):
    r"""One pre-norm transformer layer over the events and the candidate; the read-out is the mean over real positions.

    Behaviour Sequence Transformer (arXiv:1905.06874) in a light form: positions are counted back from the newest event.

    .. math:: v = \frac{1}{n + 1} \sum_{i=0}^{n} \mathrm{Layer}\big([\, W t,\ e_1 + p_1, \dots, e_n + p_n \,]\big)_i

    with :math:`e_1` the newest of n events.

    Args:
        width: E of an event.
        matched: columns of an event that have a counterpart in the candidate.
        max_length: of a sequence.
        num_heads: H, which divides E.

    Shape:
        - events: ``(V, E)``; target: ``(B, Q)``; output: ``(B, E)``

    Example:
        >>> events, offsets = torch.zeros(5, 6), torch.tensor([0, 3, 5])
        >>> SmallTransformer(6, [0, 1], max_length=5)(events, offsets, torch.zeros(2, 2)).shape
        torch.Size([2, 6])
    """

    def __init__(self, width: int, matched: list[int], *, max_length: int, num_heads: int = 2) -> None:
        super().__init__()
        check_divisible("sequence width", width, by="num_heads", divisor=num_heads)
        self.max_length = max_length
        self.position = nn.Parameter(torch.zeros(max_length, width))
        self.target = nn.Linear(len(matched), width)
        self.layer = nn.TransformerEncoderLayer(
            width,
            num_heads,
            dim_feedforward=2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    def forward(self, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        batch, lengths = target.shape[0], offsets.diff()
        owner = owners(offsets, events.shape[0])
        age = offsets[1:][owner] - 1 - torch.arange(events.shape[0], device=events.device)
        age = age.clamp(max=self.max_length - 1)
        padded = events.new_zeros(batch, self.max_length, events.shape[1])
        padded = padded.index_put((owner, age), events + self.position[age].to(events.dtype))
        tokens = torch.cat([self.target(target).unsqueeze(1).to(padded.dtype), padded], dim=1)
        filled = torch.arange(-1, self.max_length, device=events.device) < lengths.unsqueeze(1)
        encoded: Tensor = self.layer(tokens, src_key_padding_mask=~filled)
        kept = filled.unsqueeze(-1).to(encoded.dtype)
        return (encoded * kept).sum(1) / kept.sum(1)
