"""A convolution over the matrix of tokens as a mixing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_positive
from unimixer.mixing.base import Mixing


class Convolution(Mixing):
    r"""One kernel slides over the T x D matrix of tokens as over a picture: neighbouring tokens and columns meet.

    DHEN (arXiv:2203.11014), "convolution". What it sees depends on the order of tokens and of columns.
    Zeros stand outside the matrix; no bias (ours: a mixing is linear).

    Args:
        num_tokens: T.
        token_dim: D.
        kernel_size: an odd number, the same along both axes.

    Shape:
        - x: ``(B, T, D)`` or ``(B, T * D)``; output: the shape of x

    Example:
        >>> Convolution(num_tokens=4, token_dim=6)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, kernel_size: int = 5) -> None:
        check_positive(num_tokens=num_tokens, token_dim=token_dim, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise UnimixerError(
                f"kernel_size={kernel_size} must be odd, or the convolution would change the number of tokens; "
                f"the nearest valid kernel_size is {kernel_size - 1} or {kernel_size + 1}"
            )
        super().__init__(num_tokens * token_dim)
        self.num_tokens, self.token_dim, self.kernel_size = num_tokens, token_dim, kernel_size
        self.weight = nn.Parameter(torch.empty(1, 1, kernel_size, kernel_size))
        nn.init.uniform_(self.weight, -1 / kernel_size, 1 / kernel_size)  # fan-in is kernel_size squared

    @property
    def local_pattern(self) -> str:
        """What happens inside a token, in words."""
        return "convolution over neighbouring columns"

    @property
    def global_pattern(self) -> str:
        """What happens between tokens, in words."""
        return "convolution over neighbouring tokens"

    def mix(self, x_BL: Tensor) -> Tensor:
        """Convolve flattened tokens."""
        picture = x_BL.reshape(-1, 1, self.num_tokens, self.token_dim)
        return F.conv2d(picture, self.weight.to(x_BL.dtype), padding=self.kernel_size // 2).flatten(1)
