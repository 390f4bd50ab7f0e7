"""UniMixing with full matrices, UniMixing-Lite with a shared basis and a low rank, UniMixing with a matrix a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimixer import ops
from unimixer.errors import UnimixerError, check_choice, check_divisible, check_shape
from unimixer.mixing.constraint import GENERATED, Constraint
from unimixer.mixing.fixed_patterns import FixedGlobal, SparseGlobal, nearest_permutation
from unimixer.mixing.generated import generated, generated_parameters
from unimixer.mixing.global_patterns import Permutation
from unimixer.mixing.initialization import block_permutation
from unimixer.mixing.learned import BasisLocal, ConstrainedGlobal, DoublyStochasticLocal, LearnedGlobal, LowRankGlobal
from unimixer.mixing.local_patterns import IdentityLocal
from unimixer.mixing.per_head import ConstrainedHeads
from unimixer.mixing.unified import Discretizable, MatrixMixing, Unified

LOCALS = ("doubly_stochastic", "shared", "free")
HEAD_CONSTRAINTS = ("sinkhorn", "free", "unit-rows")
"""Constraints on the matrices of heads."""


@dataclass(frozen=True)
class UniMixingOptions:
    """Keyword arguments of :class:`UniMixing`; their meaning is there."""

    num_heads: int | None = None
    init: str | Tensor = "rule"
    init_scale: float = 1.0
    temperature: float = 0.1
    symmetric: bool = True
    constraint: str = "sinkhorn"
    gate: float | None = None
    range_cap: float | None = None
    num_permutations: int = 16
    local: str = "doubly_stochastic"

    def on_matrices(self) -> Constraint:
        """The constraint on the matrices."""
        return Constraint(self.temperature, self.symmetric, self.constraint, self.gate, self.range_cap)

    def permutations(self, length: int, block_size: int) -> tuple[Tensor | None, Tensor | None]:
        """The permutation of the blocks to start from, None for a drawn start, and that of the constraint.

        A drawn start has the rule as permutation of its constraint. Raises for invalid sizes.
        """
        check_divisible("length", length, by="block_size", divisor=block_size)
        check_choice("local", self.local, LOCALS)
        start = block_permutation(self.init, length, block_size, self.num_heads)
        constraint = self.on_matrices()
        if start is not None:
            return start, start if constraint.surrounds_permutation or constraint.kind == "orthogonal" else None
        if self.init == "orthogonal" and (constraint.kind not in ("free", "unit-rows") or self.symmetric):
            raise UnimixerError(
                "init='orthogonal' is a start of matrices that may be orthogonal: set symmetric: false and constraint "
                "'free' or 'unit-rows'; or choose init 'rule', 'identity' or 'random'"
            )
        rule = (
            block_permutation("rule", length, block_size, self.num_heads) if constraint.surrounds_permutation else None
        )
        return None, rule

    def inside_parameters(self, num_blocks: int, own: int) -> int:
        """Parameters of the matrices inside blocks, with ``own`` for every one, and of the gates."""
        gates = 0 if self.gate is None else 1 + (self.local != "free")
        return (1 if self.local == "shared" else num_blocks) * own + gates


@dataclass(frozen=True)
class UniMixingLiteOptions(UniMixingOptions):
    """Keyword arguments of :class:`UniMixingLite`; their meaning is there."""

    rank: int = 16
    num_basis: int = 4

    def check_rank(self) -> None:
        """Raise where the matrix between blocks has no form of low rank."""
        if self.constraint in GENERATED:
            raise UnimixerError(
                f"constraint={self.constraint!r} has no raw matrix of low rank; set rank: null, or take "
                "backbone unimixer"
            )
        permuted = isinstance(self.init, Tensor) or self.init in ("rule", "identity")
        if self.init == "orthogonal" or (self.constraint == "unit-rows" and permuted):
            raise UnimixerError(
                f"init={self.init!r} is no matrix of low rank with constraint={self.constraint!r}; choose init "
                "'random', or set rank: null, or take backbone unimixer"
            )


class UniMixing(MatrixMixing):
    r"""Learned token mixing: a matrix inside every block, then one matrix between the blocks.

    .. math:: out = \bar W_G\, [x_1 \bar W_B^1; \dots; x_N \bar W_B^N]

    arXiv:2604.00590, "UniMixing". The paper is silent on the start: ``init="rule"`` starts from the permutation of
    TokenMixer (symmetric, since H = T there), ``"identity"`` from no mixing, ``"random"`` from normal numbers,
    ``"orthogonal"`` from a random orthogonal matrix, and a tensor from that permutation of the blocks; one that is not
    its own inverse needs ``symmetric=False``.

    Args:
        length: T * D.
        block_size: width b of a block; with ``init="rule"`` it must divide a head, ``length / num_heads**2``.
        num_heads: heads of the rule, that is the number of tokens; needed by ``init="rule"`` only.
        init_scale: the raw value on the starting permutation (0 elsewhere), or the standard deviation of random raw
            values. What matters is ``init_scale / temperature``: it is what exp() gets.
        temperature: 1.0 is no temperature; it has an effect on doubly stochastic matrices only.
        symmetric: constrain to symmetric matrices.
        constraint: ``"sinkhorn"``: doubly stochastic by Sinkhorn scaling; ``"permutations"``, ``"kronecker"``: between
            blocks a doubly stochastic matrix that few numbers generate, see :class:`PermutationSum` and
            :class:`KroneckerGlobal`, inside blocks Sinkhorn; ``"unit-rows"``: rows of unit L2 norm; ``"orthogonal"``:
            the starting permutation times Cayley's transform of the raw matrix; ``"free"``: the raw matrix.
        gate: start of a learned number a in (0, 1): matrices between blocks are ``(1 - a)`` times the starting
            permutation (of a drawn start, the rule) plus a times the constrained matrix; inside blocks the same with
            the identity. None for no gate.
        range_cap: scale raw matrices down until the entries of what Sinkhorn gets differ by at most this much.
        num_permutations: permutations of the constraint ``"permutations"``.
        local: ``"doubly_stochastic"``: one matrix a block, constrained like the global one; ``"shared"``: one matrix
            for all blocks, likewise; ``"free"``: one matrix a block, unconstrained.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_.logits`` ``(N, N)``; ``local.logits`` ``(N, b, b)``, ``(1, b, b)`` where shared

    Example:
        >>> import torch
        >>> mixing = UniMixing(length=4 * 16, block_size=2, num_heads=4)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(self, length: int, block_size: int, **options: Any) -> None:
        chosen = UniMixingOptions(**options)
        start, around = chosen.permutations(length, block_size)
        num_blocks, scale, constraint = length // block_size, chosen.init_scale, chosen.on_matrices()
        between: ConstrainedGlobal
        if constraint.kind in GENERATED:
            assert around is not None
            between = generated(
                around, chosen.num_permutations, drawn=start is None, scale=scale, constraint=constraint
            )
        else:
            orthogonal = chosen.init == "orthogonal"
            between = LearnedGlobal(
                num_blocks, start, scale=scale, constraint=constraint, around=around, orthogonal=orthogonal
            )
        inside = DoublyStochasticLocal(
            num_blocks, block_size, chosen.local, identity=chosen.init != "random", scale=scale, constraint=constraint
        )
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(length: int, block_size: int, **options: Any) -> int:
        """Parameters of a mixing of these sizes, with the keyword arguments of the constructor."""
        chosen, num_blocks = UniMixingOptions(**options), length // block_size
        between = num_blocks**2
        if chosen.constraint in GENERATED:
            between = generated_parameters(num_blocks, chosen.num_permutations, chosen.on_matrices())
        return between + chosen.inside_parameters(num_blocks, block_size**2)


