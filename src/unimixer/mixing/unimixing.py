"""UniMixing with full matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unimixer.mixing.constrained import ConstrainedMixing
from unimixer.mixing.start import block_permutation, permutation_logits


class UniMixing(ConstrainedMixing):
    r"""Learned token mixing: a matrix inside every block, then one matrix between the blocks.

    .. math:: out = \bar W_G\, [x_1 \bar W_B^1; \dots; x_N \bar W_B^N]

    arXiv:2604.00590, "UniMixing". The paper is silent on the start: ``init="rule"`` starts from the permutation of
    TokenMixer (symmetric, since H = T there), ``"identity"`` from no mixing, ``"random"`` from normal numbers.

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
        - parameters: ``global_logits`` ``(N, N)``; ``local_logits`` ``(N, b, b)``, ``(1, b, b)`` where shared

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
        init: str = "rule",
        init_scale: float = 1.0,
        temperature: float = 0.1,
        symmetric: bool = True,
        doubly_stochastic: bool = True,
        local: str = "doubly_stochastic",
    ) -> None:
        super().__init__(
            length,
            block_size,
            temperature=temperature,
            symmetric=symmetric,
            doubly_stochastic=doubly_stochastic,
            local=local,
        )
        permutation = block_permutation(init, length, block_size, num_heads)
        num_blocks, num_local = self.num_blocks_mixed, 1 if local == "shared" else self.num_blocks_mixed
        self.global_logits = nn.Parameter(torch.empty(num_blocks, num_blocks))
        self.local_logits = nn.Parameter(torch.empty(num_local, block_size, block_size))
        with torch.no_grad():
            if permutation is None:
                self.global_logits.normal_(std=init_scale)
                self.local_logits.normal_(std=init_scale)
            else:
                self.global_logits.copy_(permutation_logits(permutation, init_scale))
                self.local_logits.copy_(torch.eye(block_size) * init_scale)
            if local == "free":  # not a logit: the identity itself
                self.local_logits.copy_(torch.eye(block_size))

    def raw_weights(self) -> tuple[Tensor, Tensor]:
        """The parameters."""
        return self.global_logits, self.local_logits

    @staticmethod
    def num_parameters(length: int, block_size: int, *, local: str = "doubly_stochastic") -> int:
        """Parameters of a mixing of these sizes."""
        num_blocks = length // block_size
        return num_blocks**2 + (1 if local == "shared" else num_blocks) * block_size**2
