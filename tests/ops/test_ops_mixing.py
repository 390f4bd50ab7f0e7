import torch
from hypothesis import given
from hypothesis import strategies as st

from unimixer.ops import (
    permutation_matrix,
    token_mixing,
    token_mixing_permutation,
    unimixing,
    unimixing_matrix,
)


def test_unimixing_by_hand() -> None:
    # local: block 1 swaps its two numbers, block 2 doubles them; global: out_1 = H_2, out_2 = H_1 + H_2
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    local = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]]])
    mixed = unimixing(x, torch.tensor([[0.0, 1.0], [1.0, 1.0]]), local)
    assert mixed.tolist() == [[6.0, 8.0, 8.0, 9.0]]


def test_rows_are_multiplied_by_local_matrices_from_the_right() -> None:
    x, local = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert unimixing(x, torch.ones(1, 1), local).tolist() == [[1.0, 2.0]]  # the first row of W


@given(num_blocks=st.integers(1, 7), block_size=st.integers(1, 5), batch=st.integers(1, 4), shared=st.booleans())
def test_unimixing_equals_the_generalised_kronecker_product(
    num_blocks: int, block_size: int, batch: int, shared: bool
) -> None:
    x = torch.randn(batch, num_blocks * block_size, dtype=torch.float64, requires_grad=True)
    global_ = torch.randn(num_blocks, num_blocks, dtype=torch.float64, requires_grad=True)
    local = torch.randn(1 if shared else num_blocks, block_size, block_size, dtype=torch.float64, requires_grad=True)
    fast, slow = unimixing(x, global_, local), x @ unimixing_matrix(global_, local).T
    torch.testing.assert_close(fast, slow)
    cotangent = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, (x, global_, local), cotangent),
        torch.autograd.grad(slow, (x, global_, local), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_matrix_block_is_the_global_entry_times_the_transposed_local_matrix() -> None:
    global_, local = torch.randn(3, 3), torch.randn(3, 2, 2)
    matrix = unimixing_matrix(global_, local)
    for m in range(3):
        for n in range(3):
            block = matrix[2 * m : 2 * m + 2, 2 * n : 2 * n + 2]
            torch.testing.assert_close(block, global_[m, n] * local[n].T)


def test_token_mixing_by_hand() -> None:
    tokens = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert token_mixing(tokens, 2).tolist() == [[[1, 2, 5, 6], [3, 4, 7, 8]]]


@given(num_tokens=st.integers(1, 8), head_dim=st.integers(1, 5))
def test_token_mixing_is_its_own_inverse_when_heads_equal_tokens(num_tokens: int, head_dim: int) -> None:
    tokens = torch.randn(3, num_tokens, num_tokens * head_dim)
    assert torch.equal(token_mixing(token_mixing(tokens, num_tokens), num_tokens), tokens)


@given(num_tokens=st.integers(1, 6), num_heads=st.integers(1, 6), head_dim=st.integers(1, 3))
def test_token_mixing_is_its_permutation_matrix(num_tokens: int, num_heads: int, head_dim: int) -> None:
    tokens = torch.randn(2, num_tokens, num_heads * head_dim)
    permutation = token_mixing_permutation(num_tokens, num_heads * head_dim, num_heads)
    matrix, mixed = permutation_matrix(permutation), token_mixing(tokens, num_heads).flatten(1)
    assert torch.equal(tokens.flatten(1)[:, permutation], mixed)
    assert torch.equal(tokens.flatten(1) @ matrix.T, mixed)
    assert torch.equal(matrix.sum(0), torch.ones(len(matrix)))  # doubly stochastic and sparse
    assert torch.equal(matrix.sum(1), torch.ones(len(matrix)))
    if num_heads == num_tokens:
        assert torch.equal(matrix, matrix.T)


def test_the_rule_is_not_symmetric_when_heads_differ_from_tokens() -> None:
    matrix = permutation_matrix(token_mixing_permutation(4, 6, 2))
    assert not torch.equal(matrix, matrix.T)


def test_the_rule_is_compressible_into_a_permutation_of_head_slices() -> None:
    fine = permutation_matrix(token_mixing_permutation(3, 6, 3))
    coarse = permutation_matrix(token_mixing_permutation(3, 3, 3))
    assert torch.equal(fine, torch.kron(coarse, torch.eye(2)))
