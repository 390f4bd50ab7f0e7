import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.ops import permutation_matrix, sinkhorn, sinkhorn_reference, token_mixing_permutation


def rule(heads: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    matrix = permutation_matrix(token_mixing_permutation(heads, heads, heads))
    return matrix + noise * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def worst_sum(plan: Tensor) -> float:
    return max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2))


def test_two_by_two_by_hand() -> None:
    # exp gives [[1, 2], [2, 1]]; dividing by 3 makes every row and column sum to one
    logits = torch.tensor([[0.0, math.log(2.0)], [math.log(2.0), 0.0]])
    expected = torch.tensor([[1.0, 2.0], [2.0, 1.0]]) / 3
    for symmetric in (True, False):
        torch.testing.assert_close(sinkhorn(logits, symmetric=symmetric), expected)


def test_unequal_diagonal_by_hand() -> None:
    # exp gives [[4, 1], [1, 1]]; scaling 1/sqrt(1.5 * 4), sqrt(...) leads to p / (1 - p) = sqrt(4 * 1) / 1 = 2
    logits = torch.tensor([[math.log(4.0), 0.0], [0.0, 0.0]])
    expected = torch.tensor([[2.0, 1.0], [1.0, 2.0]]) / 3
    for symmetric in (True, False):
        torch.testing.assert_close(sinkhorn(logits, symmetric=symmetric), expected, atol=1e-5, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 33),
    seed=st.integers(0, 1000),
    tau=st.sampled_from([1.0, 0.3, 0.1, 0.05]),
    scale=st.sampled_from([0.1, 1.0]),
    symmetric=st.booleans(),
)
def test_rows_and_columns_sum_to_one(size: int, seed: int, tau: float, scale: float, symmetric: bool) -> None:
    plan = sinkhorn(normal(size, size, seed=seed) * scale, tau=tau, symmetric=symmetric)
    assert worst_sum(plan) < 1e-4
    assert plan.min() >= 0
    assert not symmetric or torch.equal(plan, plan.mT)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.05])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_rule_like_logits_are_scaled_at_full_size(noise: float, tau: float, symmetric: bool) -> None:
    plan = sinkhorn(rule(16, noise), tau=tau, symmetric=symmetric)
    assert plan.shape == (256, 256)
    assert worst_sum(plan) < 1e-4
    assert not symmetric or torch.equal(plan, plan.mT)


@pytest.mark.parametrize("symmetric", [True, False])
def test_hard_random_matrices_are_scaled(symmetric: bool) -> None:
    for logits in (normal(256, 256), normal(64, 4, 4), normal(2, 3, 8, 8)):
        assert worst_sum(sinkhorn(logits, tau=0.05, symmetric=symmetric)) < 1e-4


def test_a_batch_equals_its_matrices_one_by_one() -> None:
    logits = normal(5, 6, 6)
    batch = sinkhorn(logits, tau=0.1, symmetric=True)
    for matrix, plan in zip(logits, batch, strict=True):
        torch.testing.assert_close(sinkhorn(matrix, tau=0.1, symmetric=True), plan, atol=2e-5, rtol=0)


