r"""A mixing, the residual around it and the norm behind it, :math:`N(x + \mathrm{Mix}(x))`, as one operation.

Apart, they read and write the tokens three times forward and five times backward. With the C kernels a strip of samples
goes through all of it while it is in cache, and backward mixes again instead of keeping what was mixed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from unimixer.ops import native
from unimixer.ops.layout import by_reference, rows
from unimixer.ops.norm import Norm, fits, norm_of_sum
from unimixer.ops.norm import fused as fused_norm
from unimixer.ops.token_mixing import token_mixing
from unimixer.ops.unimixing import head_unimixing


def mixed_norm(x_BTD: Tensor, heads_HTT: Tensor | None, norm: Norm) -> Tensor:
    r"""Normalize tokens plus their mixing: by a matrix between tokens for every head, or by the rule of TokenMixer.

    .. math:: y = N(x + \mathrm{Mix}(x)), \qquad \mathrm{Mix}(x)^h = W_h\, x^h

    Without matrices token t of the mixing gathers head t of every token, with as many heads as tokens.

    Shape:
        - x_BTD: ``(B, T, D)``; heads_HTT: ``(H, T, T)`` or None; output: ``(B, T, D)``

    Example:
        >>> norm = Norm(torch.ones(2), None, 0.0, False)
        >>> mixed_norm(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]), None, norm)
        tensor([[[1.1767, 0.7845],
                [1.4142, 0.0000]]])
    """
    if fits(x_BTD, None, norm.weight) and (_takes(x_BTD, heads_HTT, norm) or _follows(x_BTD)):
        output: Tensor = _MixedNorm.apply(x_BTD, heads_HTT, *norm)  # type: ignore[no-untyped-call]
        return output
    return norm_of_sum(x_BTD, _mixed(x_BTD, heads_HTT), norm)


def _takes(x_BTD: Tensor, heads_HTT: Tensor | None, norm: Norm) -> bool:
    return native.fits(rows(x_BTD), heads_HTT, norm.weight, norm.bias)


def _follows(x: Tensor) -> bool:
    """Whether x has a shape without numbers, from which an estimate of memory finds what the kernels would keep."""
    return isinstance(x, FakeTensor) and x.dtype == torch.float32 and native.library() is not None


def _mixed(x_BTD: Tensor, heads_HTT: Tensor | None) -> Tensor:
    if heads_HTT is None:
        return token_mixing(x_BTD, x_BTD.shape[1])
    return head_unimixing(x_BTD.flatten(1), heads_HTT).view(x_BTD.shape)


def _reference(
    x: Tensor, heads: Tensor | None, weight: Tensor, bias: Tensor | None, *, eps: float, centred: bool
) -> Tensor:
    return fused_norm.reference(x, _mixed(x, heads), weight, bias, eps=eps, centred=centred)


class _MixedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
    ) -> Tensor:
        if _follows(x):
            output, mean, scale = fused_norm.forward(x, _mixed(x, heads), weight, bias, eps, centred)
        else:
            out, mean, scale = native.mixed_norm(rows(x), heads, weight, bias, eps, centred)
            output = out.permute(2, 0, 1)
        ctx.save_for_backward(x, heads, weight, bias, mean, scale)
        ctx.reference = partial(_reference, eps=eps, centred=centred)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, heads, weight, bias, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled() or _follows(x):
            return *by_reference(ctx.reference, (x, heads, weight, bias), grad), None, None
        gradients = native.mixed_norm_backward(rows(grad), rows(x), heads, weight, mean, scale)
        to_x, to_heads, to_weight, to_bias = gradients
        return to_x.permute(2, 0, 1), to_heads, to_weight, None if bias is None else to_bias, None, None
