"""Mixings that learn nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_paper_table import SIZES, normal

from unimixer.errors import UnimixerError
from unimixer.mixing import no_mixing, random_orthogonal, random_permutation


@SIZES
@given(num_tokens=st.integers(1, 6), width=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_balanced_permutation_gives_every_token_one_block_of_every_token(
    num_tokens: int, width: int, seed: int
) -> None:
    mixing = random_permutation(num_tokens, num_tokens * width, balanced=True, seed=seed)
    token_of_number = torch.arange(num_tokens).repeat_interleave(num_tokens * width).float()
    received = mixing(token_of_number.unsqueeze(0)).view(num_tokens, num_tokens, width)
    assert torch.equal(received.amin(-1), received.amax(-1))  # blocks move whole
    assert torch.equal(received[..., 0].sort().values, torch.arange(num_tokens).float().expand(num_tokens, -1))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_permutation_follows_its_seed_alone(balanced: bool) -> None:
    def order(seed: int) -> list[int]:
        torch.rand(1)  # the common random state plays no part
        found: list[int] = random_permutation(8, 16, balanced=balanced, seed=seed).global_.permutation.tolist()  # type: ignore[operator, union-attr]
        return found

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == list(range(64))
    before = torch.random.get_rng_state()
    random_permutation(8, 16, balanced=balanced)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_unbalanced_permutation_is_not_balanced() -> None:
    order = random_permutation(8, 16).global_.weights()[0].argmax(1).view(8, 8) // 8
    assert any(len(row.unique()) < 8 for row in order)


def test_a_random_orthogonal_matrix_keeps_lengths_and_mixes_everything() -> None:
    mixing, x = random_orthogonal(4, 8, seed=3), normal(5, 4, 8).float()
    torch.testing.assert_close(mixing(x).square().sum((1, 2)), x.square().sum((1, 2)))
    matrix = mixing.mixing_matrix()
    torch.testing.assert_close(mixing(x).flatten(1), x.flatten(1) @ matrix.T)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(32), atol=1e-6, rtol=0)
    weights = mixing.global_.weights()[0]
    assert (weights != 0).all()
    torch.testing.assert_close(matrix, torch.kron(weights, torch.eye(2)))
    assert not torch.equal(weights, random_orthogonal(4, 8, seed=4).global_.weights()[0])


def test_a_random_orthogonal_matrix_has_both_determinants() -> None:
    signs = {
        round(torch.linalg.det(random_orthogonal(2, 2, seed=seed).global_.weights()[0]).item()) for seed in range(9)
    }
    assert signs == {-1, 1}


def test_no_mixing_is_the_identity() -> None:
    x = normal(2, 3, 5).float()
    assert torch.equal(no_mixing(3, 5)(x), x)
    assert torch.equal(no_mixing(3, 5).mixing_matrix(), torch.eye(15))


def test_blocks_need_a_width_that_the_tokens_divide() -> None:
    for make in (random_permutation, random_orthogonal):
        with pytest.raises(UnimixerError, match="token_dim=6 must be divisible by num_tokens=4"):
            make(4, 6)
