"""Factorization machines as a mixing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing.global_patterns import GramMatrix
from unimixer.mixing.local_patterns import ConstantValues, Local
from unimixer.mixing.unified import Unified


class UnitValues(Local):
    """The unit matrix as values: what the Gram matrix weighs where its inner products themselves are wanted.

    .. math:: Y = I_N

    arXiv:1906.00091, "feature interaction": the products of all pairs of features.

    Args:
        num_blocks: N.
        in_dim: b.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, N)``

    Example:
        >>> UnitValues(2, 3)(torch.zeros(1, 2, 3)).tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """

    pattern = "the unit matrix"

    def __init__(self, num_blocks: int, in_dim: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, in_dim, num_blocks

    def forward(self, blocks: Tensor) -> Tensor:
        """The unit matrix, whatever the blocks."""
        eye = torch.eye(self.num_blocks, dtype=blocks.dtype, device=blocks.device)
        return eye.expand(blocks.shape[0], -1, -1)


class AttentiveValues(Local):
    r"""Values that a network makes from all blocks together: :math:`Y(X) = \mathrm{MLP}(\mathrm{vec}(C X))`.

    Wukong (arXiv:2403.02545), "attentive FM": the projection of the inner products follows from a linearly compressed
    input. Experimental: the source states neither the rows of C nor the network; both, and the ReLU, are ours.

    Args:
        num_blocks: N.
        in_dim: b.
        out_dim: k.
        num_compressed: rows of C.
        hidden_dims: hidden widths of the network; its last layer, linear, gives N k numbers.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, k)``

    Example:
        >>> AttentiveValues(4, 6, 3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    pattern = "a projection that a network makes from X"

    def __init__(
        self, num_blocks: int, in_dim: int, out_dim: int, *, num_compressed: int = 8, hidden_dims: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim, num_compressed=num_compressed)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, in_dim, out_dim
        self.compression = nn.Parameter(torch.empty(num_compressed, num_blocks))
        nn.init.uniform_(self.compression, -(num_blocks**-0.5), num_blocks**-0.5)
        dims = [num_compressed * in_dim, *hidden_dims]
        hidden = [layer for i, o in pairwise(dims) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.network = nn.Sequential(*hidden, nn.Linear(dims[-1], num_blocks * out_dim))

    def forward(self, blocks: Tensor) -> Tensor:
        """The values of these blocks."""
        values: Tensor = self.network((self.compression.to(blocks.dtype) @ blocks).flatten(1))
        return values.view(-1, self.num_blocks, self.out_dim)


class FactorizationMixing(Unified):
    r"""Inner products of all pairs of tokens, projected: :math:`X X^T Y`, computed as :math:`X (X^T Y)`.

    Wukong (arXiv:2403.02545), "optimised FM", cost O(N b k) instead of O(N^2 b). In the unified form the Gram matrix
    weighs values Y that do not come from X. Read from the other side it is the identity between blocks and one local
    matrix for all blocks that does come from X, :math:`X^T Y`; this is the matrix that :meth:`mixing_matrix` gives,
    since the first reading has no matrix that multiplies X.

    Without projections, Y is the unit matrix and the output the N^2 inner products themselves ("full").

    Args:
        num_tokens: N.
        token_dim: b.
        num_projections: k; None for no projection, hence k = N.
        values: what gives Y, of width k (default: a learned matrix, :class:`~unimixer.mixing.ConstantValues`);
            :class:`AttentiveValues` makes it depend on X.

    Shape:
        - x: ``(B, N, b)`` or ``(B, N b)``; output: ``(B, N, k)`` or ``(B, N k)``

    Example:
        >>> FactorizationMixing(num_tokens=4, token_dim=6, num_projections=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
        >>> FactorizationMixing(num_tokens=2, token_dim=1)(torch.tensor([[[2.0], [3.0]]]))
        tensor([[[4., 6.],
                 [6., 9.]]])
    """

    def __init__(
        self, num_tokens: int, token_dim: int, num_projections: int | None = None, *, values: Local | None = None
    ) -> None:
        if values is None:
            values = (
                UnitValues(num_tokens, token_dim)
                if num_projections is None
                else ConstantValues(num_tokens, token_dim, num_projections)
            )
        expected = (num_tokens, token_dim, values.out_dim if num_projections is None else num_projections)
        if (values.num_blocks, values.in_dim, values.out_dim) != expected:
            raise UnimixerError(
                f"values were built for (num_tokens, token_dim, num_projections)="
                f"{(values.num_blocks, values.in_dim, values.out_dim)}, expected {expected}"
            )
        super().__init__(values, GramMatrix())

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens, the cheap product first."""
        blocks = self.blocks(x_BL)
        return (blocks @ self.inner(blocks)).flatten(1)

    def inner(self, blocks: Tensor) -> Tensor:
        r"""The local matrix of the other reading, :math:`X^T Y`: ``(B, b, k)``."""
        if isinstance(self.local, UnitValues):
            return blocks.mT
        values = self.local.values if isinstance(self.local, ConstantValues) else self.local(blocks)
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
