"""Two layers with own weights for every token, so that what lies between them stays in cache.

The reference writes every intermediate result of all tokens to fresh memory, tens of megabytes each, and reads it back
for the next operation; the pages of memory alone cost as much as the products. In float32 a C kernel takes a strip of
samples of one token through both layers. Where there is none, and in other types, one group of tokens at a time goes
through the products of torch; what backward needs is then kept in pieces of the size of a group, which the allocator
uses again from step to step. Hidden activations are not kept at all: backward works them out again from what entered
the gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.ops import native
from unimixer.ops.layout import by_reference, laid_out, operations_watched, product_dtype, rows
from unimixer.ops.norm import fused as fused_norm
from unimixer.ops.per_token.reference import per_token_ffn_reference, per_token_linear

GROUP = 2**21
"""Bytes that a group of tokens has between its layers; a group is at least one token. On a Xeon with 2 MB of
second-level cache half and twice as much take up to 5% longer."""

WIDEST = 256
"""Width of tokens up to which the kernel takes them: the weights of a wider one leave the second-level cache."""

HALVES = (torch.bfloat16, torch.float16)

Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
Gradients = tuple[Tensor | None, ...]


def in_kernel(x_BTD: Tensor, weights: Weights, dtype: torch.dtype, norm: tuple[Tensor | None, ...] = ()) -> bool:
    """Whether the kernel does it all: float32, no more threads than tokens, and no mode that counts products."""
    few = x_BTD.shape[2] <= WIDEST and torch.get_num_threads() <= x_BTD.shape[1]
    if not few or dtype != torch.float32 or operations_watched():
        return False
    return native.fits(rows(x_BTD), *weights, *norm)


def groups(up_TDU: Tensor, batch: int) -> Iterator[slice]:
    """The tokens of every group."""
    tokens, _, width = up_TDU.shape
    size = max(1, GROUP // (width * batch * up_TDU.element_size()))
    return (slice(start, start + size) for start in range(0, tokens, size))


def forward(x_BTD: Tensor, weights: Weights, keep: list[Tensor] | None, dtype: torch.dtype) -> Tensor:
    """Both layers, with products in a dtype; the result is batch-last, and what backward needs is added to ``keep``."""
    x_TDB = rows(x_BTD)
    if in_kernel(x_BTD, weights, dtype):
        out_TDB, (wide, *_) = native.ffn(x_TDB, weights, None, keeps=keep is not None)
        if keep is not None and wide is not None:
            keep.append(wide)
        return out_TDB.permute(2, 0, 1)
    up, up_bias, down, down_bias = weights
    up, down = up.to(dtype), down.to(dtype)
    out_TDB = x_BTD.new_empty(x_TDB.shape[0], down.shape[-1], x_TDB.shape[-1])
    for group in groups(up, x_TDB.shape[-1]):
        wide = torch.bmm(up[group].mT, x_TDB[group].to(dtype))
        hidden = _activation(wide, _part(up_bias, group), down.shape[1])
        if keep is not None:
            keep.append(wide)
        _product(down[group].mT, hidden, out_TDB[group], _part(down_bias, group))
    return out_TDB.permute(2, 0, 1)


def _product(left: Tensor, right: Tensor, out: Tensor, bias_TD: Tensor | None = None) -> None:
    """Write a batched product, plus a bias, to tensors that may have a wider dtype than its factors."""
    if left.dtype != out.dtype:
        out.copy_(torch.bmm(left, right))
        if bias_TD is not None:
            out.add_(bias_TD.unsqueeze(-1))
    elif bias_TD is None:
        torch.bmm(left, right, out=out)
    else:
        torch.baddbmm(bias_TD.unsqueeze(-1), left, right, out=out)


def _part(tensor: Tensor | None, group: slice) -> Tensor | None:
    return None if tensor is None else tensor[group]


def _activation(wide: Tensor, bias: Tensor | None, width: int) -> Tensor:
    """The hidden activations of the products without their bias."""
    if native.fits(bias) and native.fits(wide, dtypes=native.NUMBERS):
        return native.activate(wide, bias, width)
    if wide.dtype in HALVES:
        return _activation(wide.float(), bias, width).to(wide.dtype)
    biased = wide if bias is None else wide + bias.unsqueeze(-1)
    if wide.shape[1] == width:
        return F.gelu(biased)
    return F.silu(biased[:, width:]).mul_(biased[:, :width])


def _activation_backward(wide: Tensor, bias: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden activations once more, and the gradients of ``wide`` and of the bias; ``grad`` is used up."""
    if native.fits(bias) and native.fits(wide, grad, dtypes=native.NUMBERS):
        return native.activate_backward(wide, bias, grad)
    if wide.dtype in HALVES:
        hidden, grad_wide, grad_bias = _activation_backward(wide.float(), bias, grad.float())
        return hidden.to(wide.dtype), grad_wide.to(wide.dtype), grad_bias
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
        dtype = product_dtype(x_BTD)
        # MKL takes the strides of contiguous tokens as they are; bfloat16 tokens are a copy in any case
        x_TDB = x_BTD.permute(1, 2, 0) if dtype == x_BTD.dtype else rows(x_BTD.to(dtype))
        ctx.save_for_backward(x_BTD, weight, bias, x_TDB)
        with torch.autocast("cpu", enabled=False):
            out_TDB = x_BTD.new_empty(weight.shape[0], weight.shape[2], x_BTD.shape[0])
            _product(weight.to(dtype).mT, x_TDB, out_TDB, bias)
        return out_TDB.permute(2, 0, 1)

    @staticmethod
    def backward(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients."""
        x_BTD, weight, bias, x_TDB = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(by_reference(per_token_linear, (x_BTD, weight, bias), grad_BTO))
        grad = rows(grad_BTO)
        to_bias = None if bias is None else grad.sum(-1)
        grad, to_weight = grad.to(x_TDB.dtype), torch.empty_like(weight)
        _product(x_TDB, grad.mT, to_weight)
        if grad.dtype != weight.dtype:
            to_x_TDB = torch.bmm(weight.to(grad.dtype), grad)
            return laid_out(to_x_TDB.permute(2, 0, 1), False).to(x_BTD.dtype), to_weight, to_bias
        to_x = torch.empty_like(x_BTD)
        for token in range(len(weight)):  # a batched product writes no columns of a matrix
            torch.mm(grad[token].T, weight[token].T, out=to_x[:, token])
        return to_x, to_weight, to_bias


def backward(
    grad_BTD: Tensor, x_BTD: Tensor, weights: Weights, kept: Sequence[Tensor], dtype: torch.dtype, onto: bool
) -> Gradients:
    """The gradients of x and the weights, a group of tokens at a time; ``onto`` adds that of x to ``grad_BTD``."""
    up, up_bias, down, down_bias = weights
    x, grad = rows(x_BTD), rows(grad_BTD)
    to_x = grad if onto else x.new_empty(x.shape)
    to_up, to_down = torch.empty_like(up), torch.empty_like(down)
    to_up_bias = None if up_bias is None else torch.empty_like(up_bias)
    to_down_bias = None if down_bias is None else grad.sum(-1)
    up, down = up.to(dtype), down.to(dtype)
    for group, wide in zip(groups(up, x.shape[-1]), kept, strict=True):
        from_above = grad[group].to(dtype)
        hidden, grad_wide, grad_bias = _activation_backward(
            wide, _part(up_bias, group), torch.bmm(down[group], from_above)
        )
        _product(hidden, from_above.mT, to_down[group])
        _product(x[group].to(dtype), grad_wide.mT, to_up[group])
        if to_up_bias is not None:
            to_up_bias[group] = grad_bias
        if not onto:
            _product(up[group], grad_wide, to_x[group])
        elif dtype == to_x.dtype:
            to_x[group].baddbmm_(up[group], grad_wide)
        else:
            to_x[group].add_(torch.bmm(up[group], grad_wide))
    return to_x.permute(2, 0, 1), to_up, to_up_bias, to_down, to_down_bias


def _kernel_backward(
    grad_BTD: Tensor, x_BTD: Tensor, weights: Weights, norm_weight: Tensor | None, kept: Sequence[Tensor | None]
) -> Gradients:
    """All gradients by the kernel, those of a norm last; None for a bias that there is not."""
    up, up_bias, down, down_bias = weights
    to_x, to_up, to_up_bias, to_down, to_down_bias, *to_norm = native.ffn_backward(
        rows(grad_BTD), rows(x_BTD), up, down, norm_weight, kept
    )
    biases = None if up_bias is None else to_up_bias, None if down_bias is None else to_down_bias
    return to_x.permute(2, 0, 1), to_up, biases[0], to_down, biases[1], *to_norm


class PerTokenFFNFunction(torch.autograd.Function):
    """Forward and backward of both layers."""

    @staticmethod
    def forward(
        ctx: Any, x_BTD: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
    ) -> Tensor:
        """Both layers."""
        weights = up, up_bias, down, down_bias
        keep: list[Tensor] = []
        ctx.dtype = product_dtype(x_BTD)
        ctx.kernel = in_kernel(x_BTD, weights, ctx.dtype)
        with torch.autocast("cpu", enabled=False):
            output = forward(x_BTD, weights, keep, ctx.dtype)
        ctx.save_for_backward(x_BTD, *weights, *keep)
        return output

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients."""
        x_BTD, up, up_bias, down, down_bias, *kept = ctx.saved_tensors
        weights = up, up_bias, down, down_bias
        if torch.is_grad_enabled():
            return tuple(by_reference(per_token_ffn_reference, (x_BTD, *weights), grad_BTD))
        if ctx.kernel:
            return _kernel_backward(grad_BTD, x_BTD, weights, None, (*kept, None, None, None))[:5]
        return backward(grad_BTD, x_BTD, weights, kept, ctx.dtype, onto=False)


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
        ctx.dtype = product_dtype(x_BTD)
        ctx.kernel = in_kernel(x_BTD, weights, ctx.dtype, (weight, bias))
        if ctx.kernel:
            out_TDB, made = native.ffn(rows(x_BTD), weights, native.Norm(weight, bias, eps, centred))
            ctx.save_for_backward(x_BTD, *weights, weight, bias, *made)
            return out_TDB.permute(2, 0, 1)
        keep: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            added = forward(x_BTD, weights, keep, ctx.dtype)
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
        if ctx.kernel:
            gradients = _kernel_backward(grad_BTD, x_BTD, weights, weight, kept)
            return *gradients[:6], None if bias is None else gradients[6], None, None
        added, mean, scale, *wides = kept
        grad, to_weight, to_bias = fused_norm.backward(grad_BTD, x_BTD, added, weight, mean, scale)
        to_ffn = backward(grad, x_BTD, weights, wides, ctx.dtype, onto=True)
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
