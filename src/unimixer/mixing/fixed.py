"""Learned mixings with their constraints worked out once: what an exported or served model contains."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.mixing.base import Mixing
from unimixer.mixing.constrained import ConstrainedMixing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FixedMixing(Mixing):
    """UniMixing with constant weights: two products, nothing to normalise.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x

    Example:
        >>> FixedMixing(torch.eye(2).flip(0), torch.ones(1, 1, 1))(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 1.]])
    """

    global_weight: Tensor
    local_weight: Tensor

    def __init__(self, global_weight: Tensor, local_weight: Tensor) -> None:
        super().__init__(global_weight.shape[0] * local_weight.shape[-1])
        self.register_buffer("global_weight", global_weight.detach().clone())
        self.register_buffer("local_weight", local_weight.detach().clone())

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens."""
        return ops.unimixing(x_BL, self.global_weight.to(x_BL.dtype), self.local_weight.to(x_BL.dtype))

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The generalised Kronecker product of the weights."""
        return ops.unimixing_matrix(self.global_weight, self.local_weight)


def frozen(module: ModuleT) -> ModuleT:
    """A copy of a module, in evaluation mode, in which every constrained mixing is a :class:`FixedMixing`.

    Outputs are equal. Use it before ONNX, AOTInductor or any other form that leaves Python: the operator that solves
    for the weights exists in Python only.
    """
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        if isinstance(module, ConstrainedMixing):
            return FixedMixing(*module.weights()).eval()  # type: ignore[return-value]
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, ConstrainedMixing):
                    setattr(parent, name, FixedMixing(*child.weights()).eval())
    return module
