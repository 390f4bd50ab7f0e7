"""Learned linear maps of all tokens without constraints: compression to M rows, one full matrix, a convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.errors import UnimixerError, check_positive, check_shape
from unimixer.mixing.base import Mixing
from unimixer.mixing.global_patterns import FullGlobal, Global
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.unified import Unified


class RectangularGlobal(Global):
    r"""A learned matrix without constraints that gives another number of blocks, ``(M, N)``.

    .. math:: y_m = \sum_{n=1}^{N} W_{mn} h_n, \qquad m = 1, \dots, M

    Wukong (arXiv:2403.02545), "linear compression block".

    Args:
        num_blocks: N.
        num_outputs: M.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, M, c)``

    Example:
        >>> values = torch.zeros(2, 4, 3)
        >>> RectangularGlobal(4, 2)(values, values).shape
        torch.Size([2, 2, 3])
    """

    pattern = "learned, unconstrained, rectangular"

    def __init__(self, num_blocks: int, num_outputs: int) -> None:
        super().__init__()
        check_positive(num_blocks=num_blocks, num_outputs=num_outputs)
        bound = num_blocks**-0.5
        self.weight = nn.Parameter(torch.empty(num_outputs, num_blocks).uniform_(-bound, bound))

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The matrix."""
        return self.weight.unsqueeze(0)


class Compression(Unified):
    r"""Linear combinations of the tokens, :math:`W_L X`, without bias or nonlinearity.

    Wukong (arXiv:2403.02545), "linear compression block", and the linear shortcut of stacks whose number of rows
    changes. In the unified form: the identity inside blocks, a rectangular matrix between them.

    Args:
        num_tokens: N.
        token_dim: b.
        num_outputs: M.

    Shape:
        - x: ``(B, N, b)`` or ``(B, N b)``; output: ``(B, M, b)`` or ``(B, M b)``

    Example:
        >>> Compression(num_tokens=4, token_dim=6, num_outputs=3)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 3, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_outputs: int) -> None:
        super().__init__(IdentityLocal(num_tokens, token_dim), RectangularGlobal(num_tokens, num_outputs))
        self.out_blocks = num_outputs

    def forward(self, x: Tensor) -> Tensor:
        """Combine tokens; given as tokens, by one product."""
        if x.dim() == 2:
            return super().forward(x)
        check_shape("tokens", x, (None, self.num_blocks_mixed, self.block_size))
        weight: Tensor = self.global_.weight  # type: ignore[assignment]
        return weight.to(x.dtype) @ x


class FullMixing(Unified):
    r"""Every number of the output is a learned combination of all numbers of the input: :math:`W\, \mathrm{vec}(X)`.

    RankElastor (arXiv:2605.23191), "full mixing": blocks of width 1 leave nothing to a local pattern, so the global one
    is the whole matrix, of :math:`L^2` parameters with L = T D.

    Args:
        length: L.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x

    Example:
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


class Convolution(Mixing):
    r"""One kernel slides over the T x D matrix of tokens as over a picture: neighbouring tokens and columns meet.

    DHEN (arXiv:2203.11014), "convolution". What it sees depends on the order of tokens and of columns.
    Zeros stand outside the matrix; no bias (ours: a mixing is linear).

    .. math:: y_{td} = \sum_{i,j=-h}^{h} K_{ij}\, x_{t+i,\, d+j}, \qquad h = (k - 1) / 2

    with k the ``kernel_size``.

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
