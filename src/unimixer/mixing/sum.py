"""The sum of two mixings: one that is there from the start, and one that a learned number lets in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.mixing.base import Mixing


class Sum(Mixing):
    r"""Two mixings of the same tokens, added.

    .. math:: y = W_1(x)\, x + \gamma\, W_2(x)\, x

    Its matrix is the sum of their matrices, so a sum of patterns has the one form of all mixings. The learned number
    :math:`\gamma` starts small: at first the sum is nearly the first mixing alone, and the second has a gradient.

    Source: ours, for sums of two patterns of arXiv:2604.00590.

    Args:
        first: a mixing that keeps the length.
        second: another one.
        scale: where :math:`\gamma` starts.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x

    Example:
        >>> from unimixer.mixing import TokenMixing
        >>> rule = TokenMixing(num_tokens=2, token_dim=2)
        >>> Sum(rule, rule, scale=1.0)(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).detach()
        tensor([[2., 6., 4., 8.]])
    """

    def __init__(self, first: Mixing, second: Mixing, scale: float = 0.1) -> None:
        if first.length != second.length:
            raise UnimixerError(
                f"the mixings of a sum have lengths {first.length} and {second.length}; make them equal"
            )
        super().__init__(first.length)
        self.first, self.second = first, second
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    @property
    def local_pattern(self) -> str:
        """Both patterns inside a block, in words."""
        return f"{self.first.local_pattern} + {self.second.local_pattern}"

    @property
    def global_pattern(self) -> str:
        """Both patterns between blocks, in words."""
        return f"{self.first.global_pattern} + {self.second.global_pattern}"

    def mix(self, x_BL: Tensor) -> Tensor:
        """Add both."""
        second = self.second.mix(x_BL)
        return self.first.mix(x_BL) + self.scale.to(second.dtype) * second

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The sum of both matrices, ``(L, L)``, or ``(B, L, L)`` where one of them depends on x."""
        second = self.second.mixing_matrix(x)
        return self.first.mixing_matrix(x).to(second) + self.scale.detach() * second
