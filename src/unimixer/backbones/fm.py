"""Factorization machine: first-order weights and products of all pairs of fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.blocks import PerTokenLinear
from unimixer.errors import UnimixerError, check_positive


def pairwise_products(factors: Tensor) -> Tensor:
    r"""Sum over all pairs of tokens of their elementwise product, in time linear in the number of tokens.

    .. math:: \sum_{i < j} v_i \odot v_j = \tfrac{1}{2} \Big[ \big( \sum_i v_i \big)^2 - \sum_i v_i^2 \Big]

    The difference of two squares is taken in float32 (or wider) whatever the input.

    Shape:
        - factors: ``(B, T, k)``; output: ``(B, k)``

    Example:
        >>> pairwise_products(torch.tensor([[[1.0], [2.0], [3.0]]]))  # 1*2 + 1*3 + 2*3
        tensor([[11.]])
    """
    wide = factors if factors.dtype == torch.float64 else factors.float()
    return 0.5 * (wide.sum(1).square() - wide.square().sum(1))


@dataclass(frozen=True, kw_only=True)
class FMOptions(FieldShape):
    """Keyword arguments of :class:`FM`; their meaning is there."""

    num_factors: int | None = None
    first_order: bool = True


class FM(FieldBackbone):
    r"""The terms of a factorization machine, one token a field.

    .. math:: y = b + \sum_i w_i x_i + \tfrac{1}{2} \sum_k
              \Big[ \big( \sum_i v_{ik} \big)^2 - \sum_i v_{ik}^2 \Big]

    Rendle, "Factorization Machines" (ICDM 2010). The first number of a token is its first-order weight :math:`w_i x_i`,
    the others are its factors :math:`v_i`, so both live in the embedding table. The output keeps the sum of the weights
    and the k products apart: a linear tower with unit weights and bias b is exactly the equation, and several tasks may
    weigh the terms each in their own way.

    A factorization machine has no dense parameter. ``num_factors`` adds one bias-free linear map a field from the
    factors to as many new ones, hence a matrix :math:`M_i^T M_j` between the factors of fields i and j. This is ours,
    so that the model has a size; beyond ``T * (D - 1)`` factors a linear tower of one task gains nothing more.

    Args:
        num_tokens: T, one token a field.
        token_dim: D.
        num_factors: k, through a linear map a field; None takes the tokens' own numbers and has no parameters.
        first_order: the first number of a token is its first-order weight; False takes all D as factors.

    Shape:
        - tokens: ``(B, T, D)``
        - output: ``(B, 1 + k)``, the first-order sum and the products; ``(B, k)`` without first order

    Example:
        >>> FM(num_tokens=2, token_dim=3)(torch.tensor([[[0.5, 1.0, 2.0], [0.25, 3.0, 4.0]]]))
        tensor([[0.7500, 3.0000, 8.0000]])
    """

    Options: ClassVar[Any] = FMOptions
    family: ClassVar[str] = "fm"
    global_pattern: ClassVar[str] = "products of all pairs of tokens"

    def __init__(self, **options: Any) -> None:
        chosen = FMOptions(**options)
        check_positive(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim)
        columns = chosen.token_dim - int(chosen.first_order)
        if columns == 0:
            raise UnimixerError(
                "token_dim=1 leaves no factor beside the first-order weight; take token_dim=2 or more, or "
                "first_order=False"
            )
        if chosen.num_factors is not None:
            check_positive(num_factors=chosen.num_factors)
        out_dim = int(chosen.first_order) + (columns if chosen.num_factors is None else chosen.num_factors)
        super().__init__(num_tokens=chosen.num_tokens, token_dim=chosen.token_dim, out_dim=out_dim)
        self.first_order = chosen.first_order
        self.factors = (
            None
            if chosen.num_factors is None
            else PerTokenLinear(chosen.num_tokens, columns, chosen.num_factors, bias=False)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Sum the weights and multiply the pairs."""
        self.check_tokens(tokens)
        factors = tokens[..., 1:] if self.first_order else tokens
        products = pairwise_products(factors if self.factors is None else self.factors(factors))
        if not self.first_order:
            return products
        first = tokens[..., :1].to(products.dtype).sum(1)
        return torch.cat([first, products], dim=-1)

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        """No parameter at all, or one map of T slices from the factors of a token to k."""
        chosen = FMOptions(**arguments)
        columns = chosen.token_dim - chosen.first_order
        return chosen.num_tokens * columns * int(chosen.num_factors or 0)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """``width ** 2 / 16`` factors, so that parameters grow with the square of ``width`` as in other models."""
        return {"token_dim": 16 if token_dim is None else token_dim, "num_factors": max(1, round(width**2 / 16))}
