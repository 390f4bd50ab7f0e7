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

    Shape:
        - blocks: the embedding X, ``(B, N, b)``; values: h, ``(B, N, c)``; output: ``(B, M, c)``
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
    """A fixed order of the blocks, out block i = block ``permutation[i]``: the global pattern of TokenMixer."""

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
    """Leave every block as it is: no block reads another."""

    pattern = "identity"

    def __init__(self, num_blocks: int) -> None:
        super().__init__(torch.arange(num_blocks))

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Return the values."""
        return values


class FullGlobal(Global):
    """A learned matrix without constraints; with blocks of width 1 it maps the whole embedding linearly."""

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
    r"""Inner products of the blocks, :math:`X X^T`: the global pattern of factorization machines."""

    pattern = "Gram matrix X X^T"
    depends_on_input = True

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """Inner products of all pairs of blocks."""
        blocks = required_blocks(blocks, self)
        return (blocks @ blocks.mT).unsqueeze(1)


class CallableGlobal(Global):
    """Any function of the blocks: ``function(blocks (B, N, b)) -> (M, N), (B, M, N) or (B, H, M, N)``."""

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
