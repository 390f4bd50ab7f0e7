"""Two layers with own weights for every token, a few tokens at a time, so that what lies between them stays in cache.

The reference writes every intermediate result of all tokens to fresh memory, tens of megabytes each, and reads it back
for the next operation; the pages of memory alone cost as much as the products. Here one group of tokens at a time goes
through both layers. What backward needs is kept in pieces of the size of a group, which the allocator uses again from
step to step, and hidden activations are not kept at all: backward works them out again from what entered the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.ops import native
from unimixer.ops.layout import by_reference, rows
from unimixer.ops.norm import fused as fused_norm
from unimixer.ops.per_token.reference import per_token_ffn_reference, per_token_linear

GROUP = 2**19
"""Numbers that a group of tokens has between its layers, 2 MB in float32; a group is at least one token. On a Xeon with
2 MB of second-level cache half and twice as much take up to 5% longer."""

NARROW, UNITS = 128, 160
"""At tokens up to 128 wide MKL 2024.2 is faster by up to 160 units than by more, on a Xeon with AVX-512;
wider tokens gain nothing by pieces."""

Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
Gradients = tuple[Tensor | None, ...]


def groups(up_TDU: Tensor, batch: int) -> Iterator[slice]:
    """The tokens of every group."""
    tokens, _, width = up_TDU.shape
    size = max(1, GROUP // (width * batch))
    return (slice(start, start + size) for start in range(0, tokens, size))


def forward(x_BTD: Tensor, weights: Weights, keep: list[Tensor] | None) -> Tensor:
    """Both layers; the result is batch-last, and what backward needs is added to ``keep``."""
    up, up_bias, down, down_bias = weights
    x_TDB = rows(x_BTD)
    out_TDB = x_BTD.new_empty(x_TDB.shape[0], down.shape[-1], x_TDB.shape[-1])
    for group in groups(up, x_TDB.shape[-1]):
        wide = _first_layer(up[group], x_TDB[group])
        hidden = _activation(wide, _part(up_bias, group), down.shape[1])
        if keep is not None:
            keep.append(wide)
        if down_bias is None:
            torch.bmm(down[group].mT, hidden, out=out_TDB[group])
        else:
            torch.baddbmm(down_bias[group].unsqueeze(-1), down[group].mT, hidden, out=out_TDB[group])
    return out_TDB.permute(2, 0, 1)


def _first_layer(up_TDU: Tensor, x_TDB: Tensor) -> Tensor:
    """The products of the first layer, so many units at a time that MKL does not copy narrow tokens into a buffer."""
    (_, width, units), batch = up_TDU.shape, x_TDB.shape[-1]
    if width > NARROW or units <= UNITS:
        return torch.bmm(up_TDU.mT, x_TDB)
    wide_TUB = x_TDB.new_empty(len(up_TDU), units, batch)
    step = -(-units // -(-units // UNITS))
    for start in range(0, units, step):
        part = slice(start, start + step)
        torch.bmm(up_TDU[..., part].mT, x_TDB, out=wide_TUB[:, part])
    return wide_TUB


def _part(tensor: Tensor | None, group: slice) -> Tensor | None:
    return None if tensor is None else tensor[group]


def _activation(wide: Tensor, bias: Tensor | None, width: int) -> Tensor:
    """The hidden activations of the products without their bias."""
    if native.fits(wide, bias):
        return native.activate(wide, bias, width)
    biased = wide if bias is None else wide + bias.unsqueeze(-1)
    if wide.shape[1] == width:
        return F.gelu(biased)
    return F.silu(biased[:, width:]).mul_(biased[:, :width])


def _activation_backward(wide: Tensor, bias: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden activations once more, and the gradients of ``wide`` and of the bias; ``grad`` is used up."""
    if native.fits(wide, bias, grad):
        return native.activate_backward(wide, bias, grad)
    width = grad.shape[1]
    biased = wide if bias is None else wide + bias.unsqueeze(-1)
    if wide.shape[1] == width:
        grad_wide = torch.ops.aten.gelu_backward(grad, biased)
        return F.gelu(biased), grad_wide, grad_wide.sum(-1)
    up, gate = biased[:, :width], biased[:, width:]
    hidden, grad_wide = F.silu(gate), torch.empty_like(wide)
    torch.mul(grad, hidden, out=grad_wide[:, :width])
    torch.ops.aten.silu_backward(grad.mul_(up), gate, grad_input=grad_wide[:, width:])
    return hidden.mul_(up), grad_wide, grad_wide.sum(-1)


