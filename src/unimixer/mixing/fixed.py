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
from unimixer.mixing.global_patterns import Global, Permutation
from unimixer.mixing.local_patterns import IdentityLocal, Local
from unimixer.mixing.unified import MatrixMixing, Unified
from unimixer.mixing.unimixing import HeadUniMixing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class FixedLocal(Local):
    """Constant matrices inside blocks, ``(N, b, c)`` or ``(1, b, c)``.

    .. math:: y_n = x_n W^n

    Source: a local pattern after training, with its constraint evaluated once.

    Args:
        num_blocks: N.
        weight: the matrices.
        pattern: the pattern in words.

    Shape:
        - blocks: ``(B, N, b)``; output: ``(B, N, c)``

    Example:
        >>> FixedLocal(2, 3 * torch.eye(1).unsqueeze(0))(torch.tensor([[[1.0], [2.0]]])).flatten().tolist()
        [3.0, 6.0]
    """

    weight: Tensor

    def __init__(self, num_blocks: int, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.num_blocks, (_, self.in_dim, self.out_dim), self.pattern = num_blocks, weight.shape, pattern
        self.register_buffer("weight", weight.detach().clone())

    def matrices(self) -> Tensor:
        """The constant."""
        return self.weight


class FixedGlobal(Global):
    r"""A constant matrix between blocks, ``(M, N)``, or one a head, ``(H, M, N)``.

    .. math:: y_m = \sum_n G_{mn} h_n

    Source: a global pattern after training, with its constraint evaluated once.

    Args:
        weight: the matrix G.
        pattern: the pattern in words.

    Shape:
        - blocks: ``(B, N, b)``, which it does not read; values: h, ``(B, N, c)``; output: ``(B, M, c)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> FixedGlobal(torch.tensor([[1.0, 1.0]]))(values, values).tolist()
        [[[3.0]]]
    """

    weight: Tensor

    def __init__(self, weight: Tensor, pattern: str = "constant") -> None:
        super().__init__()
        self.pattern = pattern
        self.num_heads = 1 if weight.dim() == 2 else len(weight)
        self.register_buffer("weight", weight.detach().clone())

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The constant."""
        return self.weight.view(self.num_heads, *self.weight.shape[-2:])


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


class SparseGlobal(Global):
    r"""Every block is a weighted sum of k others: the k largest entries of each row, scaled to the row's sum.

    .. math:: y_m = \frac{\sum_j G_{mj}}{\sum_{j \in K_m} G_{mj}} \sum_{n \in K_m} G_{mn} h_n, \qquad
              K_m = \mathrm{top}_k(G_m)

    Source: ours, for serving; see :func:`discretize`.

    Args:
        matrix: ``(N, N)``.
        top_k: k, at most N.

    Shape:
        - blocks, values: ``(B, N, b)``; output: ``(B, N, b)``

    Example:
        >>> values = torch.tensor([[[1.0], [2.0]]])
        >>> SparseGlobal(torch.tensor([[0.25, 0.75], [0.75, 0.25]]), top_k=1)(values, values).flatten().tolist()
        [2.0, 1.0]
    """

    indices: Tensor
    values: Tensor

    def __init__(self, matrix: Tensor, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= matrix.shape[-1]:
            raise UnimixerError(f"top_k={top_k} must lie between 1 and the number of blocks, {matrix.shape[-1]}")
        kept, indices = matrix.detach().topk(top_k, dim=-1)
        self.pattern = f"constant, {top_k} entries a row"
        self.register_buffer("indices", indices)
        self.register_buffer("values", kept * (matrix.detach().sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)))

    def weights(self, blocks: Tensor | None = None) -> Tensor:
        """The sparse matrix, written out."""
        size = self.indices.shape[0]
        return self.values.new_zeros(size, size).scatter_(1, self.indices, self.values).unsqueeze(0)

    def forward(self, blocks: Tensor, values: Tensor) -> Tensor:
        """Gather and sum, k products instead of N."""
        gathered = values[:, self.indices]  # (B, N, k, b)
        return (self.values.to(values.dtype).unsqueeze(-1) * gathered).sum(-2)


def nearest_permutation(matrix: Tensor) -> Tensor:
    """Find the permutation matrix with the largest inner product with a square matrix: row i takes column result[i].

    Example:
        >>> nearest_permutation(torch.tensor([[0.6, 0.4], [0.7, 0.3]]))
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(matrix.detach().double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(matrix.device)


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

    def constant(part: nn.Module) -> nn.Module:
        top_k = None if match[1] is None else int(match[1])
        if isinstance(part, HeadUniMixing):
            return _permuted_heads(part) if top_k is None else _sparse_heads(part, top_k)
        assert isinstance(part, MatrixMixing)
        return _permuted(part) if top_k is None else _sparse(part, top_k)

    return replaced(module, (MatrixMixing, HeadUniMixing), constant)


def _permuted(mixing: MatrixMixing) -> Unified:
    global_NN, local_Nbb = mixing.weights()
    size, width = global_NN.shape[0], local_Nbb.shape[-1]
    source = nearest_permutation(global_NN)
    # column j of a local matrix says which number of the old block becomes number j of the new one
    inside = torch.stack([nearest_permutation(matrix.T) for matrix in local_Nbb]).expand(size, width)
    order = (source.unsqueeze(1) * width + inside[source]).flatten()
    return Unified(IdentityLocal(size * width, 1), Permutation(order))


def _sparse(mixing: MatrixMixing, top_k: int) -> Unified:
    global_NN, local_Nbb = mixing.weights()
    return Unified(
        FixedLocal(global_NN.shape[0], local_Nbb, mixing.local_pattern),
        SparseGlobal(global_NN, min(top_k, len(global_NN))),
    )


def _permuted_heads(mixing: HeadUniMixing) -> Unified:
    heads = mixing.global_.weights()
    num_heads, num_tokens = heads.shape[:2]
    sources = torch.stack([nearest_permutation(matrix) for matrix in heads], dim=1)
    order = (sources * num_heads + torch.arange(num_heads, device=sources.device)).flatten()
    return Unified(IdentityLocal(num_tokens * num_heads, mixing.block_size // num_heads), Permutation(order))


def _sparse_heads(mixing: HeadUniMixing, top_k: int) -> Unified:
    matrices = [SparseGlobal(matrix, min(top_k, len(matrix))).weights()[0] for matrix in mixing.global_.weights()]
    between = FixedGlobal(torch.stack(matrices), f"constant, {top_k} entries a row, own for every head")
    return Unified(mixing.local, between)
