"""UniMixing as kernels: each direction reads its inputs once, and the mixed blocks never reach memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unimixer.ops.kernels.launch import as_autocast, beside, power_of_two, precision

LARGEST_SHARES = 32
"""Pieces of the batch over which the gradient of the global matrix is summed in parallel."""


def unimixing(x_BL: Tensor, global_NN: Tensor, local_Nbb: Tensor) -> Tensor:
    r"""The same as :func:`unimixer.ops.unimixing`, its reference, by Triton kernels.

    A tile of rows is mixed inside its blocks, :math:`h_n = x_n W_B^n`, and is there the right factor of
    :math:`out_m = \sum_n G_{mn} h_n`; for N beyond a tile it is computed again for every tile of m. Backward keeps the
    inputs alone and computes h again. Sums are float32 and their order is fixed, so a run repeats to the last bit; an
    h in bfloat16 is rounded as the reference rounds it, while the gradient of h stays float32. First derivatives only.

    Shape:
        - x_BL: ``(B, L)``, ``L = N * b``; global_NN: ``(N, N)``; local_Nbb: ``(N, b, b)`` or ``(1, b, b)``
        - output: ``(B, L)``
    """
    x_BL, global_NN, local_Nbb = as_autocast(x_BL, global_NN, local_Nbb)
    x_BL = x_BL.reshape(-1, global_NN.shape[0] * local_Nbb.shape[-1])
    output: Tensor = mix(x_BL.contiguous(), global_NN.contiguous(), local_Nbb.contiguous())
    return output


def tiles(num_blocks: int, block_size: int) -> dict[str, int]:
    """Tile sizes: 32 or 64 blocks, and so many rows that a tile has 64 to 256 columns. Not tuned on a GPU.

    Example:
        >>> tiles(256, 4)
        {'WIDTH': 4, 'BM': 64, 'BN': 32, 'BB': 16, 'PB': 4}
    """
    padded = power_of_two(block_size)
    fitting = max(16, power_of_two(num_blocks))
    return {
        "WIDTH": block_size,
        "BM": min(64 if padded <= 4 else 32, fitting),
        "BN": min(32 if padded <= 8 else 16, fitting),
        "BB": max(16, 64 // padded),
        "PB": padded,
    }


@torch.library.custom_op("unimixer::kernel_unimixing", mutates_args=())
def mix(x: Tensor, global_: Tensor, local: Tensor) -> Tensor:
    """The output ``(B, L)``; all inputs contiguous and of one dtype."""
    from unimixer.ops.kernels.programs import unimixing as programs

    out = torch.empty_like(x)
    num_rows, num_blocks, stride, sizes = _sizes(x, global_, local)
    if num_rows:
        grid = (-(-num_rows // sizes["BB"]) * -(-num_blocks // sizes["BM"]),)
        with beside(x):
            programs.forward[grid](x, global_, local, out, num_rows, num_blocks, stride, **sizes, PRECISION=precision())
    return out


@torch.library.custom_op("unimixer::kernel_unimixing_backward", mutates_args=())
def mix_backward(grad: Tensor, x: Tensor, global_: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of all inputs, each in the dtype of its input."""
    from unimixer.ops.kernels.programs import unimixing as programs

    num_rows, num_blocks, stride, sizes = _sizes(x, global_, local)
    row_tiles, width = -(-num_rows // sizes["BB"]), sizes["WIDTH"]
    shares = max(1, min(LARGEST_SHARES, row_tiles // 4))
    grad_x = torch.empty_like(x)
    # one share a tile of rows, at most as large as x, summed below: no atomic additions, whose order is a gamble
    grad_local = x.new_zeros(row_tiles, num_blocks, width, width, dtype=torch.float32)
    grad_global = x.new_zeros(shares, num_blocks, num_blocks, dtype=torch.float32)
    if num_rows:
        given: dict[str, Any] = {**sizes, "PRECISION": precision()}
        out_tiles, in_tiles = -(-num_blocks // sizes["BM"]), -(-num_blocks // sizes["BN"])
        with beside(x):
            programs.backward_x[(row_tiles * in_tiles,)](
                grad, x, global_, local, grad_x, grad_local, num_rows, num_blocks, stride, **given
            )
            programs.backward_global[(out_tiles, in_tiles, shares)](
                grad, x, local, grad_global, num_rows, num_blocks, stride, **given
            )
    summed = grad_local.sum(0)
    if local.shape[0] == 1:
        summed = summed.sum(0, keepdim=True)
    return grad_x, grad_global.sum(0).to(global_.dtype), summed.to(local.dtype)


def _sizes(x: Tensor, global_: Tensor, local: Tensor) -> tuple[int, int, int, dict[str, int]]:
    num_blocks, block_size = global_.shape[0], local.shape[-1]
    stride = 0 if local.shape[0] == 1 else block_size * block_size
    return x.shape[0], num_blocks, stride, tiles(num_blocks, block_size)


@mix.register_fake
def _(x: Tensor, global_: Tensor, local: Tensor) -> Tensor:
    return torch.empty_like(x)


@mix_backward.register_fake
def _(grad: Tensor, x: Tensor, global_: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(global_), torch.empty_like(local)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, global_, local = ctx.saved_tensors
    found: tuple[Tensor, Tensor, Tensor] = mix_backward(grad.contiguous(), x, global_, local)
    return found


mix.register_autograd(_gradients, setup_context=_setup_context)
