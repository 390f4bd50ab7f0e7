"""Deep Interest Evolution Network: a GRU extracts interests, and an AUGRU evolves them towards the candidate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.blocks.auxiliary import Auxiliary
from unimixer.errors import UnimixerError
from unimixer.features.events import pad_events


class GRU(nn.Module):
    r"""A gated recurrent unit whose update gate is scaled at every step (AUGRU); a scale of 1 gives the plain GRU.

    .. math::
        u_t &= \sigma(W^u i_t + U^u h_{t-1} + b^u), \qquad r_t = \sigma(W^r i_t + U^r h_{t-1} + b^r) \\
        \tilde h_t &= \tanh(W^h i_t + r_t \circ U^h h_{t-1} + b^h), \qquad \tilde u_t = a_t u_t \\
        h_t &= (1 - \tilde u_t) \circ h_{t-1} + \tilde u_t \circ \tilde h_t

    Deep Interest Evolution Network (arXiv:1809.03672), Eq. (2)-(5) and (11)-(13); :math:`h_0 = 0`. A scale of 0 leaves
    the state as it is, so that padded steps have no effect wherever they stand.

    Args:
        in_dim: width of :math:`i_t`.
        hidden_dim: H, width of :math:`h_t`.

    Shape:
        - inputs: ``(B, L, in_dim)``, :math:`i_t`, or one row for all; scales: ``(B, L)``, :math:`a_t`
        - output: ``(B, L, H)``, :math:`h_t`
    """

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.input = nn.Linear(in_dim, 3 * hidden_dim)  # W^u, W^r, W^h and their biases
        self.state = nn.Linear(hidden_dim, 3 * hidden_dim, bias=False)  # U^u, U^r, U^h

    def forward(self, inputs: Tensor, scales: Tensor) -> Tensor:
        driven: Tensor = self.input(inputs).transpose(0, 1)
        steps = scales.to(driven.dtype).T.unsqueeze(-1)
        state = driven.new_zeros(scales.shape[0], self.hidden_dim)
        if torch.compiler.is_exporting():  # one step in the graph, whatever the length
            from torch._higher_order_ops.scan import scan

            states: Tensor = scan(self._scanned, state, (driven, steps))[1]
            return states.transpose(0, 1)
        every = []
        for of_input, scale in zip(driven.unbind(), steps.unbind(), strict=True):
            state = self._step(state, of_input, scale)
            every.append(state)
        return torch.stack(every, dim=1)

    def _step(self, state: Tensor, of_input: Tensor, scale: Tensor) -> Tensor:
        """Return the next state: ``(B, H)``, ``(B, 3 H)``, ``(B, 1)`` to ``(B, H)``."""
        update, reset, fresh = of_input.chunk(3, dim=-1)
        of_update, of_reset, of_fresh = self.state(state).chunk(3, dim=-1)
        candidate = (fresh + (reset + of_reset).sigmoid() * of_fresh).tanh()
        share = scale * (update + of_update).sigmoid()
        following: Tensor = state + share * (candidate - state)
        return following

    def _scanned(self, state: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        state = self._step(state, *step)
        return state, state.clone()


class DIEN(Auxiliary):
    r"""The last state of an AUGRU over interests, which a GRU extracts from the events, oldest first.

    .. math::
        a_t = \frac{\exp(h_t W e_a)}{\sum_j \exp(h_j W e_a)}, \qquad
        L_{aux} = -\frac{1}{T - 1} \sum_{t=1}^{T-1}
            \log \sigma(h_t \cdot e_{t+1}) + \log(1 - \sigma(h_t \cdot \hat e_{t+1}))

    Deep Interest Evolution Network (arXiv:1809.03672), Eq. (6), (8) and (10): :math:`h_t` are the states of the
    extractor, whose training has the auxiliary loss, times ``aux_loss_weight`` (the paper's :math:`\alpha`). A row has
    the mean over its steps where the paper has their sum, so that the weight has one meaning at all lengths, and the
    batch has the mean of its rows. :math:`\hat e` is drawn from the events of the batch. Both units are as wide as an
    event, as :math:`h \cdot e` needs.

    Args:
        width: E, of an event :math:`e_t`.
        matched: the columns of an event that have a counterpart in the candidate :math:`e_a`.
        max_length: T at most; older events are left out.
        aux_loss_weight: weight of the auxiliary loss; 0 leaves it out.

    Shape:
        - events: ``(V, E)``; offsets: ``(B + 1,)``, the newest event of a row last; target: ``(B, Q)``, :math:`e_a`
        - output: ``(B, E)``, zero for an empty sequence

    Example:
        >>> encoder = DIEN(4, [0, 1], max_length=3)
        >>> encoder(torch.zeros(3, 4), torch.tensor([0, 3, 3]), torch.zeros(2, 2)).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int, matched: list[int], *, max_length: int, aux_loss_weight: float = 1.0) -> None:
        super().__init__()
        if aux_loss_weight < 0:
            raise UnimixerError(f"aux_loss_weight={aux_loss_weight} must be 0 or more")
        self.max_length, self.aux_loss_weight = max_length, aux_loss_weight
        self.matched: Tensor
        self.register_buffer("matched", torch.tensor(matched), persistent=False)
        self.extractor, self.evolution = GRU(width, width), GRU(width, width)
        self.match = nn.Linear(len(matched), width, bias=False)  # W

    def forward(self, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:
        return self.encode(*pad_events(events, offsets, self.max_length), target)

    def encode(self, padded: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Encode padded events.

        Shape:
            - padded: ``(B, L, E)``, the newest event first, and lengths: ``(B,)``; or one row for all candidates
            - target: ``(B, Q)``; output: ``(B, E)``
        """
        mask = (torch.arange(self.max_length, device=padded.device) < lengths.unsqueeze(1)).flip(1)
        events = padded.flip(1)  # the oldest event first, behind the padding
        interests: Tensor = self.extractor(events, mask)
        learns = self.records and self.aux_loss_weight > 0 and self.max_length > 1
        self.penalty = self._auxiliary_loss(interests, events, mask) if learns else None
        scores = (interests @ self.match(target).unsqueeze(-1)).squeeze(-1)
        scores = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
        last: Tensor = self.evolution(interests, scores.softmax(-1) * mask)[:, -1]
        return last.to(padded.dtype)

    def _auxiliary_loss(self, interests: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """Tell the next event of every step from one of the batch that is drawn at random."""
        pairs = mask[:, :-1] & mask[:, 1:]
        following, shape = events[:, 1:], pairs.shape
        real = mask.flatten().to(events.dtype)
        # a batch without any event has no pair, and draws padding
        drawn = torch.multinomial(real + (real.sum() == 0), shape.numel(), replacement=True)
        other = events.flatten(0, 1)[drawn].view(*shape, -1)
        states = interests[:, :-1].float()
        losses = F.softplus(-(states * following).sum(-1)) + F.softplus((states * other).sum(-1))
        by_row = (losses * pairs).sum(1) / pairs.sum(1).clamp(min=1)
        self.statistics = {"interest_loss": by_row.mean().detach()}
        return self.aux_loss_weight * by_row.mean()
