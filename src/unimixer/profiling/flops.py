"""Floating-point operations of a model, counted by torch from shapes alone, also module by module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from unimixer.backbones.base import Backbone
from unimixer.errors import check_positive
from unimixer.ops.sinkhorn import newton

Shape = Sequence[int]
ModuleT = TypeVar("ModuleT", bound=nn.Module)
TYPICAL_STEPS = 10
"""Steps of the solver for a random matrix, the first four plain; a matrix that starts from the rule takes none at
first, and as many as it has moved away later."""


def count_flops(backbone: Backbone, *, batch_size: int = 1) -> int:
    r"""Count the FLOPs of scoring one example: two for every multiply-add of a matrix product.

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
    """Count the FLOPs of one row of any module, by the difference between two batches.

    Args:
        module: any module; it is not changed.
        inputs: makes the arguments of a batch with so many rows, on the CPU.
        method: the module's method to count.
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
    """Copy a module with shapes and no memory; the copy is made and used under a fake mode.

    It pretends to be on a CPU, whatever device the module is on.

    Example:
        >>> with FakeTensorMode():
        ...     print(hollow_copy(nn.Linear(10**6, 10**6))(torch.empty(2, 10**6)).shape)
        torch.Size([2, 1000000])
    """
    copies: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        hollow = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(hollow, requires_grad=tensor.requires_grad) if parameter else hollow
    return copy.deepcopy(module, copies)


class ModuleFlops(FlopCounterMode):
    """Torch's counter, each operation under the innermost module that runs.

    Torch adds an operation to all modules around it. The innermost one cannot be told from those sums, because a module
    may be called outside the module that owns it.
    """

    def _count_flops(self, packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if packet in self.flop_registry:
            name = max(self.mod_tracker.parents, key=lambda name: (name != "Global", name.count(".")))
            self.flop_counts[name][packet] += self.flop_registry[packet](*args, **kwargs, out_val=out)
        return out


@contextmanager
def separate_graph_nodes() -> Iterator[None]:
    """Give every module inputs and outputs of its own in the graph, by views.

    In backward, torch's counter takes a module for finished once its inputs have their gradients. A tensor that several
    modules read has its gradient only after all of them, and one that a module returns as it is ends before it begins.
    """

    def views(values: Any) -> Any:
        if isinstance(values, tuple | list):
            kind = type(values)
            return kind(*map(views, values)) if hasattr(values, "_fields") else kind(map(views, values))
        return values.view_as(values) if isinstance(values, Tensor) and values.requires_grad else values

    hooks = (
        register_module_forward_pre_hook(lambda module, args: views(args)),
        register_module_forward_hook(lambda module, args, output: views(output)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sinkhorn_flops(count: int, size: int, *, symmetric: bool, steps: int = TYPICAL_STEPS) -> tuple[int, int]:
    r"""FLOPs of scaling ``count`` matrices of N x N with the implicit gradient: unseen and seen by torch's counter.

    A plain step takes about :math:`4 N^2`; a Newton step factorises the Hessian as well, :math:`N^3 / 3`, which in the
    general case is a product first, :math:`2 N^3`. Backward solves with one Hessian. Torch's counter sees of this
    no more than the products of the general case in backward.

    Args:
        count: matrices.
        size: N.
        symmetric: solve for one vector.
        steps: of the solver, its first four plain.

    Example:
        >>> sinkhorn_flops(1, 3, symmetric=True), sinkhorn_flops(1, 3, symmetric=False)
        ((621, 0), (945, 90))
    """
    plain, hessian = 4 * size**2, size**3 // 3 + 2 * size**2
    newton_steps = max(0, steps - newton.SINKHORN_STEPS)
    product = 0 if symmetric else 2 * size**3
    unseen = steps * plain + newton_steps * (hessian + product) + 2 * plain + hessian
    return count * unseen, 0 if symmetric else count * (product + 4 * size**2)


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
"""Products that torch's counter does not know."""
