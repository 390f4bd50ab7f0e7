"""Where the samples of a batch lie in memory, and when fused CPU layers run instead of plain operations.

Shapes never change: tokens are ``(B, T, D)`` everywhere. *Batch-last* tokens have their samples next to each other in
memory, as if they were a contiguous ``(T, D, B)``; blocks of features are then rows, so that a mixing between blocks,
a per-token product and the cut of tokens into heads need no copy, and every elementwise pass has long rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

SMALLEST_BATCH = 64
"""Smaller batches stay as they are: rows would be too short to pay for two transpositions."""


def plain(x: Tensor) -> bool:
    """Whether only plain operations may touch x: compiled or exported, not on a CPU, or halved by autocast."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return True
    return torch.is_autocast_enabled("cpu") and x.dtype != torch.float32


def operations_watched() -> bool:
    """Whether a mode of torch, such as one that counts FLOPs, looks at every operation; a kernel would hide its own."""
    return not isinstance(_get_current_dispatch_mode(), FakeTensorMode | None)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products of x with weights: that of autocast on a CPU, else that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def batch_last(x: Tensor) -> Tensor:
    """The same tensor with its samples next to each other in memory, where eager kernels on a CPU gain by it.

    Its gradient comes back contiguous.

    Shape:
        - x: ``(B, ...)``; output: the shape of x

    Example:
        >>> batch_last(torch.zeros(128, 4, 8)).stride()
        (1, 1024, 128)
        >>> batch_last(torch.zeros(2, 4, 8)).stride()
        (32, 8, 1)
    """
    if plain(x) or x.shape[0] < SMALLEST_BATCH or is_batch_last(x):
        return x
    laid: Tensor = _Layout.apply(x, True)  # type: ignore[no-untyped-call]
    return laid


def batch_first(x: Tensor) -> Tensor:
    """The way back from :func:`batch_last`: a contiguous tensor, with a gradient that is batch-last.

    Example:
        >>> batch_first(batch_last(torch.zeros(128, 4, 8))).is_contiguous()
        True
    """
    if plain(x) or not is_batch_last(x):
        return x
    laid: Tensor = _Layout.apply(x, False)  # type: ignore[no-untyped-call]
    return laid


def is_batch_last(x: Tensor) -> bool:
    """Whether x lies in memory as :func:`batch_last` leaves it."""
    return x.dim() > 1 and x.shape[0] >= SMALLEST_BATCH and x.movedim(0, -1).is_contiguous()


def rows(x_BTD: Tensor) -> Tensor:
    """Tokens, or a gradient, as a contiguous ``(T, D, B)``: a view of batch-last ones."""
    return laid_out(x_BTD, True).permute(1, 2, 0)


def laid_out(x: Tensor, last: bool) -> Tensor:
    """A copy in one of the layouts, unless it lies so already; torch is fast at transposing two axes, not three."""
    if last and x.stride(0) == 1:  # whole rows, such as the gradient of a mean, the same for all tokens
        return x if is_batch_last(x) else x.movedim(0, -1).contiguous().movedim(-1, 0)
    if last:
        return x if is_batch_last(x) else x.flatten(1).T.contiguous().view(*x.shape[1:], -1).movedim(-1, 0)
    return x.movedim(0, -1).flatten(0, -2).T.contiguous().view(x.shape)


def by_reference(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """Gradients through plain operations, for a backward pass that is itself to be differentiated."""
    with torch.enable_grad():
        output = reference(*inputs)
    wanted = {index: given for index, given in enumerate(inputs) if given is not None and given.requires_grad}
    found = torch.autograd.grad(output, list(wanted.values()), grad, create_graph=True)
    by_index = dict(zip(wanted, found, strict=True))
    return [by_index.get(index) for index in range(len(inputs))]


class _Layout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: bool) -> Tensor:
        ctx.last = last
        return laid_out(x, last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return laid_out(grad, not ctx.last), None
