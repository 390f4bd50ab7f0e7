"""Patterns inside blocks: what happens to a block of the embedding before blocks meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_positive


class Local(nn.Module):
    r"""Base of local patterns: block n becomes :math:`x_n W_B^n`, a row times a matrix of its own.

    A subclass sets ``num_blocks`` N, ``in_dim`` b, ``out_dim`` c and ``pattern``, and gives :meth:`matrices`.

    arXiv:2604.00590, "unified form".

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> local = SharedLinear(num_blocks=4, in_dim=6, out_dim=3)
        >>> local(torch.zeros(2, 4, 6)).shape, local.matrix().shape
        (torch.Size([2, 4, 3]), torch.Size([4, 3, 24]))
    """

    num_blocks: int
    in_dim: int
    out_dim: int
    pattern: str
    """The pattern in words, for tables."""

    @property
    def out_blocks(self) -> int:
        """Blocks of the output: N, unless the pattern says otherwise."""
        return self.num_blocks

    def matrices(self) -> Tensor:
        """One matrix a block, ``(N, b, c)``, or ``(1, b, c)`` where all blocks share it."""
        raise NotImplementedError

    def forward(self, blocks: Tensor) -> Tensor:
        """Transform every block."""
        matrices = self.matrices().to(blocks.dtype)
        return ops.per_token_linear(blocks, matrices.expand(self.num_blocks, self.in_dim, self.out_dim))

    def matrix(self) -> Tensor:
        """The map of the whole embedding that this is, ``(N, c, N * b)``: block-diagonal."""
        return ops.block_diagonal(self.matrices().expand(self.num_blocks, self.in_dim, self.out_dim))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"num_blocks={self.num_blocks}, in_dim={self.in_dim}, out_dim={self.out_dim}"


class IdentityLocal(Local):
    """Blocks as they are: the local pattern of TokenMixer.

    .. math:: y_n = x_n

    RankMixer (arXiv:2507.15551), "token mixing".

    Args:
        num_blocks: N.
        block_size: b.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, b)``

    Example:
        >>> blocks = torch.tensor([[[1.0], [2.0]]])
        >>> torch.equal(IdentityLocal(2, 1)(blocks), blocks)
        True
    """

    pattern = "identity"

    def __init__(self, num_blocks: int, block_size: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, block_size=block_size)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, block_size, block_size

    def matrices(self) -> Tensor:
        """The identity."""
        return torch.eye(self.in_dim).unsqueeze(0)

    def forward(self, blocks: Tensor) -> Tensor:
        """Return the blocks."""
        return blocks


class SharedLinear(Local):
    r"""One matrix for all blocks, :math:`x_n W`: the values, queries and keys of self-attention.

    Transformer (arXiv:1706.03762), "attention".

    Args:
        num_blocks: N.
        in_dim: b.
        out_dim: c.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> SharedLinear(4, 6, 3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    pattern = "linear, shared"

    def __init__(self, num_blocks: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, in_dim, out_dim
        self.weight = nn.Parameter(torch.empty(in_dim, out_dim).uniform_(-(in_dim**-0.5), in_dim**-0.5))

    def matrices(self) -> Tensor:
        """The matrix."""
        return self.weight.unsqueeze(0)

    def forward(self, blocks: Tensor) -> Tensor:
        """One product for all blocks."""
        return blocks @ self.weight


class BlockLinear(Local):
    r"""A matrix for every block, :math:`x_n W^n`: the projections of heterogeneous attention.

    HiFormer (arXiv:2311.05884), "heterogeneous self-attention".

    Args:
        num_blocks: N.
        in_dim: b.
        out_dim: c.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> BlockLinear(4, 6, 3).matrices().shape
        torch.Size([4, 6, 3])
    """

    pattern = "linear, own for every block"

    def __init__(self, num_blocks: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, in_dim, out_dim
        # every slice by its own fan-in: initialisers read a wrong one off a stacked tensor
        self.weight = nn.Parameter(torch.empty(num_blocks, in_dim, out_dim).uniform_(-(in_dim**-0.5), in_dim**-0.5))

    def matrices(self) -> Tensor:
        """The matrices."""
        return self.weight


class CompositeLinear(Local):
    r"""All blocks are projected together: :math:`[q_1 \dots q_M] = \mathrm{vec}(X) W`, in low rank :math:`W = L R`.

    HiFormer (arXiv:2311.05884), "composite projection". Not local: every output block already depends on all blocks,
    so :meth:`matrices` does not exist and :meth:`matrix` is full.

    Args:
        num_blocks: N.
        in_dim: b.
        out_dim: c.
        rank: None for a full matrix of ``N b * M c`` numbers, else ``rank * (N b + M c)``.
        out_blocks: M (default: N); fewer are the queries of some tokens alone.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, M, c)``

    Example:
        >>> CompositeLinear(4, 6, 3, rank=2, out_blocks=2)(torch.zeros(5, 4, 6)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(
        self, num_blocks: int, in_dim: int, out_dim: int, rank: int | None = None, *, out_blocks: int | None = None
    ) -> None:
        super().__init__()
        self._out_blocks = num_blocks if out_blocks is None else out_blocks
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim, out_blocks=self._out_blocks)
        self.num_blocks, self.in_dim, self.out_dim, self.rank = num_blocks, in_dim, out_dim, rank
        length, out_length = num_blocks * in_dim, self._out_blocks * out_dim
        self.projection: nn.Module
        if rank is None:
            self.projection = nn.Linear(length, out_length, bias=False)
        else:
            check_positive(rank=rank)
            self.projection = nn.Sequential(
                nn.Linear(length, rank, bias=False), nn.Linear(rank, out_length, bias=False)
            )
        self.pattern = f"linear of all blocks together{'' if rank is None else ', low rank'}"

    @property
    def out_blocks(self) -> int:
        """Blocks of the output, M."""
        return self._out_blocks

    def forward(self, blocks: Tensor) -> Tensor:
        """Project the whole embedding."""
        projected: Tensor = self.projection(blocks.flatten(1))
        return projected.view(-1, self.out_blocks, self.out_dim)

    def matrix(self) -> Tensor:
        """The map of the whole embedding, ``(M, c, N * b)``."""
        layers = self.projection if isinstance(self.projection, nn.Sequential) else [self.projection]
        product = torch.linalg.multi_dot([layer.weight for layer in reversed(list(layers))]) if self.rank else None
        full: Tensor = self.projection.weight if product is None else product  # type: ignore[assignment]
        return full.view(self.out_blocks, self.out_dim, -1)


class ConstantValues(Local):
    r"""Values that do not come from the embedding at all, :math:`Y`: the local pattern of factorization machines.

    Wukong (arXiv:2403.02545), "optimised FM": :math:`X X^T Y`.

    Args:
        num_blocks: N.
        in_dim: b, which the values do not depend on.
        out_dim: c.

    Shape:
        - values: ``(N, c)``; blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> ConstantValues(4, 6, 3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    pattern = "a learned projection that does not come from X"

    def __init__(self, num_blocks: int, in_dim: int, out_dim: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim)
        self.num_blocks, self.in_dim, self.out_dim = num_blocks, in_dim, out_dim
        self.values = nn.Parameter(torch.empty(num_blocks, out_dim).uniform_(-(num_blocks**-0.5), num_blocks**-0.5))

    def forward(self, blocks: Tensor) -> Tensor:
        """The values, whatever the blocks."""
        return self.values.expand(blocks.shape[0], -1, -1)