class UniMixingLite(MatrixMixing):
    r"""UniMixing with few parameters: :math:`2 N r + n_b b^2 + N n_b` instead of :math:`N^2 + N b^2`.

    .. math:: \bar W_G = \mathrm{Sinkhorn}(A_G B_G), \qquad
              \bar W_B^i = \mathrm{Sinkhorn}(\textstyle\sum_l \omega_l^i Z_l)

    arXiv:2604.00590, "UniMixing-Lite"; symmetry and temperature enter as in UniMixing.

    Args:
        length: T * D.
        block_size: width b of a block.
        rank: r; to start from a permutation of N blocks it must be at least 3.
        num_basis: number of basis matrices.
        num_heads: as in UniMixing.
        init: ``"rule"``, ``"identity"``, ``"random"``, or a permutation of the blocks.
        init_scale: multiplies the margin of a starting permutation, or is the standard deviation of random logits.
        temperature: as in UniMixing, like ``symmetric``, ``gate`` and ``range_cap``.
        constraint: as in UniMixing, but for ``"permutations"`` and ``"kronecker"``, which have no low rank.
        local: as in UniMixing; ``"shared"`` gives all blocks the same coefficients.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_.left`` ``(N, r)``, ``global_.right`` ``(r, N)``, ``local.basis`` ``(num_basis, b, b)``,
          ``local.coefficients`` ``(N, num_basis)``

    Example:
        >>> import torch
        >>> mixing = UniMixingLite(length=4 * 16, block_size=2, rank=8, num_basis=2, num_heads=4)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(self, length: int, block_size: int, **options: Any) -> None:
        chosen = UniMixingLiteOptions(**options)
        start, around = chosen.permutations(length, block_size)
        num_blocks, scale, constraint = length // block_size, chosen.init_scale, chosen.on_matrices()
        chosen.check_rank()
        between = LowRankGlobal(num_blocks, chosen.rank, start, scale=scale, constraint=constraint, around=around)
        sizes = (num_blocks, block_size, chosen.num_basis)
        identity = start is not None
        inside = BasisLocal(*sizes, chosen.local, identity=identity, scale=scale, constraint=constraint)
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(length: int, block_size: int, **options: Any) -> int:
        """Parameters of a mixing of these sizes, with the keyword arguments of the constructor."""
        chosen, num_blocks = UniMixingLiteOptions(**options), length // block_size
        factors, basis = 2 * num_blocks * chosen.rank, chosen.num_basis * block_size**2
        return factors + basis + chosen.inside_parameters(num_blocks, chosen.num_basis)


@dataclass(frozen=True)
class HeadUniMixingOptions:
    """Keyword arguments of :class:`HeadUniMixing`; their meaning is there."""

    num_heads: int | None = None
    init: str = "rule"
    init_scale: float = 0.5
    temperature: float = 0.1
    symmetric: bool = False
    constraint: str = "sinkhorn"
    range_cap: float | None = None


class HeadUniMixing(Discretizable):
    r"""UniMixing with a matrix between tokens for every head, :math:`H T^2` parameters.

    .. math:: out^h = \bar W_h\, x^h, \qquad \bar W_h = \mathrm{Sinkhorn}(W_h / \tau), \qquad h = 1, \dots, H

    :math:`x^h` is head h of every token, ``(T, D / H)``. This is UniMixing (arXiv:2604.00590) with a :math:`W_G` that
    keeps every block in its head, and without matrices inside blocks; it is ours. A matrix between all T H blocks costs
    H times the products, and started from the rule it has hardly a gradient.
    With ``init="rule"`` and H = T each token starts with one head of every token, as by the rule of TokenMixer; the
    weight of every other token is :math:`\exp(-s / \tau)` of that, s being ``init_scale``.

    Args:
        num_tokens: T.
        token_dim: D.
        num_heads: H, a divisor of D (default T).
        init: ``"rule"``, ``"identity"`` or ``"random"``, see :class:`~unimixer.mixing.ConstrainedHeads`.
        init_scale: the raw value on the starting permutations, or the standard deviation of random raw values.
        temperature: :math:`\tau`.
        symmetric: constrain to symmetric matrices. Two tokens that exchange a head then have the same sum there after
            the residual, which loses half of what they exchange.
        constraint: ``"sinkhorn"``, ``"free"`` or, without symmetry, ``"unit-rows"``, as in :class:`UniMixing`.
        range_cap: as in :class:`UniMixing`.

    Shape:
        - x: ``(B, T, D)`` or ``(B, T * D)``; output: the shape of x
        - parameter: ``global_.logits`` ``(H, T, T)``

    Example:
        >>> import torch
        >>> mixing = HeadUniMixing(num_tokens=4, token_dim=16, num_heads=2)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(self, num_tokens: int, token_dim: int, **options: Any) -> None:
        chosen = HeadUniMixingOptions(**options)
        num_heads = num_tokens if chosen.num_heads is None else chosen.num_heads
        check_divisible("token_dim", token_dim, by="num_heads", divisor=num_heads)
        check_choice("constraint", chosen.constraint, HEAD_CONSTRAINTS)
        constraint = Constraint(chosen.temperature, chosen.symmetric, chosen.constraint, range_cap=chosen.range_cap)
        between = ConstrainedHeads(num_tokens, num_heads, chosen.init, scale=chosen.init_scale, constraint=constraint)
        super().__init__(IdentityLocal(num_tokens, token_dim), between)

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens, equal to the definition in :class:`Unified`, heads as whole rows."""
        return ops.head_unimixing(x_BL, self.global_.weights().to(x_BL.dtype))

    def discretized(self, top_k: int | None) -> Unified:
        """Return a copy with constant matrices."""
        heads = self.global_.weights()
        num_heads, num_tokens = heads.shape[:2]
        if top_k is not None:
            matrices = [SparseGlobal(matrix, min(top_k, num_tokens)).weights()[0] for matrix in heads]
            pattern = f"constant, {top_k} entries a row, own for every head"
            return Unified(self.local, FixedGlobal(torch.stack(matrices), pattern))
        sources = torch.stack([nearest_permutation(matrix) for matrix in heads], dim=1)
        order = (sources * num_heads + torch.arange(num_heads, device=sources.device)).flatten()
        return Unified(IdentityLocal(num_tokens * num_heads, self.block_size // num_heads), Permutation(order))

    def normed_sum(self, tokens: Tensor, norm: ops.Norm) -> Tensor:
        """The norm of the tokens plus :meth:`forward` of them."""
        check_shape("tokens", tokens, (None, self.num_blocks_mixed, self.block_size))
        return ops.mixed_norm(tokens, self.global_.weights().to(tokens.dtype), norm)
