"""UniMixing with full matrices."""

from __future__ import annotations

from torch import Tensor

from unimixer.errors import check_choice, check_divisible
from unimixer.mixing.initialization import block_permutation
from unimixer.mixing.learned import DoublyStochasticLocal, LearnedGlobal
from unimixer.mixing.unified import MatrixMixing

LOCALS = ("doubly_stochastic", "shared", "free")


class UniMixing(MatrixMixing):
    r"""Learned token mixing: a matrix inside every block, then one matrix between the blocks.

    .. math:: out = \bar W_G\, [x_1 \bar W_B^1; \dots; x_N \bar W_B^N]

    arXiv:2604.00590, "UniMixing". The paper is silent on the start: ``init="rule"`` starts from the permutation of
    TokenMixer (symmetric, since H = T there), ``"identity"`` from no mixing, ``"random"`` from normal numbers, and a
    tensor from that permutation of the blocks; one that is not its own inverse needs ``symmetric=False``.

    Args:
        length: T * D.
        block_size: width b of a block; with ``init="rule"`` it must divide a head, ``length / num_heads**2``.
        num_heads: heads of the rule, that is the number of tokens; needed by ``init="rule"`` only.
        init_scale: the raw value on the starting permutation (0 elsewhere), or the standard deviation of random raw
            values. What matters is ``init_scale / temperature``: it is what exp() gets.
        temperature: 1.0 is no temperature.
        symmetric: constrain to symmetric matrices.
        doubly_stochastic: constrain by Sinkhorn scaling; without it raw matrices mix, and temperature has no effect.
        local: ``"doubly_stochastic"``: one matrix a block, constrained like the global one; ``"shared"``: one matrix
            for all blocks, likewise; ``"free"``: one matrix a block, unconstrained.

    Shape:
        - x: ``(B, T, D)`` or ``(B, L)``; output: the shape of x
        - parameters: ``global_.logits`` ``(N, N)``; ``local.logits`` ``(N, b, b)``, ``(1, b, b)`` where shared

    Example:
        >>> mixing = UniMixing(length=4 * 16, block_size=2, num_heads=4)
        >>> mixing(torch.zeros(32, 4, 16)).shape
        torch.Size([32, 4, 16])
    """

    def __init__(
        self,
        length: int,
        block_size: int,
        *,
        num_heads: int | None = None,
        init: str | Tensor = "rule",
        init_scale: float = 1.0,
        temperature: float = 0.1,
        symmetric: bool = True,
        doubly_stochastic: bool = True,
        local: str = "doubly_stochastic",
    ) -> None:
        check_divisible("length", length, by="block_size", divisor=block_size)
        check_choice("local", local, LOCALS)
        permutation = block_permutation(init, length, block_size, num_heads)
        num_blocks = length // block_size
        constraints = {"temperature": temperature, "symmetric": symmetric, "doubly_stochastic": doubly_stochastic}
        between = LearnedGlobal(num_blocks, permutation, scale=init_scale, **constraints)  # type: ignore[arg-type]
        identity = permutation is not None
        inside = DoublyStochasticLocal(
            num_blocks, block_size, local, identity=identity, scale=init_scale, **constraints
        )
        super().__init__(inside, between)

    @staticmethod
    def num_parameters(length: int, block_size: int, *, local: str = "doubly_stochastic") -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return num_blocks**2 + (1 if local == "shared" else num_blocks) * block_size**2
