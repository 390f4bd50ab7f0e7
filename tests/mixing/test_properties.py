"""Properties that arXiv:2604.00590 claims of mixings, each over random sizes."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimixer import ops
from unimixer.mixing import (
    BlockLinear,
    GramMatrix,
    MatrixMixing,
    SharedLinear,
    SoftmaxAttention,
    TokenMixing,
    Unified,
    UniMixing,
    UniMixingLite,
    set_temperature,
)

KINDS = st.sampled_from(["full", "lite"])
small = st.integers(1, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_mixing(kind: str, num_blocks: int, block_size: int, seed: int, **options: Any) -> MatrixMixing:
    torch.manual_seed(seed)
    options = {"init": "random", **options}
    if kind == "lite":
        return UniMixingLite(num_blocks * block_size, block_size, rank=3, num_basis=2, **options)
    return UniMixing(num_blocks * block_size, block_size, **options)


@settings(max_examples=60, deadline=None)
@given(kind=KINDS, num_blocks=st.integers(1, 40), block_size=small, seed=st.integers(0, 999), symmetric=st.booleans())
def test_rows_and_columns_sum_to_one_at_low_temperature(
    kind: str, num_blocks: int, block_size: int, seed: int, symmetric: bool
) -> None:
    mixing = random_mixing(kind, num_blocks, block_size, seed, temperature=0.05, symmetric=symmetric)
    for weight in mixing.weights():
        assert weight.dtype == torch.float32
        for axis in (-1, -2):
            assert (weight.sum(axis) - 1).abs().max() < 1e-4
        assert weight.min() >= 0
        assert not symmetric or torch.equal(weight, weight.mT)  # to the last bit


@settings(max_examples=30, deadline=None)
@given(kind=KINDS, num_blocks=st.integers(1, 16), block_size=small, seed=st.integers(0, 999))
def test_mixing_keeps_the_sum_over_blocks_and_never_grows_the_norm(
    kind: str, num_blocks: int, block_size: int, seed: int
) -> None:
    mixing, x = random_mixing(kind, num_blocks, block_size, seed), normal(4, num_blocks * block_size, seed=seed)
    torch.testing.assert_close(mixing(x).sum(1), x.sum(1), atol=1e-3, rtol=1e-3)  # columns sum to one, both patterns
    assert (mixing(x).norm(dim=1) <= x.norm(dim=1) * (1 + 1e-3)).all()  # no singular value above one
    ones = torch.ones(2, num_blocks * block_size)
    torch.testing.assert_close(mixing(ones), ones, atol=1e-3, rtol=0)  # rows sum to one


@settings(max_examples=25, deadline=None)
@given(kind=KINDS, heads=st.integers(1, 4), head_dim=small)
def test_falling_temperature_ends_in_the_permutation(kind: str, heads: int, head_dim: int) -> None:
    length = heads * heads * head_dim
    options: dict[str, Any] = {"num_heads": heads, "init": "rule"}
    mixing = UniMixing(length, head_dim, **options)
    if kind == "lite":
        mixing = UniMixingLite(length, head_dim, rank=6, **options)
    x = normal(3, heads, heads * head_dim)
    expected, errors = ops.token_mixing(x, heads), []
    for tau in (1.0, 0.3, 0.1, 0.05):
        set_temperature(mixing, tau)
        errors.append((mixing(x) - expected).abs().max().item())
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-4


@settings(max_examples=40, deadline=None)
@given(num_tokens=small, num_heads=small, head_dim=small)
def test_mixing_and_reverting_is_the_identity_for_any_number_of_heads(
    num_tokens: int, num_heads: int, head_dim: int
) -> None:
    mixing, x = TokenMixing(num_tokens, num_heads * head_dim, num_heads), normal(3, num_tokens, num_heads * head_dim)
    mixed = mixing(x)
    assert mixed.shape == (3, num_heads, num_tokens * head_dim)
    assert torch.equal(mixing.inverse()(mixed), x)
    matrix = mixing.mixing_matrix()
    assert torch.equal(matrix @ matrix.T, torch.eye(len(matrix)))  # a permutation: one 1 in every row and column
    assert torch.equal(mixing.inverse().mixing_matrix(), matrix.T)
    assert num_tokens != num_heads or torch.equal(matrix, matrix.T)


def test_mixing_alone_is_no_involution_where_heads_are_not_tokens() -> None:
    mixing, x = TokenMixing(3, 8, 2), normal(2, 24)
    assert not torch.equal(mixing(mixing(x)), x)
    assert not torch.equal(mixing.mixing_matrix(), mixing.mixing_matrix().T)


@settings(max_examples=25, deadline=None)
@given(num_tokens=small, heads=st.integers(1, 3), head_dim=small, seed=st.integers(0, 999))
def test_self_attention_moves_with_its_tokens(num_tokens: int, heads: int, head_dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    width = heads * head_dim
    value, query, key = (SharedLinear(num_tokens, width, width) for _ in range(3))
    attention = Unified(value, SoftmaxAttention(query, key, num_heads=heads))
    x, order = normal(2, num_tokens, width, seed=seed), torch.randperm(num_tokens)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], atol=1e-5, rtol=1e-4)
    gram = GramMatrix()
    torch.testing.assert_close(gram.weights(x[:, order]), gram.weights(x)[:, :, order][..., order])


def test_heterogeneous_attention_does_not_move_with_its_tokens() -> None:
    value, query, key = (BlockLinear(3, 4, 4) for _ in range(3))
    attention, x = Unified(value, SoftmaxAttention(query, key)), normal(2, 3, 4)
    assert not torch.allclose(attention(x.flip(1)), attention(x).flip(1), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(kind=KINDS, num_blocks=st.integers(2, 8), seed=st.integers(0, 999), factor=st.floats(-3, 3))
def test_learned_mixing_is_linear_and_moves_with_its_blocks(
    kind: str, num_blocks: int, seed: int, factor: float
) -> None:
    mixing = random_mixing(kind, num_blocks, 2, seed)
    x, y = normal(2, num_blocks * 2, seed=seed), normal(2, num_blocks * 2, seed=seed + 1)
    torch.testing.assert_close(mixing(x + factor * y), mixing(x) + factor * mixing(y), atol=1e-4, rtol=1e-4)
    if kind == "lite":
        return
    # blocks in another order, with the raw matrices in that order, give the outputs in that order
    order = torch.randperm(num_blocks)
    moved = copy.deepcopy(mixing)
    with torch.no_grad():
        moved.global_.logits.copy_(mixing.global_.logits[order][:, order])
        moved.local.logits.copy_(mixing.local.logits[order])
    blocks = x.view(2, num_blocks, 2)
    torch.testing.assert_close(moved(blocks[:, order]), mixing(blocks)[:, order], atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(kind=KINDS, num_blocks=st.integers(1, 12), block_size=small, seed=st.integers(0, 999))
def test_cached_evaluation_equals_the_training_forward(kind: str, num_blocks: int, block_size: int, seed: int) -> None:
    mixing, x = random_mixing(kind, num_blocks, block_size, seed), normal(3, num_blocks * block_size)
    trained = mixing.train()(x).detach()
    with torch.no_grad():
        first, second = mixing.eval()(x), mixing(x)
    assert torch.equal(first, trained)
    assert torch.equal(second, trained)


@pytest.mark.parametrize("kind", ["full", "lite"])
def test_after_sinkhorn_a_low_rank_matrix_is_close_to_full_rank(kind: str) -> None:
    mixing = random_mixing(kind, 64, 2, seed=0, temperature=0.1)
    raw, weight = mixing.global_.raw(), mixing.weights()[0]
    assert torch.linalg.matrix_rank((raw + raw.T) / 2) == (6 if kind == "lite" else 64)
    assert torch.linalg.matrix_rank(weight) > 50
