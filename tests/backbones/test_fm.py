"""The factorization machine against the double loop over pairs."""

import re
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import DLRM, FM, build_backbone, count_parameters, fit_budget
from unimixer.backbones.fm import pairwise_products
from unimixer.errors import UnimixerError

T, D = 5, 4


def tokens(batch: int = 3, token_dim: int = D) -> Tensor:
    return torch.randn(batch, T, token_dim, dtype=torch.float64, requires_grad=True)


def textbook(weights: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """One row's logit from first-order weights (T,) and factors (T, k): two loops, no identity of squares."""
    logit = bias + sum(weights[i] for i in range(len(weights)))
    for i, j in combinations(range(len(factors)), 2):
        logit = logit + sum(factors[i, k] * factors[j, k] for k in range(factors.shape[1]))
    return logit


def unit_tower(width: int) -> nn.Linear:
    tower = nn.Linear(width, 1).double()
    nn.init.ones_(tower.weight)
    return tower


def test_a_linear_tower_with_unit_weights_is_the_equation_outputs_and_gradients() -> None:
    x, backbone, tower = tokens(), FM(num_tokens=T, token_dim=D), unit_tower(D)
    logits = tower(backbone(x)).squeeze(1)
    expected = torch.stack([textbook(row[:, 0], row[:, 1:], tower.bias[0]) for row in x])
    torch.testing.assert_close(logits, expected)
    upstream = torch.randn(3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(logits, x, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(gradient, expected_gradient)


def test_without_first_order_all_columns_are_factors() -> None:
    x, backbone = tokens(), FM(num_tokens=T, token_dim=D, first_order=False)
    assert backbone.out_dim == D
    nothing = torch.zeros(T, dtype=torch.float64)
    expected = torch.stack([textbook(nothing, row, nothing[0]) for row in x])
    torch.testing.assert_close(backbone(x).sum(1), expected)


@pytest.mark.parametrize("first_order", [True, False])
def test_new_factors_come_from_one_linear_map_a_field(first_order: bool) -> None:
    x = tokens()
    backbone = FM(num_tokens=T, token_dim=D, num_factors=6, first_order=first_order).double()
    assert backbone.factors is not None
    maps = backbone.factors.weight
    rows = []
    for row in x:
        factors = torch.stack([row[t, int(first_order) :] @ maps[t] for t in range(T)])
        weights = row[:, 0] if first_order else torch.zeros(T, dtype=torch.float64)
        rows.append(textbook(weights, factors, torch.zeros((), dtype=torch.float64)))
    torch.testing.assert_close(backbone(x).sum(1), torch.stack(rows))


def test_maps_that_change_nothing_give_the_plain_machine() -> None:
    x, backbone = tokens(), FM(num_tokens=T, token_dim=D, num_factors=D - 1).double()
    assert backbone.factors is not None
    with torch.no_grad():
        backbone.factors.weight.copy_(torch.eye(D - 1).expand(T, -1, -1))
    torch.testing.assert_close(backbone(x), FM(num_tokens=T, token_dim=D)(x))


def test_a_product_of_three_fields_by_hand() -> None:
    x = torch.tensor([[[10.0, 1.0, -1.0], [20.0, 2.0, 0.0], [30.0, 3.0, 5.0]]])
    assert FM(num_tokens=3, token_dim=3)(x).tolist() == [[60.0, 2 + 3 + 6, -5.0]]


def test_the_difference_of_squares_is_taken_in_float32_for_half_precision() -> None:
    factors = torch.tensor([[[256.0], [0.0]]], dtype=torch.bfloat16).repeat(1, 1, 3)
    factors[0, 1] = 1.0  # 256 + 1 = 256 in bfloat16, which would leave no product
    assert pairwise_products(factors).tolist() == [[256.0] * 3]


def test_one_field_has_no_pair() -> None:
    assert FM(num_tokens=1, token_dim=3)(torch.ones(2, 1, 3)).tolist() == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.parametrize(
    "options", [{}, {"first_order": False}, {"num_factors": 7}, {"num_factors": 9, "first_order": False}]
)
def test_the_formula_counts_the_parameters(options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": D, **options}
    assert FM.formula(**arguments) == count_parameters(FM(**arguments))


def test_the_plain_machine_has_no_parameter_and_the_dial_grows_the_factors() -> None:
    assert FM.formula(num_tokens=T, token_dim=D) == 0
    backbone = fit_budget("fm", params=100_000, num_tokens=16, token_dim=8)
    assert isinstance(backbone, FM)
    assert backbone.factors is not None
    assert backbone.out_dim == 1 + backbone.factors.weight.shape[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_dim": 1}, "token_dim=1 leaves no factor beside the first-order weight; take token_dim=2 or more"),
        ({"num_factors": 0}, "num_factors=0 must be greater than 0"),
        ({"num_tokens": 0}, "num_tokens=0 must be greater than 0"),
    ],
)
def test_mistakes_name_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone("fm", **{"num_tokens": T, "token_dim": D, **options})


def test_the_products_are_the_sums_over_dlrms_pairs() -> None:
    x = tokens()
    dots = DLRM(num_tokens=T, token_dim=D - 1, bottom=False, top_dims=())(x[..., 1:])[:, T * (D - 1) :]
    torch.testing.assert_close(FM(num_tokens=T, token_dim=D)(x)[:, 1:].sum(1), dots.sum(1))
