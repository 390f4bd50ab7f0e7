"""Factorization machines as a mixing."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.mixing.global_patterns import GramMatrix
from unimixer.mixing.local_patterns import ConstantValues
from unimixer.mixing.unified import Unified


class FactorizationMixing(Unified):
    r"""Inner products of all pairs of tokens, projected: :math:`X X^T Y`, computed as :math:`X (X^T Y)`.

    Wukong (arXiv:2403.02545), "optimised FM", cost O(N b k) instead of O(N^2 b). In the unified form the Gram matrix
    weighs values Y that do not come from X. Read from the other side it is the identity between blocks and one local
    matrix for all blocks that does come from X, :math:`X^T Y`; this is the matrix that :meth:`mixing_matrix` gives,
    since the first reading has no matrix that multiplies X.

    Args:
        num_tokens: N.
        token_dim: b.
        num_projections: k.

    Shape:
        - x: ``(B, N, b)`` or ``(B, N b)``; output: ``(B, N, k)`` or ``(B, N k)``

    Example:
        >>> FactorizationMixing(num_tokens=4, token_dim=6, num_projections=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_projections: int) -> None:
        super().__init__(ConstantValues(num_tokens, token_dim, num_projections), GramMatrix())

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens, the cheap product first."""
        blocks = self.blocks(x_BL)
        return (blocks @ self.inner(blocks)).flatten(1)

    def inner(self, blocks: Tensor) -> Tensor:
        r"""The local matrix of the other reading, :math:`X^T Y`: ``(B, b, k)``."""
        values: Tensor = self.local.values  # type: ignore[assignment]
        return blocks.mT @ values.to(blocks.dtype)

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        r"""The identity between blocks times :math:`(X^T Y)^T`, ``(B, N k, N b)``."""
        if x is None:
            self.global_.weights(None)  # raises: it depends on the embedding
        assert x is not None
        with torch.no_grad():
            inner = self.inner(self.blocks(x))
            eye = torch.eye(self.num_blocks_mixed, dtype=inner.dtype, device=inner.device)
            return torch.einsum("mn,bij->bmjni", eye, inner).flatten(3).flatten(1, 2)
