"""The cross of DCN V2: products of a vector with linear maps of itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import check_positive


class CrossLayer(nn.Module):
    r"""One cross, :math:`x_{l+1} = x_0 \odot (W x_l + b) + x_l`, with :math:`W = U V^T` in low rank.

    DCN V2 (arXiv:2008.13535), "cross layer".

    Args:
        length: L.
        rank: r of U and V, ``(L, r)``; None for a full matrix W.

    Shape:
        - x_0, x: ``(B, L)``; output: ``(B, L)``

    Example:
        >>> CrossLayer(8, rank=2)(torch.ones(3, 8), torch.ones(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(self, length: int, rank: int | None = None) -> None:
        super().__init__()
        self.linear: nn.Module
        if rank is None:
            self.linear = nn.Linear(length, length)
        else:
            check_positive(cross_rank=rank)
            self.linear = nn.Sequential(nn.Linear(length, rank, bias=False), nn.Linear(rank, length))

    def forward(self, x_0: Tensor, x: Tensor) -> Tensor:
        """Cross x with the input of the network."""
        output: Tensor = torch.addcmul(x, x_0, self.linear(x).to(x.dtype))
        return output
