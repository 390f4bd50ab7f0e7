"""Dot products of tokens as features."""

from __future__ import annotations

import torch

from unimixer.blocks import PairProducts


def test_products_of_distinct_pairs_row_after_row() -> None:
    x = torch.randn(4, 5, 3)
    expected = torch.stack([(x[:, i] * x[:, j]).sum(1) for i in range(5) for j in range(i)], 1)
    products = PairProducts(5)
    assert products.out_dim == 10
    torch.testing.assert_close(products(x), expected)
    assert products.state_dict() == {}


def test_with_self_interaction_squares_are_among_them() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert PairProducts(2, self_interaction=True)(x).tolist() == [[5.0, 11.0, 25.0]]


def test_one_token_has_no_pair() -> None:
    assert PairProducts(1)(torch.zeros(2, 1, 3)).shape == (2, 0)
