"""Sums of patterns: the sum of outputs, and of matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_paper_table import assert_row_holds, attend, normal
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.mixing import FactorizationMixing, SharedLinear, SoftmaxAttention, Sum, TokenMixing, Unified

T, D = 3, 6


def rule(x: Tensor) -> Tensor:
    width = D // T
    return torch.stack([torch.cat([token[h * width : (h + 1) * width] for token in x]) for h in range(T)])


def test_the_rule_plus_fm_rows_equals_its_formula() -> None:
    mixing: Any = Sum(TokenMixing(T, D), FactorizationMixing(T, D, D))

    def textbook(x: Tensor) -> Tensor:
        y = mixing.second.local.values
        rows = torch.stack([sum(torch.dot(a, b) * y[j] for j, b in enumerate(x)) for a in x])
        return rule(x) + mixing.scale * rows

    assert_row_holds(mixing, textbook, T, D)


def test_the_rule_plus_attention_equals_its_formula() -> None:
    value, query, key = (SharedLinear(T, D, D) for _ in range(3))
    mixing: Any = Sum(TokenMixing(T, D), Unified(value, SoftmaxAttention(query, key, num_heads=2)))

    def textbook(x: Tensor) -> Tensor:
        queries, keys, values = ([t @ part.weight for t in x] for part in (query, key, value))
        return rule(x) + mixing.scale * attend(queries, keys, values, 2)

    assert_row_holds(mixing, textbook, T, D)


def test_tokens_and_flat_tokens_and_a_sum_of_three() -> None:
    inner = Sum(TokenMixing(T, D), TokenMixing(T, D), scale=0.5)
    mixing, x = Sum(inner, TokenMixing(T, D), scale=2.0), normal(2, T, D).float()
    torch.testing.assert_close(mixing(x), 3.5 * TokenMixing(T, D)(x))
    assert torch.equal(mixing(x.flatten(1)), mixing(x).flatten(1))
    assert mixing.global_pattern == "fixed permutation + fixed permutation + fixed permutation"
    torch.testing.assert_close(mixing.mixing_matrix(), 3.5 * TokenMixing(T, D).mixing_matrix())


def test_unlike_lengths_are_refused() -> None:
    with pytest.raises(UnimixerError, match="the mixings of a sum have lengths 4 and 9; make them equal"):
        Sum(TokenMixing(2, 2), TokenMixing(3, 3))
