"""Full mixing: one unconstrained matrix of the whole embedding."""

from __future__ import annotations

from torch import Tensor

from unimixer.errors import check_positive
from unimixer.mixing.global_patterns import FullGlobal
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.unified import Unified


class FullMixing(Unified):
    r"""Every number of the output is a learned combination of all numbers of the input: :math:`W\, \mathrm{vec}(X)`.

    RankElastor (arXiv:2605.23191), "full mixing": blocks of width 1 leave nothing to a local pattern, so the global one
    is the whole matrix, of :math:`L^2` parameters with L = T D.

    Args:
        length: L.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x

    Example:
        >>> import torch
        >>> FullMixing(4 * 6)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, length: int) -> None:
        check_positive(length=length)
        super().__init__(IdentityLocal(length, 1), FullGlobal(length))

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens by one product, equal to the definition in :class:`Unified`."""
        weight: Tensor = self.global_.weight  # type: ignore[assignment]
        return x_BL @ weight.to(x_BL.dtype).T
