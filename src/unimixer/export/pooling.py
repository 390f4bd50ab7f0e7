"""Encoders of one user's events for many candidates: the events' side is computed once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.features.sequence import SmallTransformer, TargetAttention


class RequestAttention(nn.Module):
    r"""The numbers of :class:`~unimixer.features.sequence.TargetAttention` for one list of events.

    Its first layer is linear in :math:`[k, q, k - q, k \odot q]`, so what belongs to an event and what belongs to a
    candidate is computed once for each, and a quarter of the products is left for their pairs:

    .. math:: W [k, q, k - q, k \odot q] = (W_1 + W_3)\, k + (W_2 - W_3)\, q + W_4 (k \odot q)

    Shape:
        - events: ``(V, E)``; target: ``(N, Q)``; output: ``(N, E)``
    """

    of_key: Tensor
    of_query: Tensor
    of_product: Tensor
    bias: Tensor
    matched: Tensor

    def __init__(self, encoder: TargetAttention) -> None:
        super().__init__()
        first, self.last = _linear(encoder.score[0]), _linear(encoder.score[2])
        of_key, of_query, of_difference, of_product = first.weight.detach().chunk(4, dim=1)
        self.register_buffer("of_key", (of_key + of_difference).T.contiguous())
        self.register_buffer("of_query", (of_query - of_difference).T.contiguous())
        self.register_buffer("of_product", of_product.T.contiguous())
        self.register_buffer("bias", first.bias.detach())
        self.register_buffer("matched", encoder.matched)
        self.scale = 1 / math.sqrt(encoder.max_length)

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        """Weigh all events for every candidate."""
        key = events[:, self.matched]
        pairs = (target.unsqueeze(1) * key) @ self.of_product
        alone = (key @ self.of_key + self.bias).unsqueeze(0) + (target @ self.of_query).unsqueeze(1)
        weights: Tensor = self.last(F.silu(pairs + alone)).squeeze(-1)
        return weights @ events * self.scale


class RequestTransformer(nn.Module):
    """The numbers of :class:`~unimixer.features.sequence.SmallTransformer` for one list of events.

    Every candidate stands among the events and they attend to it, so the layer runs once a candidate; there is nothing
    to pad and to mask, because all have the same list.

    Shape:
        - events: ``(V, E)``, at most ``max_length`` of them; target: ``(N, Q)``; output: ``(N, E)``
    """

    def __init__(self, encoder: SmallTransformer) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = encoder.layer.self_attn.num_heads

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        """One layer over each candidate and the events, then the mean."""
        encoder, layer = self.encoder, self.encoder.layer
        count = torch.ones_like(events[:, 0], dtype=torch.long).sum()
        ages = count - torch.arange(1, events.shape[0] + 1, device=events.device)
        events = events + encoder.position[ages.clamp(max=encoder.max_length - 1)]
        first = encoder.target(target).unsqueeze(1)
        tokens = torch.cat([first, events.unsqueeze(0).expand(target.shape[0], -1, -1)], dim=1)
        tokens = tokens + self._attend(layer.norm1(tokens))
        tokens = tokens + layer.linear2(F.gelu(layer.linear1(layer.norm2(tokens))))
        encoded: Tensor = tokens.mean(1)
        return encoded

    def _attend(self, tokens: Tensor) -> Tensor:
        attention = self.encoder.layer.self_attn
        projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (
            part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in projected.chunk(3, dim=-1)
        )
        weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
        read: Tensor = attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return read


def _linear(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    return layer


def request_encoder(encoder: nn.Module) -> nn.Module:
    """A trained encoder in its form for requests."""
    if isinstance(encoder, TargetAttention):
        return RequestAttention(encoder)
    assert isinstance(encoder, SmallTransformer)
    return RequestTransformer(encoder)
