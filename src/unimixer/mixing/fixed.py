"""Learned patterns with their constraints worked out once: what an exported or served model contains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from unimixer.mixing.constrained import Constrained
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.local_patterns import Local
from unimixer.mixing.unified import MatrixMixing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FixedLocal(Local):
    """Constant matrices inside blocks, ``(N, b, c)`` or ``(1, b, c)``."""

    weight: Tensor

    def __init__(self, num_blocks: int, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.num_blocks, (_, self.in_dim, self.out_dim), self.pattern = num_blocks, weight.shape, pattern
        self.register_buffer("weight", weight.detach().clone())

    def matrices(self) -> Tensor:
        """The constant."""
        return self.weight


class FixedGlobal(Global):
    """A constant matrix between blocks, ``(M, N)``."""

    weight: Tensor

    def __init__(self, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.pattern = pattern
        self.register_buffer("weight", weight.detach().clone())

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The constant."""
        return self.weight.unsqueeze(0)


def fixed_mixing(global_NN: Tensor, local_Nbb: Tensor) -> MatrixMixing:
    """A mixing of constant matrices.

    Shape:
        - global_NN: ``(N, N)``; local_Nbb: ``(N, b, b)``, or ``(1, b, b)`` for all blocks

    Example:
        >>> fixed_mixing(torch.eye(2).flip(0), torch.ones(1, 1, 1))(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 1.]])
    """
    return MatrixMixing(FixedLocal(global_NN.shape[-1], local_Nbb), FixedGlobal(global_NN))


def frozen(module: ModuleT) -> ModuleT:
    """A copy of a module, in evaluation mode, in which every constrained pattern is a constant.

    Outputs are equal. Use it before ONNX, AOTInductor or any other form that leaves Python: the operator that solves
    for the weights exists in Python only.
    """
    return replaced(module, Constrained, _constant)


def replaced(module: ModuleT, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> ModuleT:
    """A copy of a module, in evaluation mode, in which every part of one kind is what ``make`` makes of it."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        if isinstance(module, kind):
            return make(module).eval()  # type: ignore[return-value]
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, kind):
                    setattr(parent, name, make(child).eval())
    return module


def _constant(pattern: nn.Module) -> nn.Module:
    assert isinstance(pattern, Constrained)
    matrices = pattern.matrices()
    if isinstance(pattern, Local):
        return FixedLocal(pattern.num_blocks, matrices, pattern.pattern)
    assert isinstance(pattern, Global)
    return FixedGlobal(matrices, pattern.pattern)
