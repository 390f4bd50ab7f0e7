"""Softmax attention as a global pattern, over any projections of queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_divisible
from unimixer.mixing.global_patterns import Global, required_blocks
from unimixer.mixing.local_patterns import Local

_WHOSE = {
    "SharedLinear": "shared projections",
    "BlockLinear": "projections own for every block",
    "BasisLinear": "projections composed of a shared basis",
}


class SoftmaxAttention(Global):
    r"""Weights from inner products of queries and keys.

    .. math:: G^h(X) = \mathrm{softmax}\left( w_{ij}\, q_i^h \cdot k_j^h / \sqrt{a} \right)

    The projections decide whose attention this is: :class:`~unimixer.mixing.SharedLinear` gives self-attention
    (arXiv:1706.03762), :class:`~unimixer.mixing.BlockLinear` heterogeneous attention, and
    :class:`~unimixer.mixing.CompositeLinear` HiFormer (arXiv:2311.05884).

    Args:
        query: blocks to queries of all heads, of width H a; M of them.
        key: blocks to keys of all heads.
        num_heads: H.
        scaled: divide by :math:`\sqrt{a}`.
        modulated: multiply logits by a learned number for every ordered pair of blocks, w, which starts at one (FAT,
            arXiv:2511.12081, "cross-field modulation"); without it w = 1.
        per_head: every head has numbers of its own.

    Shape:
        - blocks: ``(B, N, b)``; values: ``(B, N, c)``, with c divisible by H; output: ``(B, M, c)``

    Example:
        >>> from unimixer.mixing import SharedLinear
        >>> attention = SoftmaxAttention(SharedLinear(4, 6, 8), SharedLinear(4, 6, 8), num_heads=2)
        >>> attention.weights(torch.zeros(1, 4, 6))[0, 0, 0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<SelectBackward0>)
    """

    depends_on_input = True

    def __init__(
        self,
        query: Local,
        key: Local,
        *,
        num_heads: int = 1,
        scaled: bool = True,
        modulated: bool = False,
        per_head: bool = False,
    ) -> None:
        super().__init__()
        if query.out_dim != key.out_dim:
            raise UnimixerError(f"queries have width {query.out_dim} and keys {key.out_dim}; they must be equal")
        if per_head and not modulated:
            raise UnimixerError("per_head=True has no use with modulated=False; set modulated=True or leave it out")
        check_divisible("query width", query.out_dim, by="num_heads", divisor=num_heads)
        self.query, self.key, self.num_heads = query, key, num_heads
        self.scale = (query.out_dim // num_heads) ** -0.5 if scaled else 1.0
        pairs = (num_heads if per_head else 1, query.out_blocks, key.out_blocks)
        self.modulation = nn.Parameter(torch.ones(pairs)) if modulated else None
        self.pattern = f"softmax attention, {_WHOSE.get(type(query).__name__, 'projections ' + query.pattern)}" + (
            f", logits times a number a pair{' and head' if per_head else ''}" if modulated else ""
        )
        # measured on one core, forward and backward: below this, plain products are up to 1.7 times as fast
        self._small = key.out_blocks < 32 and key.out_blocks * query.out_dim // num_heads <= 512

    def heads(self, x_BNd: Tensor) -> Tensor:
        """Split the width over heads: ``(B, N, H a)`` to ``(B, H, N, a)``."""
        return x_BNd.reshape(*x_BNd.shape[:2], self.num_heads, -1).transpose(1, 2)

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The attention weights ``(B, H, M, N)``."""
        blocks = required_blocks(blocks, self)
        logits = (self.heads(self.query(blocks)) * self.scale) @ self.heads(self.key(blocks)).mT
        if self.modulation is not None:
            logits = logits * self.modulation.to(logits.dtype)
        return logits.softmax(-1)

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Attend; without modulation by torch's fused attention, except where that is the slower one."""
        if self.modulation is not None or (self._small and blocks.device.type == "cpu"):
            return super().forward(blocks, values)
        query, key = self.heads(self.query(blocks)), self.heads(self.key(blocks))
        attended = F.scaled_dot_product_attention(query, key, self.heads(values.to(query.dtype)), scale=self.scale)
        return attended.transpose(1, 2).flatten(2)
