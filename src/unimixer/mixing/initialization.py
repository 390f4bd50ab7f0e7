"""Initialize raw mixing matrices: from the rule of TokenMixer, from the identity, or at random.

arXiv:2604.00590 does not say. Small random matrices are the default failure: what Sinkhorn makes of them is nearly
flat, so that every block becomes the average of all blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unimixer import ops
from unimixer.errors import UnimixerError, check_choice, check_shape

STARTS = ("rule", "identity", "random", "orthogonal")
DRAWN = ("random", "orthogonal")
"""Starts that no permutation describes."""


def block_permutation(init: str | Tensor, length: int, block_size: int, num_heads: int | None) -> Tensor | None:
    """The permutation of blocks that a mixing starts from, ``out block i = block permutation[i]``; None for one drawn.

    The rule splits the embedding into H pieces of H heads, and a block must lie inside a head. A tensor is the
    permutation itself.
    """
    num_blocks = length // block_size
    if isinstance(init, Tensor):
        check_shape("init", init, (num_blocks,))
        return init
    check_choice("init", init, STARTS)
    if init in DRAWN:
        return None
    if init == "identity":
        return torch.arange(num_blocks)
    if num_heads is None:
        raise UnimixerError("init='rule' needs num_heads, the number of tokens; or choose init 'identity' or 'random'")
    if length % (num_heads**2 * block_size):
        head, rest = divmod(length, num_heads**2)
        sizes = ", ".join(str(size) for size in range(1, head + 1) if head % size == 0)
        heads = rule_heads(num_heads, length, block_size)
        way_out = f"num_heads={heads} is valid" if rest else f"valid block sizes: {sizes}"
        raise UnimixerError(
            f"init='rule': block_size={block_size} must divide a head, length / num_heads**2 = "
            f"{length} / {num_heads}**2; {way_out}; or choose init 'identity' or 'random'"
        )
    return ops.token_mixing_permutation(num_heads, length // num_heads // block_size, num_heads)


def rule_heads(num_tokens: int, length: int, block_size: int) -> int:
    """The largest number of heads, at most T, for which the rule moves whole blocks."""
    return max(h for h in range(1, num_tokens + 1) if h == 1 or length % (h * h * block_size) == 0)


def head_permutations(num_blocks: int, num_heads: int, *, symmetric: bool) -> Tensor:
    r"""The permutation of every head: out block n = block :math:`(n + h) \bmod N`, or :math:`(h - n) \bmod N`.

    With H = N each block gets one head of every block, as by the rule of TokenMixer, which differs in the order of
    heads inside blocks alone. The second form is its own inverse.

    Shape:
        - output: ``(H, N)``

    Example:
        >>> head_permutations(3, 3, symmetric=False)
        tensor([[0, 1, 2],
                [1, 2, 0],
                [2, 0, 1]])
    """
    heads, blocks = torch.arange(num_heads).unsqueeze(1), torch.arange(num_blocks)
    return (heads - blocks if symmetric else heads + blocks) % num_blocks


def permutation_logits(permutation: Tensor, peak: float) -> Tensor:
    """Logits of a sharp permutation matrix, or of each of several: ``peak`` on it, 0 elsewhere."""
    return ops.permutation_matrix(permutation) * peak


def low_rank_permutation(permutation: Tensor, rank: int, margin: float) -> tuple[Tensor, Tensor]:
    r"""Factors ``(N, r')``, ``(r', N)`` of logits that peak on a permutation, at least ``margin`` above all others.

    With :math:`r' = \lceil \log_2 N \rceil \le` ``rank`` columns, block j is a vector of signs, the bits of j, and
    logits are inner products: ``margin`` is lost for every bit in which :math:`\pi(i)` and j differ. With fewer
    columns, logits are :math:`-c\,(\pi(i) - j)^2`, of rank 3, indices centred; their factors are of size
    :math:`\sqrt{c}\,N / 2`, so that a step of training moves the permutation far more than with signs.

    Shape:
        - permutation: ``(N,)``
    """
    size = permutation.numel()
    bits = max(1, math.ceil(math.log2(size)))
    if rank >= bits:
        scale = math.sqrt(margin / 2)
        signs = (torch.arange(size).unsqueeze(1) >> torch.arange(bits)) % 2 * 2.0 - 1.0
        return signs[permutation] * scale, signs.T * scale
    if rank < 3:
        raise UnimixerError(f"rank={rank} is too small to start from a permutation; the smallest valid rank is 3")
    centre, half = (size - 1) / 2, max((size - 1) / 2, 1.0)
    target, position = (permutation - centre) / half, (torch.arange(size) - centre) / half
    scale = math.sqrt(margin) * half
    left = torch.stack([-target.square(), math.sqrt(2) * target, -torch.ones(size)], 1)
    right = torch.stack([torch.ones(size), math.sqrt(2) * position, position.square()])
    return left * scale, right * scale
