"""UniMixing with a matrix a head: the definition, the start from the rule, constraints, constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_paper_table import SIZES, assert_row_holds
from torch import Tensor

from unimixer import ops
from unimixer.backbones import UniMixerLite
from unimixer.errors import UnimixerError
from unimixer.mixing import HeadUniMixing, discretize, freeze, set_temperature


@SIZES
@given(num_tokens=st.integers(1, 5), heads=st.integers(1, 4), head_dim=st.integers(1, 3), symmetric=st.booleans())
def test_every_head_is_a_product_with_its_constrained_matrix(
    num_tokens: int, heads: int, head_dim: int, symmetric: bool
) -> None:
    width = heads * head_dim
    mixing = HeadUniMixing(num_tokens, width, num_heads=heads, symmetric=symmetric, temperature=0.7)

    def textbook(x: Tensor) -> Tensor:
        matrices = ops.sinkhorn(mixing.global_.logits, tau=mixing.global_.temperature, symmetric=symmetric)
        rows = []
        for m in range(num_tokens):
            slices = [
                sum(matrices[h, m, n] * x[n, h * head_dim : (h + 1) * head_dim] for n in range(num_tokens))
                for h in range(heads)
            ]
            rows.append(torch.cat(slices))
        return torch.stack(rows)

    assert_row_holds(mixing, textbook, num_tokens, width)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_start_is_the_rule_up_to_the_order_of_heads_inside_tokens(symmetric: bool) -> None:
    tokens, width = 5, 10
    mixing = HeadUniMixing(tokens, width, symmetric=symmetric)
    set_temperature(mixing, 0.01)  # sharp: the permutation itself
    x = torch.randn(3, tokens, tokens, 2)  # (B, T, H, c)
    token, place = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
    # head h of token n reads head h of token h - n, or of token n + h
    before = x[:, token, (token + place if symmetric else token - place) % tokens]
    ruled = ops.token_mixing(before.flatten(2), tokens).unflatten(2, (tokens, 2))
    after = ruled[:, token, (place - token if symmetric else place + token) % tokens]
    torch.testing.assert_close(mixing(x.flatten(2)), after.flatten(2))


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 9),
    heads=st.integers(1, 6),
    seed=st.integers(0, 99),
    tau=st.sampled_from([1.0, 0.05]),
    symmetric=st.booleans(),
)
def test_matrices_are_doubly_stochastic_and_symmetric(
    tokens: int, heads: int, seed: int, tau: float, symmetric: bool
) -> None:
    torch.manual_seed(seed)
    mixing = HeadUniMixing(
        tokens, heads * 2, num_heads=heads, init="random", init_scale=1.0, temperature=tau, symmetric=symmetric
    )
    matrices = mixing.global_.weights()
    assert matrices.shape == (heads, tokens, tokens)
    assert matrices.min() >= 0
    for axis in (-1, -2):
        torch.testing.assert_close(matrices.sum(axis), torch.ones(heads, tokens), atol=1e-4, rtol=0)
    assert not symmetric or torch.equal(matrices, matrices.mT)


def test_the_start_gives_every_other_token_a_known_weight_and_every_entry_a_gradient() -> None:
    mixing = HeadUniMixing(16, 64)
    matrices, other = mixing.global_.weights(), torch.exp(torch.tensor(-0.5 / 0.1)).item()
    share = 1 / (1 + 15 * other)  # of the token that a head reads, .908
    torch.testing.assert_close(matrices.amax(-1), torch.full((16, 16), share))
    torch.testing.assert_close(matrices.amin(-1), torch.full((16, 16), other * share))
    mixing(torch.randn(256, 16, 64)).square().mean().backward()
    assert mixing.global_.logits.grad.abs().median() > 1e-6  # Adam's eps is 1e-8


@pytest.mark.parametrize("constraint", ["sinkhorn", "free", "unit-rows"])
def test_constants_equal_the_mixing(constraint: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"constraint": constraint, "symmetric": constraint != "unit-rows"}
    mixing, x = HeadUniMixing(6, 12, num_heads=3, init="random", init_scale=0.1, **options), torch.randn(70, 6, 12)
    torch.testing.assert_close(freeze(mixing)(x), mixing(x))
    torch.testing.assert_close(discretize(mixing, "top-6")(x), mixing(x))
    kept = discretize(mixing, "top-2").mixing_matrix()
    assert ((kept != 0).sum(1) == 2).all()


def test_a_sharp_mixing_discretizes_to_a_move_of_numbers() -> None:
    torch.manual_seed(0)
    mixing = HeadUniMixing(6, 12, num_heads=3, init="random", init_scale=1.0, temperature=0.002, symmetric=False)
    moved, x = discretize(mixing, "permutation"), torch.randn(70, 6, 12)
    assert moved.global_pattern == "fixed permutation"
    torch.testing.assert_close(moved(x), mixing(x), atol=1e-3, rtol=0)
    assert torch.equal(moved(x).sort(1).values, x.sort(1).values)  # every number of the input, in its place in a token


def test_identity_start() -> None:
    mixing, x = HeadUniMixing(4, 8, init="identity", init_scale=1.0, temperature=0.02), torch.randn(2, 4, 8)
    torch.testing.assert_close(mixing(x), x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"matrices": "rows"}, "matrices='rows' is not one of blocks, heads"),
        ({"matrices": "heads", "block_size": 2}, "block_size=2 has no use with matrices='heads'; leave it out, or"),
        ({"rank": 16}, "rank=16 has no use with matrices='heads'"),  # also with the value of the other form's default
        ({"matrices": "heads", "gate": 0.5}, "gate=0.5 has no use with matrices='heads'"),
        ({"matrices": "heads", "num_heads": 3}, "token_dim=16 must be divisible by num_heads=3"),
        ({"matrices": "heads", "init": "orthogonal"}, "init='orthogonal' is not one of rule, identity, random"),
        ({"matrices": "heads", "constraint": "kronecker"}, "constraint='kronecker' is not one of sinkhorn, free, unit"),
    ],
)
def test_options_that_have_no_use_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnimixerError, match=sentence):
        UniMixerLite(num_tokens=4, token_dim=16, **options)
