"""What every mixing is: a map of flattened tokens that can give its equivalent matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError


class Mixing(nn.Module):
    r"""Base of all mixings of an embedding of length L = T * D.

    The convention, everywhere: ``mixing(x).flatten(1) == x.flatten(1) @ mixing.mixing_matrix(x).mT`` row by row.

    A subclass implements :meth:`mix` on ``(B, L)`` and names its two patterns. One whose pattern does not depend on its
    input may leave :meth:`mixing_matrix` as it is, but a matrix from the formula is the better test.

    .. math:: \mathrm{vec}(y) = W(x)\, \mathrm{vec}(x)

    arXiv:2604.00590, "unified form".

    Args:
        length: L.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``
        - output: the shape of x; where the length changes, ``(B, L')``, or ``(B, M, L' / M)`` for M output blocks

    Example:
        >>> from unimixer.mixing import TokenMixing
        >>> mixing, x = TokenMixing(num_tokens=2, token_dim=2), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> torch.equal(mixing(x), x @ mixing.mixing_matrix(x).mT)
        True
    """

    out_blocks: int = 1
    """Rows of the output where its length is not that of the input."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    @property
    def local_pattern(self) -> str:
        """What happens inside a block, in words."""
        raise NotImplementedError

    @property
    def global_pattern(self) -> str:
        """What happens between blocks, in words."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, flattened or not."""
        flat = x.flatten(1)
        if flat.shape[-1] != self.length:
            raise UnimixerError(
                f"{type(self).__name__} was built for length={self.length}, got x of shape {tuple(x.shape)}, "
                f"which has length {flat.shape[-1]}; num_tokens * token_dim must equal the length"
            )
        mixed = self.mix(flat)
        if x.dim() == 2:
            return mixed
        return mixed.view(x.shape) if mixed.shape[-1] == self.length else mixed.view(x.shape[0], self.out_blocks, -1)

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens ``(B, L)``."""
        raise NotImplementedError

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The equivalent matrix ``(L', L)``, or ``(B, L', L)`` where it depends on x; for tests and pictures only."""
        parameter = next(self.parameters(), torch.empty(0))
        with torch.no_grad():
            return self.forward(torch.eye(self.length, dtype=parameter.dtype, device=parameter.device)).T
