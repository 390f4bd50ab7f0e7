r"""Tokenize a request: compute the share of the user once and not once a candidate.

The first layer of every tokenizer is linear in pieces of :math:`E`, whose columns are the user's or the candidate's:

.. math:: W_t E_t + b_t = \underbrace{W_t^{user} E_t^{user} + b_t}_{\text{once a request}}
          + W_t^{item} E_t^{item}
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer import ops
from unimixer.features.tokenizers import ChunkTokenizer, FieldTokenizer, SemanticTokenizer


class SplitLinear(nn.Module):
    r"""Map columns of E to every token linearly, with the user's share split off.

    Tokens that read no column of the candidate are computed once a request.

    Args:
        columns: columns of E that each token reads; ``len(owner)`` and above stand for zeros.
        owner: for every column of E whether it belongs to the candidate.
        weight: ``(T, width, D)``; bias: ``(T, D)``.

    Shape:
        - user: ``(1, E_u)``; items: ``(N, E_c)``: the columns of E of each side, in the order of E
        - output: tokens of the user alone ``(1, K, D)`` and the others ``(N, T - K, D)``; either may be None
    """

    user_columns: Tensor
    user_weight: Tensor
    item_columns: Tensor
    item_weight: Tensor
    bias: Tensor

    def __init__(self, columns: Tensor, owner: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        end = len(owner)
        of_item = torch.cat([owner, torch.zeros(1, dtype=torch.bool)])[columns.clamp(max=end)]
        both = of_item.any(1)
        self.user_tokens = [t for t in range(len(columns)) if not both[t]]
        self.item_tokens = [t for t in range(len(columns)) if both[t]]
        self.item_width = int(owner.sum())
        position = torch.where(owner, owner.cumsum(0) - 1, (~owner).cumsum(0) - 1)
        of_user = ~of_item & (columns < end)
        everything = list(range(len(columns)))
        user = _packed(columns, of_user, position, weight, everything, int((~owner).sum()))
        item = _packed(columns, of_item, position, weight, self.item_tokens, self.item_width)
        for name, (picked, part) in {"user": user, "item": item}.items():
            self.register_buffer(f"{name}_columns", picked)
            self.register_buffer(f"{name}_weight", part)
        self.register_buffer("bias", bias)
        self.aligned = torch.equal(item[0].flatten(), torch.arange(self.item_width))

    def user_share(self, user: Tensor | None) -> Tensor:
        """Compute the share of the user's columns in every token, with the bias: ``(1, T, D)``."""
        if user is None or not self.user_weight.shape[1]:
            return self.bias.unsqueeze(0)
        return ops.per_token_linear(F.pad(user, (0, 1))[:, self.user_columns], self.user_weight, self.bias)

    def forward(self, user: Tensor | None, items: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Compute the tokens of the user alone and the others."""
        once = self.user_share(user)
        alone = once[:, self.user_tokens] if self.user_tokens else None
        if not self.item_tokens:
            return alone, None
        shape = self.item_columns.shape
        picked = items.reshape(-1, *shape) if self.aligned else F.pad(items, (0, 1))[:, self.item_columns]
        mine = once[:, self.item_tokens] if self.user_tokens else once
        return alone, ops.per_token_linear(picked, self.item_weight) + mine


def _packed(
    columns: Tensor, chosen: Tensor, position: Tensor, weight: Tensor, tokens: Sequence[int], width: int
) -> tuple[Tensor, Tensor]:
    """Pick the columns of one side for some tokens, padded to one width, with their rows of the weight."""
    lists = [columns[t][chosen[t]] for t in tokens]
    widest = max(map(len, lists), default=0)
    table = torch.full((len(tokens), widest), width, dtype=torch.long)
    part = torch.zeros(len(tokens), widest, weight.shape[2])
    for row, (token, picked) in enumerate(zip(tokens, lists, strict=True)):
        table[row, : len(picked)] = position[picked]
        part[row, : len(picked)] = weight[token][chosen[token]]
    return table, part


def in_order(
    alone: Tensor | None, items: Tensor | None, user_tokens: Sequence[int], item_tokens: Sequence[int], rows: int
) -> Tensor:
    """Put tokens of both kinds in their order; those of the user are repeated for every candidate."""
    parts = [None if alone is None else alone.expand(rows, -1, -1), items]
    present = [part for part in parts if part is not None]
    order = [*user_tokens, *item_tokens]
    tokens = present[0] if len(present) == 1 else torch.cat(present, dim=1)
    if order == sorted(order):
        return tokens
    back = torch.tensor(order).argsort()
    return tokens[:, back]


class SplitTokenizer(nn.Module):
    """Make the tokens of :class:`ChunkTokenizer`, or of :class:`FieldTokenizer` with a linear layer.

    Shape:
        - user: ``(1, E_u)``; items: ``(N, E_c)``; output: ``(N, T, D)``
    """

    def __init__(self, columns: Tensor, owner: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.linear = SplitLinear(columns, owner, weight, bias)

    def forward(self, user: Tensor | None, items: Tensor) -> Tensor:
        """Compute all tokens in their order."""
        alone, others = self.linear(user, items)
        return in_order(alone, others, self.linear.user_tokens, self.linear.item_tokens, items.shape[0])


class SplitFields(nn.Module):
    """Make the tokens of a :class:`FieldTokenizer` without a linear layer: the vector of every field."""

    def __init__(self, owner: Tensor, width: int) -> None:
        super().__init__()
        fields = owner.view(-1, width)[:, 0]
        self.width = width
        self.user_tokens = [t for t in range(len(fields)) if not fields[t]]
        self.item_tokens = [t for t in range(len(fields)) if fields[t]]

    def forward(self, user: Tensor | None, items: Tensor) -> Tensor:
        """Compute all tokens in their order."""
        alone = None if user is None else user.reshape(1, -1, self.width)
        others = items.reshape(items.shape[0], -1, self.width) if self.item_tokens else None
        return in_order(alone, others, self.user_tokens, self.item_tokens, items.shape[0])


class SplitSemantic(nn.Module):
    """Make the tokens of a :class:`SemanticTokenizer`: groups of the user's fields pass both layers once."""

    weight: Tensor
    bias: Tensor

    def __init__(self, tokenizer: SemanticTokenizer, owner: Tensor) -> None:
        super().__init__()
        hidden = tokenizer.hidden
        self.hidden = SplitLinear(tokenizer.columns, owner, _weight(hidden), _bias(hidden))
        first, self.last = tokenizer.global_token[0], tokenizer.global_token[2]
        every = torch.arange(len(owner)).unsqueeze(0)
        self.first = SplitLinear(every, owner, _weight(first).T.unsqueeze(0), _bias(first).unsqueeze(0))
        self.register_buffer("weight", tokenizer.output.weight.detach())
        self.register_buffer("bias", _bias(tokenizer.output))

    def forward(self, user: Tensor | None, items: Tensor) -> Tensor:
        """Compute the global token, then those of the groups."""
        rows = items.shape[0]
        once, each = self.first(user, items)
        summary = in_order(once, each, self.first.user_tokens, self.first.item_tokens, rows)
        whole = self.last(F.silu(summary))
        alone, others = self.hidden(user, items)
        alone, others = self._output(alone, self.hidden.user_tokens), self._output(others, self.hidden.item_tokens)
        return torch.cat(
            [whole, in_order(alone, others, self.hidden.user_tokens, self.hidden.item_tokens, rows)], dim=1
        )

    def _output(self, hidden: Tensor | None, tokens: Sequence[int]) -> Tensor | None:
        if hidden is None:
            return None
        return ops.per_token_linear(F.silu(hidden), self.weight[tokens], self.bias[tokens])


def _weight(linear: nn.Module) -> Tensor:
    weight: Tensor = linear.weight  # type: ignore[assignment]
    return weight.detach()


def _bias(linear: nn.Module) -> Tensor:
    bias: Tensor | None = linear.bias  # type: ignore[assignment]
    assert bias is not None
    return bias.detach()


def split_tokenizer(tokenizer: nn.Module, owner: Tensor) -> nn.Module:
    """Convert a trained tokenizer to its form for requests.

    Args:
        tokenizer: one of :mod:`unimixer.features.tokenizers`.
        owner: for every column of E whether it belongs to the candidate.
    """
    if isinstance(tokenizer, SemanticTokenizer):
        return SplitSemantic(tokenizer, owner)
    if isinstance(tokenizer, FieldTokenizer):
        if isinstance(tokenizer.linear, nn.Identity):
            return SplitFields(owner, tokenizer.width)
        columns = torch.arange(len(owner)).view(tokenizer.num_tokens, tokenizer.width)
        return SplitTokenizer(columns, owner, _weight(tokenizer.linear), _bias(tokenizer.linear))
    assert isinstance(tokenizer, ChunkTokenizer)
    order = torch.arange(len(owner)) if tokenizer.order is None else tokenizer.order
    columns = F.pad(order, (0, tokenizer.padding), value=len(owner)).view(tokenizer.num_tokens, tokenizer.piece_dim)
    return SplitTokenizer(columns, owner, _weight(tokenizer.linear), _bias(tokenizer.linear))
