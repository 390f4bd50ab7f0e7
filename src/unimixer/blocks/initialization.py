"""Initialize weights scaled by a named factor, above all down matrices with a small one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unimixer.errors import UnimixerError, check_choice, check_positive

SMALL_DOWN = (1.0, 1.0, 0.01)
"""Factors of up, gate and down: the best of TokenMixer-Large (arXiv:2602.06563)."""


def small_init_(weight: Tensor, scale: float, *, scale_on: str = "std", distribution: str = "uniform") -> Tensor:
    r"""Fill a weight in place, each ``(in, out)`` slice of it by Xavier's rule times a factor.

    .. math:: \mathrm{std} = s \sqrt{2 / (in + out)} \quad\text{or}\quad \mathrm{var} = s \cdot 2 / (in + out)

    TokenMixer-Large (arXiv:2602.06563), "small initialisation". Its text scales Xavier's uniform start and its appendix
    writes a normal one whose variance has the factor, so both are options. On the variance, 0.01 is a tenth of the std.

    Args:
        weight: ``(..., in, out)``, or a view of a part of one.
        scale: the factor s.
        scale_on: whether s multiplies the ``"std"`` or the variance, ``"var"``.
        distribution: ``"uniform"`` or ``"normal"``.

    Example:
        >>> bool(small_init_(torch.empty(4, 6, 18), 0.01).abs().max() <= 0.01 * (6 / (6 + 18)) ** 0.5)
        True
    """
    check_positive(scale=scale)
    check_choice("scale_on", scale_on, ("std", "var"))
    check_choice("distribution", distribution, ("uniform", "normal"))
    std = (scale if scale_on == "std" else scale**0.5) * (2 / sum(weight.shape[-2:])) ** 0.5
    with torch.no_grad():
        return weight.normal_(0.0, std) if distribution == "normal" else weight.uniform_(-(3**0.5) * std, 3**0.5 * std)


@torch.no_grad()
def small_ffn_init_(
    first: Tensor,
    down: Tensor,
    scales: Sequence[float] = SMALL_DOWN,
    *,
    widths: Sequence[int] | None = None,
    scale_on: str = "std",
    distribution: str = "uniform",
) -> None:
    """Start both layers of a per-token FFN, gated or not, or of experts that lie side by side in one.

    Args:
        first: ``(T, D, units)``, or up and gate as ``(T, D, 2 * units)`` with up first.
        down: ``(T, units, D)``.
        scales: factors of up, gate and down; that of the gate is not used where there is none.
        widths: units of each expert, which starts by its own sizes; None for one layer.
        scale_on: see :func:`small_init_`.
        distribution: see :func:`small_init_`.

    Example:
        >>> first, down = torch.empty(4, 6, 24), torch.empty(4, 12, 6)
        >>> small_ffn_init_(first, down, (1.0, 1.0, 0.01))
        >>> bool(down.std() < 0.02 * first.std())
        True
    """
    if len(scales) != 3:
        raise UnimixerError(f"init_scales={tuple(scales)} must be three factors, of up, gate and down")
    up_scale, gate_scale, down_scale = scales
    units = list(widths or [down.shape[-2]])
    parts = torch.chunk(first, first.shape[-1] // down.shape[-2], dim=-1)
    for part, scale in zip(parts, (up_scale, gate_scale)[: len(parts)], strict=True):
        for piece in torch.functional.split(part, units, dim=-1):
            small_init_(piece, scale, scale_on=scale_on, distribution=distribution)
    for piece in torch.functional.split(down, units, dim=-2):
        small_init_(piece, down_scale, scale_on=scale_on, distribution=distribution)
