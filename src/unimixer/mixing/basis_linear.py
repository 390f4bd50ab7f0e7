"""Matrices for every block, composed of a shared basis by a router: a hypernetwork."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing.fixed import ModuleT, replaced
from unimixer.mixing.local_patterns import BlockLinear, Local


class BasisLinear(Local):
    r"""A matrix for every block from shared bases, :math:`W^n = \sum_m a_{nm} B_m`.

    .. math:: a_n = \mathrm{softmax}(e_n R), \qquad y_n = x_n W^n

    FAT (arXiv:2511.12081, second version), "basis-composed hypernetwork". The matrices do not depend on the input, so
    they are composed once a forward, and :func:`materialize` composes them once for all. Silent in what we know of the
    source, and chosen here: every map has its own field embedding e, router R and bases; with ``top_k`` the softmax is
    over the largest logits alone, so that the coefficients of a block always add to one; bases start such that the
    composed matrices have the variance of ``nn.Linear`` on average.

    Args:
        num_blocks: N, one field a block.
        in_dim: b.
        out_dim: c.
        num_basis: M.
        field_dim: width k of a field's embedding.
        top_k: bases that one block uses, at least 2 (one alone would always weigh one); None for all.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> BasisLinear(num_blocks=4, in_dim=6, out_dim=3, num_basis=8, top_k=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 3])
    """

    pattern = "linear, own for every block, composed of a shared basis"

    def __init__(
        self,
        num_blocks: int,
        in_dim: int,
        out_dim: int,
        num_basis: int,
        *,
        field_dim: int = 32,
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, in_dim=in_dim, out_dim=out_dim, num_basis=num_basis, field_dim=field_dim)
        if top_k is not None and not 2 <= top_k <= num_basis:
            raise UnimixerError(f"top_k={top_k} must lie between 2 and num_basis={num_basis}; None uses all bases")
        self.num_blocks, self.in_dim, self.out_dim, self.top_k = num_blocks, in_dim, out_dim, top_k
        self.fields = nn.Parameter(torch.randn(num_blocks, field_dim))
        self.router = nn.Parameter(torch.randn(field_dim, num_basis) * field_dim**-0.5)
        self.basis = nn.Parameter(torch.empty(num_basis, in_dim, out_dim).uniform_(-(in_dim**-0.5), in_dim**-0.5))
        with torch.no_grad():
            self.basis.mul_(self.coefficients().square().sum(-1).mean().rsqrt())

    def coefficients(self) -> Tensor:
        """How much of every basis each block has, ``(N, M)``, rows that add to one."""
        logits = self.fields @ self.router
        if self.top_k is not None:
            smallest = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, float("-inf"))
        return logits.softmax(-1)

    def matrices(self) -> Tensor:
        """The composed matrices, in float32 whatever the autocast."""
        with torch.autocast(self.basis.device.type, enabled=False):
            return torch.einsum("nm,mbc->nbc", self.coefficients(), self.basis)

    @staticmethod
    def num_parameters(num_blocks: int, in_dim: float, out_dim: float, num_basis: int, field_dim: int) -> float:
        """``M b c`` for the bases, ``N k`` for the fields and ``k M`` for the router."""
        return num_basis * in_dim * out_dim + field_dim * (num_blocks + num_basis)


def materialize(module: ModuleT) -> ModuleT:
    """Copy a module, in evaluation mode, with every composed map as an ordinary one: nothing is left to compose.

    Example:
        >>> type(materialize(BasisLinear(4, 6, 3, num_basis=8))).__name__
        'BlockLinear'
    """
    return replaced(module, BasisLinear, _composed)


def _composed(pattern: nn.Module) -> nn.Module:
    assert isinstance(pattern, BasisLinear)
    plain = BlockLinear(pattern.num_blocks, pattern.in_dim, pattern.out_dim)
    plain.weight = nn.Parameter(pattern.matrices())
    return plain
