"""A few query tokens read a sequence of events for all tokens: the attention of HyFormer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.blocks.cross_attention import EventAttention, EventFFN, attend
from unimixer.blocks.norms import RMSNorm
from unimixer.errors import check_divisible, check_positive, check_shape


class QueryStart(nn.Module):
    r"""Give the first Q tokens a learned sum of all tokens, so that queries know the whole row.

    .. math:: g_q = x_q + \sum_t A_{qt} x_t

    A starts as the mean, :math:`A_{qt} = 1 / T`.

    HyFormer (arXiv:2601.12681), queries from the whole row; a linear map of our own in place of its MLP.

    Args:
        num_tokens: T.
        num_queries: Q.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> QueryStart(num_tokens=2, num_queries=1)(torch.tensor([[[1.0], [3.0]]])).flatten().tolist()
        [3.0, 3.0]
    """

    def __init__(self, num_tokens: int, num_queries: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_queries, num_tokens), 1 / num_tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the sums."""
        sums = self.weight.to(tokens.dtype) @ tokens
        return tokens + F.pad(sums, (0, 0, 0, tokens.shape[1] - sums.shape[1]))


class QueryAttention(EventAttention):
    r"""The first Q tokens read the events with H heads of shared weights; other tokens get nothing.

    .. math:: F(x)_q = W_o \Big[ \sum_s \mathrm{softmax}_s\!\Big(\frac{W_q^h x_q \cdot W_k^h \hat e_s}{\sqrt{d}}\Big)
              W_v^h \hat e_s \Big]_{h = 1, \dots, H}, \qquad \hat e = \mathrm{RMSNorm}(e), \quad d = D / H

    HyFormer (arXiv:2601.12681), "query decoding". No biases. Keys and values are never formed, as in
    :class:`~unimixer.blocks.CrossAttention`: a row costs :math:`Q H S C` products, and no activation is wider than the
    events themselves.

    Args:
        num_queries: Q.
        token_dim: D, divisible by ``num_heads``.
        sequence_dim: width C of an event.
        num_heads: H.
        hidden_dim: hidden width of ``refine``, the SwiGLU on events (default C); 0 leaves events as they are.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``, True for a real event
        - output: ``(B, T, D)``, zero from token Q on, and for a row without events

    Example:
        >>> attention = QueryAttention(2, 16, 6, num_heads=4)
        >>> attention(torch.zeros(3, 8, 16), torch.zeros(3, 5, 6), torch.ones(3, 5, dtype=torch.bool)).shape
        torch.Size([3, 8, 16])
    """

    def __init__(
        self, num_queries: int, token_dim: int, sequence_dim: int, *, num_heads: int = 4, hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        check_positive(num_queries=num_queries, sequence_dim=sequence_dim, num_heads=num_heads)
        check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
        self.num_queries, self.sequence_dim, self.num_heads = num_queries, sequence_dim, num_heads
        self.scale = (token_dim / num_heads) ** -0.5
        self.query = nn.Linear(token_dim, token_dim, bias=False)
        self.key = nn.Linear(sequence_dim, token_dim, bias=False)
        self.value = nn.Linear(sequence_dim, token_dim, bias=False)
        self.output = nn.Linear(token_dim, token_dim, bias=False)
        self.norm = RMSNorm(sequence_dim)
        hidden_dim = sequence_dim if hidden_dim is None else hidden_dim
        self.refine = EventFFN(sequence_dim, hidden_dim) if hidden_dim else nn.Identity()

    def forward(self, tokens: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """Read the events into the query tokens."""
        check_shape("events", events, (None, None, self.sequence_dim))
        queries = self.query(tokens[:, : self.num_queries])
        by_head = queries.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, Q, d)
        of_events = by_head @ self._heads(self.key).to(by_head.dtype)  # (B, H, Q, C)
        read = attend(of_events.flatten(1, 2), self.norm(events), mask, self.scale)
        apart: Tensor = read.unflatten(1, (self.num_heads, self.num_queries))  # type: ignore[no-untyped-call]
        values = apart @ self._heads(self.value).mT.to(read.dtype)
        update = self.output(values.transpose(1, 2).flatten(2))
        return F.pad(update, (0, 0, 0, tokens.shape[1] - self.num_queries))

    def _heads(self, linear: nn.Linear) -> Tensor:
        """Cut the weight of a linear layer into ``(H, d, C)``."""
        weight: Tensor = linear.weight.unflatten(0, (self.num_heads, -1))  # type: ignore[no-untyped-call]
        return weight

    @staticmethod
    def num_parameters(token_dim: int, sequence_dim: int, *, hidden_dim: int | None = None) -> int:
        """Parameters by formula: :math:`2 D^2 + 2 C D + C`, and those of ``refine``.

        Example:
            >>> QueryAttention.num_parameters(16, 6, hidden_dim=0)
            710
        """
        hidden_dim = sequence_dim if hidden_dim is None else hidden_dim
        refine = EventFFN.num_parameters(sequence_dim, hidden_dim) if hidden_dim else 0
        return 2 * token_dim**2 + 2 * sequence_dim * token_dim + sequence_dim + refine
