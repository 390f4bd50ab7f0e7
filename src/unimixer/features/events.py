"""Behaviour sequences as padded events, for models that read them inside the stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimixer.blocks.cross_attention import EventFFN, attend
from unimixer.blocks.per_token import PerTokenLinear
from unimixer.errors import check_positive
from unimixer.features.sequence import owners

SEQUENCES = ("pooled", "tokens", "cross_attention")


class EventGroup(NamedTuple):
    """The description of a history whose events a model reads.

    Example:
        >>> EventGroup("clicked", width=16, max_length=50).max_length
        50
    """

    name: str
    width: int
    """Width of an event: the embeddings of its fields, one after the other."""
    max_length: int


class Histories(NamedTuple):
    """Events of a batch, all groups one after the other."""

    events: Tensor
    """``(B, S, C)``"""
    mask: Tensor
    """``(B, S)``, True for a real event."""


def pad_events(events: Tensor, offsets: Tensor, max_length: int) -> tuple[Tensor, Tensor]:
    """Pad ragged events to a rectangle, the newest event first, and leave out all beyond ``max_length`` events.

    The width of the rectangle does not depend on the batch, as a graph that is compiled or exported needs it.

    Shape:
        - events: ``(V, E)``; offsets: ``(B + 1,)``, the newest event of a row last
        - output: ``(B, max_length, E)``, zero where there is no event, and the rows' lengths ``(B,)``

    Example:
        >>> padded, lengths = pad_events(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 2, 3]), 2)
        >>> padded.squeeze(-1).tolist(), lengths.tolist()
        ([[2.0, 1.0], [0.0, 0.0], [3.0, 0.0]], [2, 0, 1])
    """
    owner = owners(offsets, events.shape[0])
    age = offsets[1:][owner] - 1 - torch.arange(events.shape[0], device=events.device)
    # one place more than needed takes what is too old
    padded = events.new_zeros(offsets.shape[0] - 1, max_length + 1, events.shape[1])
    padded = padded.index_put((owner, age.clamp(max=max_length)), events)
    return padded[:, :max_length], offsets.diff().clamp(max=max_length)


def trimmed(padded: Tensor, lengths: Tensor) -> Tensor:
    """Cut to the longest sequence of the batch in eager mode on a CPU: a graph has one shape, and a GPU would wait.

    What is cut off is masked wherever it is read, so results do not depend on it.
    """
    if torch.compiler.is_compiling() or padded.device.type != "cpu":
        return padded
    return padded[:, : max(1, int(lengths.max()))] if len(lengths) else padded


class EventEmbedding(nn.Module):
    r"""Events of every group to one width, with their places counted back from the newest event.

    .. math:: e_s = W_g x_s + b_g + p_{g, \mathrm{age}(s)}

    The bias tells groups apart. Places start at zero, so that at first the order of events does not matter.

    Source: learned places as in BST (arXiv:1905.06874), counted back.

    Args:
        groups: the histories, in the order of the input.
        sequence_dim: width C.

    Shape:
        - histories: for each group padded events ``(B, L, E)`` and lengths ``(B,)``, as :func:`pad_events` gives them
        - output: events ``(B, S, C)`` and their mask ``(B, S)``

    Example:
        >>> groups = [EventGroup("clicked", width=6, max_length=5)]
        >>> histories = torch.zeros(2, 5, 6), torch.tensor([3, 0])
        >>> events, mask = EventEmbedding(groups, 4)(histories)
        >>> events.shape, mask.sum(1).tolist()
        (torch.Size([2, 3, 4]), [3, 0])
    """

    def __init__(self, groups: Sequence[EventGroup], sequence_dim: int) -> None:
        super().__init__()
        check_positive(sequence_dim=sequence_dim)
        # lists, because names of histories need not be names that a module can have
        self.linears = nn.ModuleList(nn.Linear(group.width, sequence_dim) for group in groups)
        self.positions = nn.ParameterList(torch.zeros(group.max_length, sequence_dim) for group in groups)

    def groups(self, histories: Sequence[Tensor]) -> list[Histories]:
        """Return the events and mask of each group apart."""
        histories_by_group = []
        for index, (linear, position) in enumerate(zip(self.linears, self.positions, strict=True)):
            padded, lengths = histories[2 * index], histories[2 * index + 1]
            padded = trimmed(padded, lengths)
            ages = torch.arange(padded.shape[1], device=padded.device)
            events = linear(padded)
            events = events + position[: padded.shape[1]].to(events.dtype)
            histories_by_group.append(Histories(events, ages < lengths.unsqueeze(1)))
        return histories_by_group

    def forward(self, histories: Sequence[Tensor]) -> Histories:
        """Return the events and mask of all groups together."""
        events, masks = zip(*self.groups(histories), strict=True)
        return Histories(torch.cat(events, dim=1), torch.cat(masks, dim=1))


class SequenceTokens(nn.Module):
    r"""K tokens a group: every event through a SwiGLU, then K learned queries that each take a softmax mean.

    .. math:: \tilde e_s = e_s + \mathrm{SwiGLU}_g(\mathrm{RMSNorm}(e_s)), \qquad
              x_k = W_k \sum_s \mathrm{softmax}_s\!\left(\frac{u_k \cdot \tilde e_s}{\sqrt{C}}\right) \tilde e_s + b_k

    Of our own making: a light form of pooling by attention (arXiv:1810.00825). The token of an empty history is
    :math:`b_k`, which is learned. Places of events start at zero, see :class:`EventEmbedding`.

    Args:
        groups: the histories, in the order of the input.
        sequence_dim: width C of an event inside the encoder.
        num_tokens: K.
        token_dim: D.

    Shape:
        - histories: as for :class:`EventEmbedding`; output: ``(B, K * groups, D)``

    Example:
        >>> groups = [EventGroup("clicked", width=6, max_length=5)]
        >>> histories = torch.zeros(2, 5, 6), torch.tensor([3, 0])
        >>> SequenceTokens(groups, 4, num_tokens=2, token_dim=8)(histories).shape
        torch.Size([2, 2, 8])
    """

    def __init__(self, groups: Sequence[EventGroup], sequence_dim: int, *, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        check_positive(sequence_tokens=num_tokens)
        self.scale = sequence_dim**-0.5
        self.embedding = EventEmbedding(groups, sequence_dim)
        self.refine = nn.ModuleList(EventFFN(sequence_dim, sequence_dim) for _ in groups)
        self.queries = nn.ParameterList(torch.randn(num_tokens, sequence_dim) for _ in groups)
        self.outputs = nn.ModuleList(PerTokenLinear(num_tokens, sequence_dim, token_dim) for _ in groups)

    def forward(self, histories: Sequence[Tensor]) -> Tensor:
        """Return the tokens of all groups."""
        parts = zip(self.embedding.groups(histories), self.refine, self.queries, self.outputs, strict=True)
        tokens = [
            output(attend(queries, refine(events), mask, self.scale))
            for (events, mask), refine, queries, output in parts
        ]
        return torch.cat(tokens, dim=1)
