"""Constraints without iterations, against their written formulas in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimixer import ops


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 9), count=st.integers(1, 3), bound=st.floats(0.1, 9), seed=st.integers(0, 99))
def test_a_capped_range_is_the_bound_or_what_it_was(size: int, count: int, bound: float, seed: int) -> None:
    raw = normal(count, size, size, seed=seed)
    for before, after in zip(raw, ops.cap_range(raw, bound), strict=True):
        spread = (before.max() - before.min()).item()
        assert (after.max() - after.min()).item() == pytest.approx(min(bound, spread))
        torch.testing.assert_close(after, before * min(1.0, bound / spread) if spread else before)


def test_equal_numbers_have_no_range_to_cap() -> None:
    raw = torch.full((3, 3), 7.0, requires_grad=True)
    capped = ops.cap_range(raw, 2.0)
    assert torch.equal(capped, raw)
    (gradient,) = torch.autograd.grad(capped.sum(), raw)
    assert bool(torch.isfinite(gradient).all())


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 9), seed=st.integers(0, 99))
def test_rows_of_unit_norm(size: int, seed: int) -> None:
    raw = normal(size, size, seed=seed)
    expected = torch.stack([row / sum(value**2 for value in row.tolist()) ** 0.5 for row in raw])
    torch.testing.assert_close(ops.unit_rows(raw), expected)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 12), scale=st.floats(0, 5), seed=st.integers(0, 99))
def test_cayleys_transform_is_orthogonal_and_reads_the_skew_part_alone(size: int, scale: float, seed: int) -> None:
    raw = normal(size, size, seed=seed) * scale
    turned, eye = ops.cayley(raw), torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(turned @ turned.T, eye, atol=1e-9, rtol=0)
    assert torch.linalg.det(turned).item() == pytest.approx(1.0)
    torch.testing.assert_close(ops.cayley(raw + raw.T @ raw), turned, atol=1e-7, rtol=0)
    skew = (raw - raw.T) / 2
    torch.testing.assert_close(turned, torch.linalg.inv(eye + skew) @ (eye - skew), atol=1e-9, rtol=0)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 9), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_sum_of_permutations(size: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(size, generator=generator) for _ in range(count)])
    weights = normal(count, seed=seed).softmax(0)
    expected = sum(
        weight * torch.eye(size, dtype=torch.float64)[order] for weight, order in zip(weights, orders, strict=True)
    )
    found = ops.permutation_sum(weights, orders)
    torch.testing.assert_close(found, expected)
    for axis in (0, 1):
        torch.testing.assert_close(found.sum(axis), torch.ones(size, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(bits=st.integers(0, 5), columns=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_kronecker_product_of_two_by_twos(bits: int, columns: int, seed: int) -> None:
    share, x = normal(bits, seed=seed).sigmoid(), normal(2**bits, columns, seed=seed + 1)
    product = torch.ones(1, 1, dtype=torch.float64)
    for a in share.tolist():
        product = torch.kron(product, torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.float64))
    torch.testing.assert_close(ops.kronecker_multiply(share, x), product @ x)


def test_gradients() -> None:
    raw, share = normal(2, 4, 4).requires_grad_(), normal(3).sigmoid().detach().requires_grad_()
    orders = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    assert torch.autograd.gradcheck(lambda z: ops.cap_range(z, 1.5), raw)
    assert torch.autograd.gradcheck(ops.unit_rows, raw)
    assert torch.autograd.gradcheck(ops.cayley, raw)
    assert torch.autograd.gradcheck(lambda w: ops.permutation_sum(w, orders), share)
    assert torch.autograd.gradcheck(lambda a: ops.kronecker_multiply(a, torch.eye(8, dtype=torch.float64)), share)