class LinearFunction(torch.autograd.Function):
    """One layer from contiguous tokens to batch-last ones, and back with a contiguous gradient, without a copy."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product of every token."""
        ctx.save_for_backward(x_BTD, weight, bias)
        x_TDB = x_BTD.permute(1, 2, 0)
        if bias is None:
            return torch.bmm(weight.mT, x_TDB).permute(2, 0, 1)
        return torch.baddbmm(bias.unsqueeze(-1), weight.mT, x_TDB).permute(2, 0, 1)

    @staticmethod
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients; that of x a token at a time, since a batched product writes no columns of a matrix."""
        x_BTD, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(by_reference(per_token_linear, (x_BTD, weight, bias), grad_BTO))
        grad = rows(grad_BTO)
        to_weight = torch.bmm(x_BTD.permute(1, 2, 0), grad.mT)
        to_x = torch.empty_like(x_BTD)
        for token in range(len(weight)):
            torch.mm(grad[token].T, weight[token].T, out=to_x[:, token])
        return to_x, to_weight, None if bias is None else grad.sum(-1)


def backward(grad_BTD: Tensor, x_BTD: Tensor, weights: Weights, kept: Sequence[Tensor], onto: bool) -> Gradients:
    """The gradients of x and the weights, a group of tokens at a time; ``onto`` adds that of x to ``grad_BTD``."""
    up, up_bias, down, down_bias = weights
    x, grad = rows(x_BTD), rows(grad_BTD)
    to_x = grad if onto else x.new_empty(x.shape)
    to_up, to_down = torch.empty_like(up), torch.empty_like(down)
    to_up_bias = None if up_bias is None else torch.empty_like(up_bias)
    to_down_bias = None if down_bias is None else torch.empty_like(down_bias)
    for group, wide in zip(groups(up, x.shape[-1]), kept, strict=True):
        above = torch.bmm(down[group], grad[group])
        hidden, grad_wide, grad_bias = _activation_backward(wide, _part(up_bias, group), above)
        torch.bmm(hidden, grad[group].mT, out=to_down[group])
        torch.bmm(x[group], grad_wide.mT, out=to_up[group])
        if to_up_bias is not None:
            to_up_bias[group] = grad_bias
        if to_down_bias is not None:
            torch.sum(grad[group], -1, out=to_down_bias[group])
        if onto:
            to_x[group].baddbmm_(up[group], grad_wide)
        else:
            torch.bmm(up[group], grad_wide, out=to_x[group])
    return to_x.permute(2, 0, 1), to_up, to_up_bias, to_down, to_down_bias


class PerTokenFFNFunction(torch.autograd.Function):
    """Forward and backward of both layers."""

    @staticmethod
    def forward(
        ctx: Any, x_BTD: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
    ) -> Tensor:
        """Both layers."""
        weights = up, up_bias, down, down_bias
        keep: list[Tensor] = []
        output = forward(x_BTD, weights, keep)
        ctx.save_for_backward(x_BTD, *weights, *keep)
        return output

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients."""
        x_BTD, up, up_bias, down, down_bias, *kept = ctx.saved_tensors
        weights = up, up_bias, down, down_bias
        if torch.is_grad_enabled():
            return tuple(by_reference(per_token_ffn_reference, (x_BTD, *weights), grad_BTD))
        return backward(grad_BTD, x_BTD, weights, kept, onto=False)


class NormedFFNFunction(torch.autograd.Function):
    """The norm of x and both layers; backward adds the gradient of the residual inside the last product."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        centred: bool,
    ) -> Tensor:
        """Both layers, then the norm of the sum."""
        weights = up, up_bias, down, down_bias
        ctx.reference = partial(_normed_reference, eps=eps, centred=centred)
        keep: list[Tensor] = []
        added = forward(x_BTD, weights, keep)
        output, mean, scale = fused_norm.forward(x_BTD, added, weight, bias, eps, centred)
        ctx.save_for_backward(x_BTD, *weights, weight, bias, added, mean, scale, *keep)
        return output

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients."""
        x_BTD, up, up_bias, down, down_bias, weight, bias, *kept = ctx.saved_tensors
        weights = up, up_bias, down, down_bias
        if torch.is_grad_enabled():
            return *by_reference(ctx.reference, (x_BTD, *weights, weight, bias), grad_BTD), None, None
        added, mean, scale, *wides = kept
        grad, to_weight, to_bias = fused_norm.backward(grad_BTD, x_BTD, added, weight, mean, scale)
        to_ffn = backward(grad, x_BTD, weights, wides, onto=True)
        return *to_ffn, to_weight, None if bias is None else to_bias, None, None


def _normed_reference(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    centred: bool,
) -> Tensor:
    added = per_token_ffn_reference(x, up, up_bias, down, down_bias)
    return fused_norm.reference(x, added, weight, bias, eps=eps, centred=centred)