def test_falling_temperature_approaches_the_permutation() -> None:
    errors = [(sinkhorn(rule(4, 0.05), tau=tau, symmetric=True) - rule(4)).abs().max() for tau in (1.0, 0.3, 0.1, 0.05)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("logits", "tau"),
    [(normal(13, 13), 1.0), (normal(7, 7), 0.4), (rule(4), 0.2), (rule(3, 0.1), 0.2), (normal(9, 4, 4) * 0.2, 0.1)],
    ids=["random", "sharp", "rule", "near-rule", "batch"],
)
def test_value_and_gradient_equal_the_unrolled_reference(logits: Tensor, tau: float, symmetric: bool) -> None:
    cotangent = normal(*logits.shape, seed=1).double()
    wide = logits.double()
    exact, unrolled, single = (
        wide.clone().requires_grad_(),
        wide.clone().requires_grad_(),
        logits.clone().requires_grad_(),
    )
    scores = (unrolled + unrolled.mT) / 2 if symmetric else unrolled
    expected = sinkhorn_reference(scores / tau, symmetric=symmetric, tolerance=0.0, max_iterations=600)
    plan = sinkhorn(exact, tau=tau, symmetric=symmetric, tolerance=1e-12)
    torch.testing.assert_close(plan, expected, atol=1e-7, rtol=0)
    fast = sinkhorn(single, tau=tau, symmetric=symmetric)
    torch.testing.assert_close(fast.double(), expected, atol=2e-5, rtol=0)
    for output in (expected, plan, fast):
        (output * cotangent).sum().backward()
    assert exact.grad is not None
    assert single.grad is not None
    assert unrolled.grad is not None
    scale = unrolled.grad.abs().max().item()
    torch.testing.assert_close(exact.grad, unrolled.grad, atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(single.grad.double(), unrolled.grad, atol=1e-3 * scale, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("logits", "tau"), [(normal(2, 4, 4), 0.7), (normal(5, 5), 0.1), (rule(3), 0.1)])
def test_gradient_equals_finite_differences_where_unrolling_would_not_converge(
    logits: Tensor, tau: float, symmetric: bool
) -> None:
    def plan(scores: Tensor) -> Tensor:
        return sinkhorn(scores, symmetric=symmetric, tolerance=1e-14)

    assert torch.autograd.gradcheck(plan, ((logits.double() / tau).requires_grad_(),))


def test_gradient_of_an_exact_involution_is_finite() -> None:
    logits = (rule(4) * 100).requires_grad_()  # exp(1000) against exp(0): the Hessian is singular
    plan = sinkhorn(logits, tau=0.1, symmetric=True)
    torch.testing.assert_close(plan, rule(4))
    (plan * normal(16, 16)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_gradient_of_a_symmetric_matrix_is_symmetric() -> None:
    logits = normal(6, 6).requires_grad_()
    (sinkhorn(logits, tau=0.3, symmetric=True) * normal(6, 6, seed=2)).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, logits.grad.mT)


@pytest.mark.parametrize("symmetric", [True, False])
def test_autocast_and_low_precision_do_not_reach_the_solver(symmetric: bool) -> None:
    logits = normal(20, 20).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan = sinkhorn(logits, tau=0.1, symmetric=symmetric)
        plan.square().sum().backward()
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, sinkhorn(logits, tau=0.1, symmetric=symmetric))
    assert sinkhorn(logits.bfloat16(), symmetric=symmetric).dtype == torch.float32
    assert sinkhorn(logits.double(), symmetric=symmetric).dtype == torch.float64


def test_solver_is_a_valid_operator_for_export_and_compilation() -> None:
    scores = normal(3, 5, 5).requires_grad_()
    torch.library.opcheck(torch.ops.unimixer.sinkhorn, (scores, False, 1e-5, 100))


def test_reference_of_symmetric_scores_is_exactly_symmetric() -> None:
    scores = normal(6, 6)
    plan = sinkhorn_reference(scores + scores.T, symmetric=True)
    assert torch.equal(plan, plan.T)
    assert worst_sum(plan) < 1e-4


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_a_number_ends_and_stays_visible_in_its_own_matrix(bad: float, symmetric: bool) -> None:
    logits = normal(3, 5, 5)
    logits[1, 0, 2] = bad
    plan = sinkhorn(logits, tau=0.1, symmetric=symmetric)
    for axis in (-1, -2):
        assert plan[1].sum(axis).isnan().all()
    assert worst_sum(plan[::2]) < 1e-4


def test_bad_input_is_named() -> None:
    with pytest.raises(UnimixerError, match=r"logits has shape \(2, 3\), expected square matrices"):
        sinkhorn(torch.zeros(2, 3))
    with pytest.raises(UnimixerError, match=r"logits has shape \(0, 0\), expected square matrices"):
        sinkhorn(torch.zeros(0, 0))
    with pytest.raises(UnimixerError, match=r"logits has dtype torch.int64, expected floating point"):
        sinkhorn(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(UnimixerError, match="tau=0 must be greater than 0"):
        sinkhorn(torch.zeros(2, 2), tau=0)
    with pytest.raises(UnimixerError, match="max_iterations=0 must be greater than 0"):
        sinkhorn(torch.zeros(2, 2), max_iterations=0)
    with pytest.raises(UnimixerError, match="tolerance=-1 must not be negative"):
        sinkhorn(torch.zeros(2, 2), tolerance=-1)
