"""Tokens meet through a few hubs that read them, talk to each other, and are read: HubMixer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError, check_divisible, check_positive
from unimixer.mixing.base import Mixing

EPS = 1e-6
"""Of the norms of hubs, as of all RMS norms."""


class HubAttention(nn.Module):
    r"""Multi-head attention of some tokens to others, the same weights for all, without biases.

    .. math:: \mathrm{Attn}(Q, K, V) = \Big[ \mathrm{softmax}\Big(
              \frac{(Q W_Q)_h (K W_K)_h^\top}{\sqrt{D / H}} \Big) (V W_V)_h \Big]_{h = 1}^{H} W_O, \qquad K = V

    Shape:
        - tokens: ``(B, M, D)``; others: ``(B, N, D)``; output: ``(B, M, D)``
    """

    def __init__(self, token_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (token_dim // num_heads) ** -0.5
        self.query, self.key, self.value, self.output = (nn.Linear(token_dim, token_dim, bias=False) for _ in range(4))

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """Read the others into the tokens."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, tokens), (self.key, others), (self.value, others))
        )
        weights = ((query * self.scale) @ key.mT).softmax(-1)
        read: Tensor = self.output((weights @ value).transpose(1, 2).flatten(2))
        return read


class HubMixing(Mixing):
    r"""M hubs read the tokens, read each other, and every token reads the hubs.

    .. math:: Z = \mathrm{RMS}(H + \mathrm{Attn}(H, X, X)), \qquad Z' = \mathrm{RMS}(Z + \mathrm{Attn}(Z, Z, Z)),
              \qquad out = \gamma \odot \mathrm{Attn}(X, Z', Z'), \qquad
              H_m = h_m + \mathrm{MLP}\big(\tfrac{1}{T} \textstyle\sum_t x_t\big)

    HubMixer (arXiv:2608.27991). The sum X + out is the residual around the mixing. Ours, where we know no more: the
    MLP has one hidden SiLU layer of width D and adds the same vector to every hub; hubs start normal, the scale
    :math:`\gamma` of every column at 0.1; attention has no biases.

    Args:
        num_tokens: T.
        token_dim: D.
        num_hubs: M.
        num_heads: heads of all three attentions, a divisor of D.

    Shape:
        - x: ``(B, T, D)`` or ``(B, T D)``; output: the shape of x

    Example:
        >>> HubMixing(num_tokens=4, token_dim=8, num_hubs=3)(torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 8])
    """

    local_pattern = "linear, shared"
    global_pattern = "softmax attention through learned hubs"

    def __init__(self, num_tokens: int, token_dim: int, num_hubs: int = 16, num_heads: int = 4) -> None:
        check_positive(num_tokens=num_tokens, token_dim=token_dim, num_hubs=num_hubs)
        check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
        super().__init__(num_tokens * token_dim)
        self.num_tokens, self.token_dim = num_tokens, token_dim
        self.hubs = nn.Parameter(torch.randn(num_hubs, token_dim))
        self.mean = nn.Sequential(nn.Linear(token_dim, token_dim), nn.SiLU(), nn.Linear(token_dim, token_dim))
        self.read, self.talk, self.write = (HubAttention(token_dim, num_heads) for _ in range(3))
        self.read_gain, self.talk_gain = (nn.Parameter(torch.ones(token_dim)) for _ in range(2))
        self.scale = nn.Parameter(torch.full((token_dim,), 0.1))

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens."""
        tokens = x_BL.reshape(-1, self.num_tokens, self.token_dim)
        hubs = self.hubs + self.mean(tokens.mean(1)).unsqueeze(1)
        hubs = ops.rms_norm(hubs + self.read(hubs, tokens), self.read_gain, EPS)
        hubs = ops.rms_norm(hubs + self.talk(hubs, hubs), self.talk_gain, EPS)
        written: Tensor = self.write(tokens, hubs)
        return (self.scale.to(written.dtype) * written).flatten(1)

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """There is none: hubs are normalized sums, so the output is no matrix times the tokens."""
        raise UnimixerError("HubMixing has no matrix: what tokens read from hubs is not linear in them")

    @staticmethod
    def num_parameters(token_dim: int, num_hubs: int) -> int:
        r"""Parameters by formula: :math:`14 D^2 + (M + 5) D`.

        Example:
            >>> HubMixing.num_parameters(8, 3)
            960
        """
        return 14 * token_dim**2 + (num_hubs + 5) * token_dim
