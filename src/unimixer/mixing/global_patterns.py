"""Patterns between blocks: the weights by which the blocks of the embedding are summed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import UnimixerError


class Global(nn.Module):
    r"""Base of global patterns: out block m is :math:`\sum_n G_{mn}(X)\, h_n`, with h the locally mixed blocks.

    A subclass sets ``pattern`` and gives :meth:`weights`. With several heads, head h weighs the h-th of H equal slices
    of the values.

    arXiv:2604.00590, "unified form".

    Shape:
        - blocks: the embedding X, ``(B, N, b)``; values: h, ``(B, N, c)``; output: ``(B, M, c)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> GramMatrix()(values, values).flatten().tolist()  # [[1, 2], [2, 4]] times the values
        [5.0, 10.0]
    """

    pattern: str
    """The pattern in words, for tables."""
    num_heads: int = 1
    depends_on_input: bool = False
    learned: bool = False
    """Whether the parameters are matrices between blocks, which a recipe may give a learning rate of their own."""

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The weights ``(H, M, N)``, or ``(B, H, M, N)`` where they depend on the embedding."""
        raise NotImplementedError

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Sum values by the weights."""
        return ops.apply_weights(self.weights(blocks).to(values.dtype), values)


class Permutation(Global):
    r"""A fixed order of the blocks, out block i = block ``permutation[i]``: the global pattern of TokenMixer.

    .. math:: y_i = h_{\pi(i)}

    RankMixer (arXiv:2507.15551), "token mixing".

    Args:
        permutation: :math:`\pi`, ``(N,)``.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> Permutation(torch.tensor([2, 0, 1]))(values, values).flatten().tolist()
        [3.0, 1.0, 2.0]
    """

    pattern = "fixed permutation"
    permutation: Tensor

    def __init__(self, permutation: Tensor) -> None:
        super().__init__()
        ordered = torch.arange(permutation.numel(), device=permutation.device)
        if not permutation.is_meta and not torch.equal(permutation.sort().values, ordered):
            raise UnimixerError(
                f"permutation of {permutation.numel()} blocks must hold every number from 0 to "
                f"{permutation.numel() - 1} once; torch.randperm makes one"
            )
        self.register_buffer("permutation", permutation.clone(), persistent=False)

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The permutation matrix."""
        return ops.permutation_matrix(self.permutation).unsqueeze(0)

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Move blocks, without a product."""
        return values[:, self.permutation]


class IdentityGlobal(Permutation):
    """Leave every block as it is: no block reads another.

    .. math:: y_n = h_n

    arXiv:2604.00590, "unified form": the pattern of a per-token layer.

    Args:
        num_blocks: N.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> torch.equal(IdentityGlobal(2)(values, values), values)
        True
    """

    pattern = "identity"

    def __init__(self, num_blocks: int) -> None:
        super().__init__(torch.arange(num_blocks))

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Return the values."""
        return values


class FullGlobal(Global):
    r"""A learned matrix without constraints; with blocks of width 1 it maps the whole embedding linearly.

    .. math:: y_m = \sum_n W_{mn} h_n

    RankElastor (arXiv:2605.23191) has it with blocks of width 1.

    Args:
        num_blocks: N.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> values = torch.zeros(2, 4, 3)
        >>> FullGlobal(4)(values, values).shape
        torch.Size([2, 4, 3])
    """

    pattern = "learned, unconstrained"
    learned = True

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        bound = num_blocks**-0.5
        self.weight = nn.Parameter(torch.empty(num_blocks, num_blocks).uniform_(-bound, bound))

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The matrix."""
        return self.weight.unsqueeze(0)


class GramMatrix(Global):
    r"""Inner products of the blocks, :math:`X X^T`: the global pattern of factorization machines.

    Wukong (arXiv:2403.02545), "factorization machine block".

    Shape:
        - blocks: X, ``(B, N, b)``; values: ``(B, N, c)``; output: ``(B, N, c)``

    Example:
        >>> GramMatrix().weights(torch.tensor([[[1.0], [2.0]]])).tolist()
        [[[[1.0, 2.0], [2.0, 4.0]]]]
    """

    pattern = "Gram matrix X X^T"
    depends_on_input = True

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """Inner products of all pairs of blocks."""
        blocks = required_blocks(blocks, self)
        return (blocks @ blocks.mT).unsqueeze(1)


class CallableGlobal(Global):
    r"""Any function of the blocks: ``function(blocks (B, N, b)) -> (M, N), (B, M, N) or (B, H, M, N)``.

    .. math:: y_m = \sum_n f(X)_{mn} h_n

    arXiv:2604.00590, "unified form", for patterns of your own.

    Args:
        function: f.
        num_heads: H, where the function gives a matrix a head.
        pattern: the pattern in words.

    Shape:
        - blocks: X, ``(B, N, b)``; values: h, ``(B, N, c)``; output: ``(B, M, c)``

    Example:
        >>> mean = CallableGlobal(lambda blocks: torch.full((1, blocks.shape[1]), 1 / blocks.shape[1]))
        >>> values = torch.tensor([[[1.0], [3.0]]])
        >>> mean(values, values).tolist()
        [[[2.0]]]
    """

    depends_on_input = True

    def __init__(self, function: Callable[[Tensor], Tensor], *, num_heads: int = 1, pattern: str = "callable") -> None:
        super().__init__()
        self.function, self.num_heads, self.pattern = function, num_heads, pattern

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The result of the function, with an axis of heads."""
        weights = self.function(required_blocks(blocks, self))
        return weights if weights.dim() == 4 else weights.unsqueeze(-3)


def required_blocks(blocks: Tensor | None, pattern: Global) -> Tensor:
    """Return the blocks, or raise for a pattern whose weights depend on them."""
    if blocks is None:
        raise UnimixerError(
            f"the weights of {type(pattern).__name__} depend on the embedding; pass it: mixing_matrix(x)"
        )
    return blocks
