"""Trained mixings as constants: constraints evaluated once, or matrices discretized for serving."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.mixing.constrained import Constrained
from unimixer.mixing.fixed_patterns import FixedGlobal, FixedLocal
from unimixer.mixing.global_patterns import Global
from unimixer.mixing.local_patterns import Local
from unimixer.mixing.unified import Discretizable, MatrixMixing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fixed_mixing(global_NN: Tensor, local_Nbb: Tensor) -> MatrixMixing:
    """A mixing of constant matrices.

    Shape:
        - global_NN: ``(N, N)``; local_Nbb: ``(N, b, b)``, or ``(1, b, b)`` for all blocks

    Example:
        >>> fixed_mixing(torch.eye(2).flip(0), torch.ones(1, 1, 1))(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 1.]])
    """
    return MatrixMixing(FixedLocal(global_NN.shape[-1], local_Nbb), FixedGlobal(global_NN))


def freeze(module: ModuleT) -> ModuleT:
    """Copy a module, in evaluation mode, with every constrained pattern as a constant; outputs are equal.

    Use it before ONNX, AOTInductor or any other form that leaves Python: the operator that solves for the weights
    exists in Python only.
    """
    return replaced(module, Constrained, _constant)


Kinds = type[nn.Module] | tuple[type[nn.Module], ...]


def replaced(module: ModuleT, kind: Kinds, make: Callable[[nn.Module], nn.Module]) -> ModuleT:
    """Copy a module, in evaluation mode, with every part of one kind replaced by ``make(part)``."""
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


def discretize(module: ModuleT, form: str) -> ModuleT:
    r"""Copy a module, in evaluation mode, with its learned mixings discretized; scores change, so measure them.

    Args:
        module: a mixing, or a model with mixings inside.
        form: ``"permutation"``: global and local matrices become the nearest permutations, hence the whole mixing one
            move of numbers without any arithmetic; ``"top-K"``: the global matrix keeps the K largest entries of every
            row, scaled to sum to one again, and local matrices stay as they are.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> discrete = discretize(UniMixing(length=64, block_size=2, num_heads=4), "permutation")
        >>> discrete.global_pattern
        'fixed permutation'
    """
    match = re.fullmatch(r"permutation|top-([1-9]\d*)", form)
    if match is None:
        raise UnimixerError(f"form={form!r} is not known; use 'permutation' or 'top-K', such as 'top-4'")
    top_k = None if match[1] is None else int(match[1])

    def constant(part: nn.Module) -> nn.Module:
        assert isinstance(part, Discretizable)
        return part.discretized(top_k)

    return replaced(module, Discretizable, constant)
