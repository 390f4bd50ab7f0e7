r"""RMS and layer normalisation of batch-last tokens, a few tokens at a time and without transposing them.

.. math:: y = w \hat x + b, \quad \hat x = r (x - m); \qquad
          \partial x = r (w g - \hat x\, \overline{w g \hat x} - \overline{w g})

with bars for means over the width; for RMS normalisation m and the last term are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unimixer.ops import native
from unimixer.ops.layout import by_reference, rows
from unimixer.ops.norm.reference import layer_norm_reference, rms_norm_reference

GROUP = 2**17
"""Numbers of a group of tokens, 512 KB in float32; a group is at least one token."""


def groups(x_TDB: Tensor) -> Iterator[slice]:
    """The tokens of every group."""
    tokens, width, batch = x_TDB.shape
    size = max(1, GROUP // (width * batch))
    return (slice(start, start + size) for start in range(0, tokens, size))


def forward(
    x_BTD: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The result, batch-last, with the mean (where ``centred``) and the reciprocal deviation ``(T, 1, B)``."""
    x_TDB, added_TDB = rows(x_BTD), None if added is None else rows(added)
    if native.fits(x_TDB, added_TDB, weight, bias):
        out_TDB, mean, scale = native.norm(x_TDB, added_TDB, weight, bias, eps, centred)
        return out_TDB.permute(2, 0, 1), mean, scale
    out_TDB = x_TDB.new_empty(x_TDB.shape)
    tokens, width, batch = x_TDB.shape
    mean, scale = x_TDB.new_empty(tokens if centred else 0, 1, batch), x_TDB.new_empty(tokens, 1, batch)
    for group in groups(x_TDB):
        x, out = _summed(x_TDB, added_TDB, group), out_TDB[group]
        if centred:
            x = torch.sub(x, torch.mean(x, 1, keepdim=True, out=mean[group]), out=out)
        squares = (x * x).sum(1, keepdim=True).div_(width).add_(eps)
        torch.rsqrt(squares, out=scale[group])
        torch.mul(x, scale[group], out=out).mul_(weight.unsqueeze(-1))
        if bias is not None:
            out.add_(bias.unsqueeze(-1))
    return out_TDB.permute(2, 0, 1), mean if centred else None, scale


def _summed(x_TDB: Tensor, added_TDB: Tensor | None, group: slice) -> Tensor:
    return x_TDB[group] if added_TDB is None else x_TDB[group] + added_TDB[group]


def backward(
    grad_BTD: Tensor, x_BTD: Tensor, added: Tensor | None, weight: Tensor, mean: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of ``x_BTD`` and ``added``, that of the weight and that of the bias."""
    grad_TDB, x_TDB, added_TDB = rows(grad_BTD), rows(x_BTD), None if added is None else rows(added)
    if native.fits(grad_TDB, x_TDB, added_TDB, weight):
        to_x, to_weight, to_bias = native.norm_backward(grad_TDB, x_TDB, added_TDB, weight, mean, scale)
        return to_x.permute(2, 0, 1), to_weight, to_bias
    to_x, to_weight = torch.empty_like(x_TDB), torch.zeros_like(weight)
    for group in groups(x_TDB):
        x, grad, out = _summed(x_TDB, added_TDB, group), grad_TDB[group], to_x[group]
        if mean is not None:
            x = x - mean[group]
        normed = torch.mul(x, scale[group])
        product = torch.mul(grad, normed, out=out)
        to_weight += product.sum((0, 2))
        along = (weight @ product).unsqueeze(1).div_(len(weight))
        torch.mul(grad, weight.unsqueeze(-1), out=out).sub_(normed.mul_(along))
        if mean is not None:
            out.sub_((weight @ grad).unsqueeze(1).div_(len(weight)))
        out.mul_(scale[group])
    return to_x.permute(2, 0, 1), to_weight, grad_TDB.sum((0, 2))


def reference(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, *, eps: float, centred: bool
) -> Tensor:
    """The definition of both norms of a sum."""
    if centred:
        return layer_norm_reference(x, weight, bias, eps, added)
    return rms_norm_reference(x, weight, eps, added)


class NormFunction(torch.autograd.Function):
    """Forward and backward of both norms."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
    ) -> Tensor:
        """Normalise the width."""
        output, mean, scale = forward(x, added, weight, bias, eps, centred)
        ctx.save_for_backward(x, added, weight, bias, mean, scale)
        ctx.reference = partial(reference, eps=eps, centred=centred)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients, a group at a time."""
        x, added, weight, bias, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *by_reference(ctx.reference, (x, added, weight, bias), grad), None, None
        to_x, to_weight, to_bias = backward(grad, x, added, weight, mean, scale)
        return to_x, None if added is None else to_x, to_weight, None if bias is None else to_bias, None, None
