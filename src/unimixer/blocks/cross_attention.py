"""Cross-attention from tokens to a sequence of events, every token with keys and values of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.blocks.norms import RMSNorm
from unimixer.blocks.per_token import PerTokenLinear
from unimixer.errors import UnimixerError, check_positive, check_shape


def attend(queries: Tensor, events: Tensor, mask: Tensor, scale: float) -> Tensor:
    r"""Average the events by softmax weights: :math:`c_t = \sum_s \mathrm{softmax}_s(\alpha\, q_t \cdot e_s)\, e_s`.

    The softmax is float32 (or wider) whatever the autocast. Masked events have the weight zero, and a row without
    events gives exact zeros.

    Shape:
        - queries: ``(B, T, C)``, or ``(T, C)`` for all rows alike; events: ``(B, S, C)``; mask: ``(B, S)``, True for a
          real event
        - output: ``(B, T, C)``

    Example:
        >>> events = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
        >>> attend(torch.zeros(1, 1), events, torch.tensor([[True, True], [False, False]]), 1.0).flatten()
        tensor([2., 0.])
    """
    scores = torch.matmul(queries, events.mT) * scale
    wide = scores if scores.dtype == torch.float64 else scores.float()
    absent = ~mask.unsqueeze(1)
    # the lowest finite number instead of -inf: a row without events is then uniform, not NaN, before it is cleared
    weights = wide.masked_fill(absent, torch.finfo(wide.dtype).min).softmax(-1).masked_fill(absent, 0.0)
    return torch.matmul(weights.to(scores.dtype), events)


class EventFFN(nn.Module):
    r"""Apply one pre-norm SwiGLU to every event: :math:`e + W_{down}(u \odot \mathrm{Swish}(g))`.

    .. math:: [u, g] = W\, \mathrm{RMSNorm}(e) + b

    Shape:
        - events: ``(..., C)``; output: ``(..., C)``

    Example:
        >>> EventFFN(6, 12)(torch.zeros(2, 5, 6)).shape
        torch.Size([2, 5, 6])
    """

    def __init__(self, sequence_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(sequence_dim)
        self.up_gate = nn.Linear(sequence_dim, 2 * hidden_dim)
        self.down = nn.Linear(hidden_dim, sequence_dim)

    def forward(self, events: Tensor) -> Tensor:
        """Refine every event."""
        up, gate = self.up_gate(self.norm(events)).chunk(2, dim=-1)
        refined: Tensor = events + self.down(ops.swiglu(up, gate))
        return refined

    @staticmethod
    def num_parameters(sequence_dim: int, hidden_dim: int) -> int:
        """Return the parameters by formula: :math:`3Ch + 2h + 2C`."""
        return 3 * sequence_dim * hidden_dim + 2 * hidden_dim + 2 * sequence_dim


class EventAttention(nn.Module):
    r"""Base of sublayers that add to tokens what these read in events; a stream calls ``refine`` on the events before.

    .. math:: y_t = \sum_s a_{ts}\, v_{ts}

    with weights a and values v that a subclass makes of tokens and events. MixFormer (arXiv:2602.14110) is one.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``, True for a real event
        - output: ``(B, T, D)``, zero for a row without events

    Example:
        >>> attention = CrossAttention(num_tokens=4, token_dim=8, sequence_dim=6)
        >>> isinstance(attention, EventAttention), attention.refine(torch.zeros(2, 5, 6)).shape
        (True, torch.Size([2, 5, 6]))
    """

    refine: nn.Module


class CrossAttention(EventAttention):
    r"""Attend from token t to the events by its own keys and values: one head per token.

    .. math:: F(x)_t = W_o^t \sum_s \mathrm{softmax}_s\!\left(\frac{W_q^t x_t \cdot W_k^t e_s}{\sqrt{d}}\right)
              W_v^t e_s

    MixFormer (arXiv:2602.14110), whose :math:`z_t = \dots + q_t` is the residual that the stream adds. There
    :math:`d = D` and there is neither :math:`W_q` nor :math:`W_o`; that is the default. ``head_dim`` narrows heads to
    d and adds both. No biases.

    Keys and values of all heads are never formed. The events are shared, so the token's side carries the matrices:
    :math:`q \cdot W_k e = (W_k^\top q) \cdot e` and :math:`\sum_s w_s W_v e_s = W_v \sum_s w_s e_s`, the same numbers
    at :math:`T d C + T S C` products a row instead of :math:`S T d C + T S d`.

    ``refine`` belongs to the layer: a stream passes the events through it before the attention and on to the next
    block (MixFormer has a SwiGLU a layer on the sequence; whether layers build on each other is not stated, here they
    do). MixFormer also has an FFN before the query; here that is the FFN of the block before. Its mask that parts user
    from item tokens is not implemented.

    Args:
        num_tokens: T.
        token_dim: D.
        sequence_dim: width C of an event.
        head_dim: width d of queries, keys and values (default: D, without projections of query and output).
        hidden_dim: hidden width of ``refine`` (default C); 0 leaves events as they are.

    Shape:
        - tokens: ``(B, T, D)``; events: ``(B, S, C)``; mask: ``(B, S)``, True for a real event
        - output: ``(B, T, D)``, zero for a row without events

    Example:
        >>> attention = CrossAttention(4, 16, 6)
        >>> attention(torch.zeros(2, 4, 16), torch.zeros(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        num_tokens: int,
        token_dim: int,
        sequence_dim: int,
        *,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        width = token_dim if head_dim is None else head_dim
        hidden_dim = sequence_dim if hidden_dim is None else hidden_dim
        check_positive(num_tokens=num_tokens, token_dim=token_dim, sequence_dim=sequence_dim, head_dim=width)
        if hidden_dim < 0:
            raise UnimixerError(
                f"hidden_dim={hidden_dim} of the events must not be negative; 0 leaves them as they are"
            )
        self.sequence_dim, self.scale = sequence_dim, width**-0.5
        projected = head_dim is not None
        self.query = PerTokenLinear(num_tokens, token_dim, width, bias=False) if projected else nn.Identity()
        self.key = PerTokenLinear(num_tokens, sequence_dim, width, bias=False)
        self.value = PerTokenLinear(num_tokens, sequence_dim, width, bias=False)
        self.output = PerTokenLinear(num_tokens, width, token_dim, bias=False) if projected else nn.Identity()
        self.refine = EventFFN(sequence_dim, hidden_dim) if hidden_dim else nn.Identity()

    def forward(self, tokens: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """Read the events into every token."""
        check_shape("events", events, (None, None, self.sequence_dim))
        queries = ops.per_token_linear(self.query(tokens), self.key.weight.mT)
        read: Tensor = self.output(self.value(attend(queries, events, mask, self.scale)))
        return read

    @staticmethod
    def num_parameters(
        num_tokens: int,
        token_dim: int,
        sequence_dim: int,
        *,
        head_dim: int | None = None,
        hidden_dim: int | None = None,
    ) -> int:
        """Parameters by formula: :math:`2TCD`, or :math:`2Td(C + D)` with a ``head_dim``, and those of ``refine``.

        Example:
            >>> CrossAttention.num_parameters(4, 16, 6, hidden_dim=0)
            768
        """
        width = 2 * sequence_dim * token_dim if head_dim is None else 2 * head_dim * (sequence_dim + token_dim)
        hidden_dim = sequence_dim if hidden_dim is None else hidden_dim
        return num_tokens * width + (EventFFN.num_parameters(sequence_dim, hidden_dim) if hidden_dim else 0)


@dataclass(frozen=True, kw_only=True)
class EventOptions:
    """Options of a backbone whose blocks may attend to events between mixing and FFN."""

    sequence_dim: int | None = None
    """Width of an event; without it there is no such sublayer."""
    sequence_head_dim: int | None = None
    """Width of queries, keys and values (default: D)."""
    sequence_hidden_dim: int | None = None
    """Hidden width of the SwiGLU on events (default: ``sequence_dim``), 0 for none."""

    def check_events(self) -> None:
        """Raise for options of the attention where there is none."""
        for name in ("sequence_head_dim", "sequence_hidden_dim"):
            if self.sequence_dim is None and getattr(self, name) is not None:
                raise UnimixerError(f"{name}={getattr(self, name)} has no use without sequence_dim; leave it out")

    def build_attention(self, num_tokens: int, token_dim: int) -> tuple[EventAttention, ...]:
        """Build the sublayer; none without ``sequence_dim``."""
        self.check_events()
        head_dim, hidden_dim = self.sequence_head_dim, self.sequence_hidden_dim
        if self.sequence_dim is None:
            return ()
        return (CrossAttention(num_tokens, token_dim, self.sequence_dim, head_dim=head_dim, hidden_dim=hidden_dim),)

    def attention_parameters(self, num_tokens: int, token_dim: int) -> int:
        """Count the parameters of :meth:`build_attention` by formula.

        Example:
            >>> EventOptions(sequence_dim=6, sequence_hidden_dim=0).attention_parameters(4, 16)
            768
        """
        if self.sequence_dim is None:
            return 0
        widths = {"head_dim": self.sequence_head_dim, "hidden_dim": self.sequence_hidden_dim}
        return CrossAttention.num_parameters(num_tokens, token_dim, self.sequence_dim, **widths)
