"""Mixing and reverting: tokens change their layout for one layer and come back to their own slots."""

from __future__ import annotations

from torch import Tensor, nn

from unimixer.blocks.norms import build_norm, norm_of_layer, norm_of_sum
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.mixing import TokenMixing

READINGS = {"outer": "pre", "inner": "post"}
"""Both readings of the block, and where each has its norms."""


class MixRevert(nn.Module):
    r"""A layer on mixed tokens, back to the original layout, and a layer on tokens.

    TokenMixer-Large (arXiv:2602.06563), "mixing and reverting". ``Mix`` moves T tokens of width D to H tokens of width
    TD / H, and ``Revert`` is its inverse, the same operation only where H = T. The paper shows two blocks:

    - ``residual="outer"``, its figure and text: both additions happen in the original layout,

      .. math:: Y = X + \mathrm{Revert}(p_1(\mathrm{Mix}(N(X)))), \qquad X' = Y + p_2(N(Y))

    - ``residual="inner"``, its equations: the first addition happens in the mixed layout, the second one starts from
      the input of the block,

      .. math:: H = \mathrm{Mix}(X), \quad H' = N(H + p_1(H)), \qquad X' = N(X + p_2(\mathrm{Revert}(H')))

    In both the path from X to X' around the layers keeps every token in its slot. ``norm_placement`` moves the norms:
    ``"pre"`` to the input of each layer, ``"post"`` to each sum.

    Args:
        num_tokens: T.
        token_dim: D.
        num_heads: H, a divisor of D; T is usual.
        ffns: :math:`p_1`, a layer on ``(B, H, T * D / H)``, and :math:`p_2`, a layer on ``(B, T, D)``.
        norm: ``"rms"`` or ``"layer"``.
        residual: ``"outer"`` or ``"inner"``.
        norm_placement: ``"pre"`` or ``"post"`` (default: as above, pre for the outer and post for the inner residual).

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``

    Example:
        >>> import torch
        >>> from unimixer.blocks import PerTokenSwiGLU
        >>> first, second = PerTokenSwiGLU(2, 12, 24, bias=False), PerTokenSwiGLU(4, 6, 12, bias=False)
        >>> MixRevert(4, 6, 2, (first, second))(torch.zeros(3, 4, 6)).shape
        torch.Size([3, 4, 6])
    """

    def __init__(
        self,
        num_tokens: int,
        token_dim: int,
        num_heads: int,
        ffns: tuple[nn.Module, nn.Module],
        *,
        norm: str = "rms",
        residual: str = "outer",
        norm_placement: str | None = None,
    ) -> None:
        super().__init__()
        check_heads(num_heads, token_dim)
        self.residual, self.norm_placement = residual, placement(residual, norm_placement)
        self.mixing = TokenMixing(num_tokens, token_dim, num_heads)
        self.reverting = self.mixing.inverse()
        self.mixed_ffn, self.token_ffn = ffns
        self.mixed_norm = build_norm(norm, token_dim if residual == "outer" else num_tokens * token_dim // num_heads)
        self.token_norm = build_norm(norm, token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix, transform, revert, transform."""
        return self._outer(tokens) if self.residual == "outer" else self._inner(tokens)

    def _outer(self, x: Tensor) -> Tensor:
        if self.norm_placement == "pre":
            y = x + self.reverting(self.mixed_ffn(self.mixing(self.mixed_norm(x))))
            pre: Tensor = y + self.token_ffn(self.token_norm(y))
            return pre
        y = norm_of_sum(self.mixed_norm, x, self.reverting(self.mixed_ffn(self.mixing(x))))
        post: Tensor = norm_of_layer(self.token_norm, y, self.token_ffn)
        return post

    def _inner(self, x: Tensor) -> Tensor:
        mixed = self.mixing(x)
        if self.norm_placement == "pre":
            mixed = mixed + self.mixed_ffn(self.mixed_norm(mixed))
            pre: Tensor = x + self.token_ffn(self.token_norm(self.reverting(mixed)))
            return pre
        mixed = norm_of_layer(self.mixed_norm, mixed, self.mixed_ffn)
        post: Tensor = norm_of_sum(self.token_norm, x, self.token_ffn(self.reverting(mixed)))
        return post

    def extra_repr(self) -> str:
        """Settings, for ``print``."""
        return f"residual={self.residual!r}, norm_placement={self.norm_placement!r}"


def placement(residual: str, norm_placement: str | None = None) -> str:
    """Return the placement of the norms; each reading has its default.

    Example:
        >>> placement("outer"), placement("inner"), placement("inner", "pre")
        ('pre', 'post', 'pre')
    """
    check_choice("residual", residual, tuple(READINGS))
    chosen = READINGS[residual] if norm_placement is None else norm_placement
    check_choice("norm_placement", chosen, ("pre", "post"))
    return chosen


def check_heads(num_heads: int, token_dim: int) -> None:
    """Raise unless H divides D, with the nearest H that does and the nearest D."""
    check_positive(num_heads=num_heads, token_dim=token_dim)
    if token_dim % num_heads:
        nearest = sorted({largest_heads(num_heads, token_dim), _next_heads(num_heads, token_dim)})
        widths = [
            width for width in (token_dim // num_heads * num_heads, -(-token_dim // num_heads) * num_heads) if width
        ]
        raise UnimixerError(
            f"num_heads={num_heads} must divide token_dim={token_dim}; the nearest valid num_heads is "
            f"{' or '.join(map(str, nearest))}, the nearest valid token_dim {' or '.join(map(str, widths))}"
        )


def largest_heads(num_heads: int, token_dim: int) -> int:
    """Return the largest divisor of ``token_dim`` that is at most ``num_heads``.

    Example:
        >>> largest_heads(20, 64), largest_heads(16, 64)
        (16, 16)
    """
    return next(heads for heads in range(min(num_heads, token_dim), 0, -1) if token_dim % heads == 0)


def _next_heads(num_heads: int, token_dim: int) -> int:
    return next((heads for heads in range(num_heads, token_dim) if token_dim % heads == 0), token_dim)
