"""Floating-point operations of a backbone for one example, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unimixer.backbones.base import Backbone
from unimixer.errors import check_positive

Shape = Sequence[int]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def count_flops(backbone: Backbone, *, batch_size: int = 1) -> int:
    r"""FLOPs of a forward pass for one example, in evaluation mode: two for every multiply-add of a matrix product.

    .. math:: c = \frac{F(2 n) - F(n)}{n}, \qquad F(n) = \text{FLOPs of a batch of } n \text{ rows}

    The difference leaves out what is done once a step whatever the batch: solving Sinkhorn, multiplying the factors of
    a low-rank matrix, anything else that follows from parameters alone. The products with the constrained matrices are
    in. Element-wise work, norms, activations and softmax are not counted, as usual, so a plain factorization machine
    has none; a mixture of experts counts the experts that are computed, which is all of them. Training takes about
    three times as much.

    Shapes are followed through a copy without memory, so the backbone may be huge, or on the meta device. The copy
    pretends to be on a CPU: on the meta device itself torch refuses autocast regions, which learned mixings have.

    Args:
        backbone: any backbone; it is not changed.
        batch_size: n; the result does not depend on it.

    Example:
        >>> from unimixer.backbones import RankMixer
        >>> count_flops(RankMixer(num_tokens=4, token_dim=16, hidden_dim=64, num_blocks=2))  # 2 * 4 * 2 * (2 * 16 * 64)
        32768
    """
    check_positive(batch_size=batch_size)

    def tokens(rows: int) -> tuple[torch.Tensor, ...]:
        return (torch.empty(rows, backbone.num_tokens, backbone.token_dim, device="cpu"),)

    return flops_a_row(backbone, tokens, batch_size=batch_size)


def flops_a_row(
    module: nn.Module,
    inputs: Callable[[int], tuple[torch.Tensor, ...]],
    *,
    method: str = "forward",
    batch_size: int = 1,
    hollow: bool = True,
) -> int:
    """The same for any module: FLOPs of one row, by the difference between two batches.

    Args:
        module: any module; it is not changed.
        inputs: makes the arguments of a batch with so many rows, on the CPU.
        method: which of the module's methods to count.
        batch_size: rows of the smaller batch.
        hollow: follow shapes through a copy without memory; a method that reads numbers needs False, and then runs.
    """
    once, twice = (_batch_flops(module, inputs, rows, method, hollow) for rows in (batch_size, 2 * batch_size))
    return (twice - once) // batch_size


def _batch_flops(
    module: nn.Module, inputs: Callable[[int], tuple[torch.Tensor, ...]], rows: int, method: str, hollow: bool
) -> int:
    with torch.no_grad(), FakeTensorMode() if hollow else nullcontext():
        copied = (hollow_copy(module) if hollow else copy.deepcopy(module)).eval()
        arguments = inputs(rows)
        with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
            getattr(copied, method)(*arguments)
    return int(counter.get_total_flops())


def hollow_copy(module: ModuleT) -> ModuleT:
    """A copy whose parameters and buffers have shapes and no memory; to be called, and used, under a fake mode.

    It pretends to be on a CPU, whatever device the module is on.

    Example:
        >>> with FakeTensorMode():
        ...     print(hollow_copy(nn.Linear(10**6, 10**6))(torch.empty(2, 10**6)).shape)
        torch.Size([2, 1000000])
    """
    found: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        hollow = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        parameter = isinstance(tensor, nn.Parameter)
        found[id(tensor)] = nn.Parameter(hollow, requires_grad=tensor.requires_grad) if parameter else hollow
    return copy.deepcopy(module, found)


def _vector(matrix: Shape, vector: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _added_vector(added: Shape, matrix: Shape, vector: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _dot(left: Shape, right: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * left[0]


def _attention_again(
    grad: Shape, query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (3 * width + 2 * value[-1])


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[-2] * (width + value[-1])


PRODUCTS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mv: _vector,
    torch.ops.aten.addmv: _added_vector,
    torch.ops.aten.dot: _dot,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_again,
}
"""Products that torch's counter passes over."""
