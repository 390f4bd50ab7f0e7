"""Mixings that learn nothing: what a learned mixing, or the rule, has to be compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.errors import check_divisible
from unimixer.mixing.fixed_patterns import FixedGlobal
from unimixer.mixing.global_patterns import IdentityGlobal, Permutation
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.unified import Unified


def no_mixing(num_tokens: int, token_dim: int) -> Unified:
    """Tokens stay as they are and never meet."""
    return Unified(IdentityLocal(num_tokens, token_dim), IdentityGlobal(num_tokens))


def random_permutation(num_tokens: int, token_dim: int, *, balanced: bool = False, seed: int = 0) -> Unified:
    """A fixed random permutation of the T^2 blocks that the rule of TokenMixer moves.

    Args:
        num_tokens: T.
        token_dim: D, divisible by T.
        balanced: every output token receives one block of every token, as under the rule, in random order.
        seed: decides on the permutation.

    Example:
        >>> order = random_permutation(3, 3, balanced=True).global_.permutation.view(3, 3)
        >>> (order // 3).sort().values.tolist()  # the tokens that each token receives blocks of
        [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    check_divisible("token_dim", token_dim, by="num_tokens", divisor=num_tokens)
    draw = torch.Generator().manual_seed(seed)
    order = _balanced(num_tokens, draw) if balanced else _drawn(num_tokens**2, draw)
    inside = IdentityLocal(num_tokens**2, token_dim // num_tokens)
    permutation = Permutation(_here(order))
    permutation.pattern = f"fixed permutation, random{', balanced over tokens' if balanced else ''}"
    return Unified(inside, permutation)


def random_orthogonal(num_tokens: int, token_dim: int, *, seed: int = 0) -> Unified:
    """A fixed random orthogonal matrix between the T^2 blocks of the rule, uniform over all of them.

    Example:
        >>> matrix = random_orthogonal(2, 4).mixing_matrix()
        >>> torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-6)
        True
    """
    check_divisible("token_dim", token_dim, by="num_tokens", divisor=num_tokens)
    size, draw = num_tokens**2, torch.Generator().manual_seed(seed)
    normal = torch.randn(size, size, generator=draw, dtype=torch.float64, device="cpu")
    orthogonal, triangle = torch.linalg.qr(normal)
    matrix = orthogonal * triangle.diagonal().sign()  # uniform only with the signs of the diagonal
    between = FixedGlobal(_here(matrix.to(torch.get_default_dtype()).contiguous()), "fixed orthogonal matrix, random")
    return Unified(IdentityLocal(size, token_dim // num_tokens), between)


def _balanced(num_tokens: int, draw: torch.Generator) -> Tensor:
    """The blocks of a token go to different tokens, in random order, and arrive in random places."""
    orders = torch.stack([_drawn(num_tokens, draw) for _ in range(num_tokens)])  # block of token n that token m gets
    received = (torch.arange(num_tokens, device="cpu").unsqueeze(1) * num_tokens + orders).T
    return torch.cat([blocks[_drawn(num_tokens, draw)] for blocks in received])


def _drawn(size: int, draw: torch.Generator) -> Tensor:
    return torch.randperm(size, generator=draw, device="cpu")


def _here(tensor: Tensor) -> Tensor:
    """A tensor drawn on the CPU, the same on every device, where modules are being built."""
    return tensor.to(torch.empty(0).device)
