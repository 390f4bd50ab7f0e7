"""Two layers with own weights for every token, a few tokens at a time, so that what lies between them stays in cache.

The reference writes every intermediate result of all tokens to fresh memory, tens of megabytes each, and reads it back
for the next operation; the pages of memory alone cost as much as the products. Here one group of tokens at a time goes
through both layers. What backward needs is kept in pieces of the size of a group, which the allocator uses again from
step to step, and hidden activations are not kept at all: backward works them out again from what entered the gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimixer.ops import native
from unimixer.ops.layout import by_reference, rows
from unimixer.ops.per_token.reference import per_token_ffn_reference

GROUP = 2**18
"""Numbers that a group of tokens has between its layers, 1 MB in float32; a group is at least one token. On an EPYC
with 1 MB of second-level cache a step at T=16, D=64, batch 512 took 107 ms with it, 115 ms with four times as much."""

Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


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
        wide = torch.bmm(up[group].mT, x_TDB[group])
        hidden = _activation(wide, _part(up_bias, group), down.shape[1])
        if keep is not None:
            keep.append(wide)
        if down_bias is None:
            torch.bmm(down[group].mT, hidden, out=out_TDB[group])
        else:
            torch.baddbmm(down_bias[group].unsqueeze(-1), down[group].mT, hidden, out=out_TDB[group])
    return out_TDB.permute(2, 0, 1)


def _part(bias_TU: Tensor | None, group: slice) -> Tensor | None:
    return None if bias_TU is None else bias_TU[group]


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


class PerTokenFFNFunction(torch.autograd.Function):
    """Forward and backward of both layers."""

    @staticmethod
    def forward(
        ctx: Any, x_BTD: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
    ) -> Tensor:
        """Both layers."""
        keep: list[Tensor] = []
        output = forward(x_BTD, (up, up_bias, down, down_bias), keep)
        ctx.save_for_backward(x_BTD, up, up_bias, down, down_bias, *keep)
        return output

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        """All gradients, a group at a time."""
        x_BTD, up, up_bias, down, down_bias, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(by_reference(per_token_ffn_reference, (x_BTD, up, up_bias, down, down_bias), grad_BTD))
        x, grad = rows(x_BTD), rows(grad_BTD)
        to_x = x.new_empty(x.shape)
        to_up, to_down = torch.empty_like(up), torch.empty_like(down)
        to_up_bias = None if up_bias is None else torch.empty_like(up_bias)
        for group, wide in zip(groups(up, x.shape[-1]), kept, strict=True):
            above = torch.bmm(down[group], grad[group])
            hidden, grad_wide, grad_bias = _activation_backward(wide, _part(up_bias, group), above)
            torch.bmm(hidden, grad[group].mT, out=to_down[group])
            torch.bmm(x[group], grad_wide.mT, out=to_up[group])
            torch.bmm(up[group], grad_wide, out=to_x[group])
            if to_up_bias is not None:
                to_up_bias[group] = grad_bias
        return to_x.permute(2, 0, 1), to_up, to_up_bias, to_down, None if down_bias is None else grad.sum(-1)
