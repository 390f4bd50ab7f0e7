"""The first half of the per-token SwiGLU as kernels: product and gate in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unimixer.ops.kernels.launch import as_autocast, beside, power_of_two, precision


def per_token_swiglu(
    x_BTD: Tensor, weight_TDO: Tensor, bias_TO: Tensor | None = None, *, recompute: bool = False
) -> Tensor:
    r"""Hidden units of a per-token SwiGLU, :math:`(x_t U_t + b_t) \odot \mathrm{Swish}(x_t V_t + c_t)`.

    The same as ``swiglu(*per_token_linear(x, weight, bias).chunk(2, -1))``, its reference, by a Triton kernel that
    applies the gate to the products while they are still on the chip. Up and gate are one weight, up first.

    Backward needs both products. They are written once and read once there, or, with ``recompute``, not written and
    computed again: a fifth more products for a training step with two units of memory less per hidden unit and row.
    The gate's gradient is one pass; the products of the backward are torch's. First derivatives only.

    Shape:
        - x_BTD: ``(B, T, D)``; weight_TDO: ``(T, D, 2 H)``; bias_TO: ``(T, 2 H)``
        - output: ``(B, T, H)``, a view of a ``(T, B, H)`` tensor
    """
    x_BTD, weight_TDO = as_autocast(x_BTD, weight_TDO)
    bias_TO = None if bias_TO is None else bias_TO.to(x_BTD.dtype).contiguous()
    save = torch.is_grad_enabled() and not recompute
    hidden_TBH: Tensor = gated(x_BTD.transpose(0, 1), weight_TDO.contiguous(), bias_TO, save)[0]
    return hidden_TBH.transpose(0, 1)


def tiles(num_rows: int, in_dim: int, hidden_dim: int) -> dict[str, int]:
    """Tile sizes: rows, hidden units, and input columns at a time. Not tuned on a GPU.

    Example:
        >>> tiles(2048, 24, 100)
        {'BB': 64, 'BH': 64, 'BK': 32}
    """
    limits = {"BB": (num_rows, 64), "BH": (hidden_dim, 64), "BK": (in_dim, 32)}
    return {name: min(limit, max(16, power_of_two(size))) for name, (size, limit) in limits.items()}


@torch.library.custom_op("unimixer::kernel_swiglu", mutates_args=())
def gated(x: Tensor, weight: Tensor, bias: Tensor | None, save: bool) -> tuple[Tensor, Tensor]:
    """Hidden units ``(T, B, H)``, and up and gate ``(T, B, 2 H)``, empty unless they are to be saved."""
    from unimixer.ops.kernels.programs import swiglu as programs

    num_tokens, num_rows, in_dim = x.shape
    hidden_dim = weight.shape[2] // 2
    if x.stride(2) != 1:
        x = x.contiguous()
    hidden = x.new_empty(num_tokens, num_rows, hidden_dim)
    pre = x.new_empty((num_tokens, num_rows, 2 * hidden_dim) if save else (0,))
    sizes = tiles(num_rows, in_dim, hidden_dim)
    if num_rows:
        grid = (-(-num_rows // sizes["BB"]) * -(-hidden_dim // sizes["BH"]), num_tokens)
        strides = x.stride(1), x.stride(0)
        flags = {"HAS_BIAS": bias is not None, "SAVE": save, "PRECISION": precision()}
        with beside(x):
            programs.forward[grid](
                x, weight, bias, hidden, pre, num_rows, in_dim, hidden_dim, *strides, **flags, **sizes
            )
    return hidden, pre


@torch.library.custom_op("unimixer::kernel_swiglu_gate_backward", mutates_args=())
def gate_backward(grad: Tensor, pre: Tensor) -> Tensor:
    """The gradient of up and gate ``(T, B, 2 H)``."""
    from unimixer.ops.kernels.programs import swiglu as programs

    result, hidden_dim = torch.empty_like(pre), grad.shape[2]
    piece = min(1024, power_of_two(hidden_dim))
    grid = (grad.shape[0] * grad.shape[1], -(-hidden_dim // piece))
    if grid[0]:
        with beside(pre):
            programs.backward_gate[grid](grad, pre, result, hidden_dim, BH=piece)
    return result


@gated.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, save: bool) -> tuple[Tensor, Tensor]:
    num_tokens, num_rows, width = x.shape[0], x.shape[1], weight.shape[2]
    pre = x.new_empty((num_tokens, num_rows, width) if save else (0,))
    return x.new_empty(num_tokens, num_rows, width // 2), pre


@gate_backward.register_fake
def _(grad: Tensor, pre: Tensor) -> Tensor:
    return torch.empty_like(pre)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, save = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, output[1] if save else None)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
    x, weight, bias, pre = ctx.saved_tensors
    if pre is None:
        pre = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
    moved = gate_backward(grad.contiguous(), pre)
    grad_bias = None if bias is None else moved.sum(1)
    return torch.bmm(moved, weight.mT), torch.bmm(x.mT, moved), grad_bias, None


gated.register_autograd(_gradients, setup_context=_setup_context)
