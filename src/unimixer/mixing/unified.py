"""The one form: a pattern inside blocks, then a pattern between blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer import ops
from unimixer.errors import UnimixerError, check_divisible
from unimixer.mixing.base import Mixing
from unimixer.mixing.fixed_patterns import FixedLocal, SparseGlobal, nearest_permutation
from unimixer.mixing.global_patterns import Global, Permutation
from unimixer.mixing.local_patterns import IdentityLocal, Local


class Unified(Mixing):
    r"""Attention, TokenMixer, factorization machines and UniMixing, by the choice of two patterns.

    .. math:: \mathrm{Unified}(X) = G(X)\, [x_1 W_B^1; \dots; x_N W_B^N]

    arXiv:2604.00590, "unified form". Blocks are N equal pieces of the flattened tokens, whatever T and D: attention and
    factorization machines live at one block a token, the rule of TokenMixer at one block a head.

    Args:
        local: pattern inside blocks.
        global_: pattern between blocks.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``, with L = N b
        - output: the shape of x; where the local pattern changes the width of blocks, ``(B, M, c)`` or ``(B, M c)``

    Example:
        >>> from unimixer.mixing import BlockLinear, GramMatrix
        >>> Unified(BlockLinear(4, 16, 16), GramMatrix())(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

    def __init__(self, local: Local, global_: Global) -> None:
        super().__init__(local.num_blocks * local.in_dim)
        check_divisible("width of the local pattern", local.out_dim, by="num_heads", divisor=global_.num_heads)
        self.local, self.global_ = local, global_
        self.num_blocks_mixed, self.block_size = local.num_blocks, local.in_dim
        self.out_blocks = local.num_blocks

    @property
    def local_pattern(self) -> str:
        """What happens inside a block, in words."""
        return self.local.pattern

    @property
    def global_pattern(self) -> str:
        """What happens between blocks, in words."""
        return self.global_.pattern

    def blocks(self, x: Tensor) -> Tensor:
        """The blocks of an embedding: ``(B, T, D)`` or ``(B, L)`` to ``(B, N, b)``."""
        return x.reshape(-1, self.num_blocks_mixed, self.block_size)

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens: inside blocks, then between them."""
        blocks = self.blocks(x_BL)
        mixed: Tensor = self.global_(blocks, self.local(blocks))
        return mixed.flatten(1)

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The generalised Kronecker product of both patterns, ``(L', L)``, or ``(B, L', L)`` if it depends on x."""
        with torch.no_grad():
            weights = self.global_.weights(None if x is None else self.blocks(x))
            return ops.unified_matrix(weights, self.local.matrix().to(weights))


class Discretizable(Unified):
    """A mixing whose matrices do not depend on the embedding, as :func:`~unimixer.mixing.discretize` needs.

    Example:
        >>> from unimixer.mixing import HeadUniMixing, UniMixing
        >>> [issubclass(kind, Discretizable) for kind in (UniMixing, HeadUniMixing, Unified)]
        [True, True, False]
    """

    def discretized(self, top_k: int | None) -> Unified:
        """Return a copy with constant matrices.

        Args:
            top_k: keep this many entries of every row of the matrices between blocks, scaled to sum to one again; None
                turns all matrices into their nearest permutations.
        """
        raise AssertionError("a subclass defines the copy")


class MatrixMixing(Discretizable):
    r"""Both patterns are matrices that do not depend on the embedding: two products over the batch.

    The base of UniMixing and UniMixing-Lite; with :class:`~unimixer.mixing.FixedLocal` and
    :class:`~unimixer.mixing.FixedGlobal` it is what they become once trained.

    .. math:: y = (G \otimes \{W_B^n\})\, x

    arXiv:2604.00590, "unified form".

    Args:
        local: pattern inside blocks, which keeps their width.
        global_: pattern between blocks, which does not depend on the embedding.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x

    Example:
        >>> from unimixer.mixing import IdentityLocal, LearnedGlobal
        >>> global_NN, local_Nbb = MatrixMixing(IdentityLocal(4, 2), LearnedGlobal(4)).weights()
        >>> global_NN.shape, local_Nbb.shape
        (torch.Size([4, 4]), torch.Size([1, 2, 2]))
    """

    def __init__(self, local: Local, global_: Global) -> None:
        if local.in_dim != local.out_dim or global_.depends_on_input or global_.num_heads != 1:
            raise UnimixerError(
                "MatrixMixing needs a local pattern that keeps the width of a block and a global one that does not "
                "depend on the embedding; Unified takes any pair"
            )
        super().__init__(local, global_)

    def weights(self) -> tuple[Tensor, Tensor]:
        """The global matrix ``(N, N)`` and the local ones, ``(N, b, b)`` or ``(1, b, b)``, after their constraints."""
        return self.global_.weights()[0], self.local.matrices()

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens, equal to the definition in :class:`Unified`, blocks first in memory."""
        global_NN, local_Nbb = self.weights()
        return ops.unimixing(x_BL, global_NN.to(x_BL.dtype), local_Nbb.to(x_BL.dtype))

    @property
    def temperature(self) -> Tensor:
        """Temperature of the constraint between blocks."""
        return self.global_.temperature  # type: ignore[return-value]

    def discretized(self, top_k: int | None) -> Unified:
        """Return a copy with constant matrices; local matrices stay as they are beside ``top_k`` entries."""
        global_NN, local_Nbb = self.weights()
        size, width = global_NN.shape[0], local_Nbb.shape[-1]
        if top_k is not None:
            local = FixedLocal(size, local_Nbb, self.local_pattern)
            return Unified(local, SparseGlobal(global_NN, min(top_k, size)))
        source = nearest_permutation(global_NN)
        # column j of a local matrix says which number of the old block becomes number j of the new one
        inside = torch.stack([nearest_permutation(matrix.T) for matrix in local_Nbb]).expand(size, width)
        order = (source.unsqueeze(1) * width + inside[source]).flatten()
        return Unified(IdentityLocal(size * width, 1), Permutation(order))
