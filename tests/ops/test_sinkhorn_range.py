"""Sinkhorn where it is hard: low temperatures, odd structures, unequal batches, the cap, and what backward costs."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unimixer.ops import permutation_matrix, sinkhorn, sinkhorn_reference, token_mixing_permutation
from unimixer.ops.sinkhorn.newton import scale


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def worst_sum(plan: Tensor) -> float:
    return max((plan.double().sum(axis) - 1).abs().max().item() for axis in (-1, -2))


def dominant(size: int) -> Tensor:
    logits = torch.zeros(size, size)
    logits[0, -1] = 10
    return logits


KINDS: dict[str, Callable[[int], Tensor]] = {
    "normal": lambda n: normal(n, n),
    "large": lambda n: 10 * normal(n, n),
    "identity": lambda n: torch.eye(n),
    "swap": lambda n: torch.eye(n).flip(0),
    "noisy swap": lambda n: torch.eye(n).flip(0) + 0.5 * normal(n, n),
    "blocks": lambda n: ((torch.arange(n) < n // 2)[:, None] == (torch.arange(n) < n // 2)).float(),
    "low rank": lambda n: normal(n, 3) @ normal(3, n, seed=1),
    "dominant entry": dominant,
    "constant rows": lambda n: normal(n, 1).expand(n, n),
    "offset": lambda n: normal(n, n) + 1000,
    "row offsets": lambda n: normal(n, n) + 1000 * normal(n, 1, seed=1),
    "triangular": lambda n: 10 * normal(n, n).triu(-1),
    "squares": lambda n: -((torch.arange(n)[:, None] - torch.randperm(n)) ** 2).float(),
    "heavy tails": lambda n: 3 * normal(n, n).exp(),
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_range_is_scaled_far_below_the_cap(kind: str, symmetric: bool) -> None:
    for size in (2, 3, 8, 33, 128):
        for tau in (10.0, 1.0, 0.3, 0.1, 0.05, 0.02, 0.01):
            logits = (KINDS[kind](size) / tau).requires_grad_()
            scores = (logits + logits.mT) / 2 if symmetric else logits
            _, steps = scale(scores.detach(), symmetric, 1e-5, 200)
            assert steps <= 80
            plan = sinkhorn(logits, symmetric=symmetric)
            assert worst_sum(plan.detach()) < 1e-4
            assert not symmetric or torch.equal(plan, plan.mT)
            (plan * normal(size, size, seed=2)).sum().backward()
            assert logits.grad is not None
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tau", [0.1, 0.02, 0.01])
def test_float32_finds_the_scaling_of_float64_at_low_temperature(tau: float, symmetric: bool) -> None:
    # sums alone do not tell: a doubly stochastic matrix may be another scaling's
    compared = 0
    for logits in (
        0.1 * normal(20, 20),
        normal(33, 33),
        normal(100, 100),
        0.5 * normal(64, 64) + torch.eye(64),
        normal(48, 4) @ normal(4, 48),
    ):
        scores = logits / tau
        scores = (scores + scores.mT) / 2 if symmetric else scores
        exact = sinkhorn(scores.double(), symmetric=symmetric, tolerance=1e-12)
        torch.testing.assert_close(sinkhorn(scores, symmetric=symmetric).double(), exact, atol=1e-3, rtol=0)
        # f 1^T + 1 g^T has no mixed second differences, so those of log P are those of the scores
        minors = [x.diff(dim=0).diff(dim=1) for x in (exact.log(), scores.double())]
        above_floor = -torch.nn.functional.max_pool2d(-exact[None], 2, stride=1)[0] > 1e-20
        compared += int(above_floor.sum())
        torch.testing.assert_close(minors[0][above_floor], minors[1][above_floor], atol=1e-8, rtol=1e-8)
    assert compared > 10


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 12),
    batch=st.lists(st.integers(1, 3), max_size=2),
    tau=st.sampled_from([10.0, 1.0, 0.5]),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_equal_the_unrolled_reference(
    size: int, batch: list[int], tau: float, symmetric: bool, seed: int
) -> None:
    logits = normal(*batch, size, size, seed=seed).double()
    implicit, unrolled = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    scores = (unrolled + unrolled.mT) / 2 if symmetric else unrolled
    expected = sinkhorn_reference(scores / tau, symmetric=symmetric, tolerance=1e-13, max_iterations=3000)
    plan = sinkhorn(implicit, tau=tau, symmetric=symmetric, tolerance=1e-12)
    torch.testing.assert_close(plan, expected, atol=1e-8, rtol=0)
    cotangent = normal(*logits.shape, seed=seed + 1).double()
    for output in (plan, expected):
        (output * cotangent).sum().backward()
    torch.testing.assert_close(implicit.grad, unrolled.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.03])
def test_first_and_second_derivatives_equal_finite_differences(tau: float, symmetric: bool) -> None:
    logits = (normal(2, 3, 3).double() / tau).requires_grad_()

    def plan(scores: Tensor) -> Tensor:
        return sinkhorn(scores, symmetric=symmetric, tolerance=0)

    assert torch.autograd.gradcheck(plan, (logits,))
    assert torch.autograd.gradgradcheck(plan, (logits,), atol=1e-4)


def test_gradient_of_the_temperature() -> None:
    logits = normal(2, 4, 4).double()
    for shape in ((), (2, 1, 1)):
        tau = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t: sinkhorn(logits, tau=t, tolerance=0), (tau,))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_hard_matrix_neither_changes_nor_prolongs_the_easy_ones_of_its_batch(symmetric: bool) -> None:
    easy, hard = normal(6, 20, 20), 10 * normal(1, 20, 20)
    scores = torch.cat([easy[:3], hard / 0.01, easy[3:]])
    scores = (scores + scores.mT) / 2
    plans, steps = scale(scores, symmetric, 1e-5, 200)
    assert steps[3] > 2 * steps[[0, 1, 2, 4, 5, 6]].max()
    for matrix, plan, count in zip(scores, plans, steps, strict=True):
        alone, alone_count = scale(matrix, symmetric, 1e-5, 200)
        assert count == alone_count
        torch.testing.assert_close(plan, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 5, 8, 12])
def test_at_the_cap_sums_are_one_and_symmetry_is_exact(steps: int, symmetric: bool) -> None:
    logits = normal(2, 40, 40).requires_grad_()
    plan = sinkhorn(logits, tau=0.01, symmetric=symmetric, max_iterations=steps)
    assert worst_sum(plan.detach()) < 1e-5
    assert plan.min() >= 0
    assert not symmetric or torch.equal(plan, plan.mT)
    plan.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_minus_infinity_masks(symmetric: bool) -> None:
    banded = (torch.arange(6)[:, None] - torch.arange(6)).abs() > 1
    logits = normal(6, 6).masked_fill(banded, -math.inf).requires_grad_()
    plan = sinkhorn(logits, tau=0.02, symmetric=symmetric)
    assert worst_sum(plan.detach()) < 1e-4
    assert plan[banded].max() < 1e-20
    plan.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    impossible = torch.zeros(4, 4)
    impossible[:3, :3] = -math.inf  # three rows for one column: no doubly stochastic matrix has this pattern
    plan = sinkhorn(impossible, symmetric=symmetric)
    assert worst_sum(plan) < 1e-5


def test_small_and_empty_batches_keep_their_shape() -> None:
    for shape in ((1, 1), (0, 3, 3), (2, 0, 4, 4), (1, 1, 5, 5)):
        assert sinkhorn(normal(*shape), symmetric=True).shape == shape


def saved_bytes(function: Callable[[], Tensor]) -> int:
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(sizes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_memory_saved_for_backward_does_not_grow_with_the_iterations(symmetric: bool) -> None:
    logits = normal(16, 16).requires_grad_()
    few, many = (
        saved_bytes(lambda n=n: sinkhorn(logits, tau=0.02, symmetric=symmetric, max_iterations=n))  # type: ignore[misc]
        for n in (2, 100)
    )
    assert few == many == 16 * 16 * 4  # the plan alone
    short, long = (
        saved_bytes(
            lambda n=n: sinkhorn_reference(  # type: ignore[misc]
                (logits + logits.mT) / 0.04, symmetric=symmetric, tolerance=0.0, max_iterations=n
            )
        )
        for n in (2, 100)
    )
    assert long > 40 * short


def sharpened(logits: Tensor) -> Tensor:
    return sinkhorn(logits * 2, tau=0.1, symmetric=True).square() + 1


def test_compiles_whole_with_its_gradient() -> None:
    plain, compiled = normal(3, 6, 6).requires_grad_(), normal(3, 6, 6).requires_grad_()
    function = torch.compile(sharpened, fullgraph=True, backend="aot_eager")
    expected, actual = sharpened(plain), function(compiled)
    torch.testing.assert_close(actual, expected)
    expected.sum().backward()
    actual.sum().backward()
    torch.testing.assert_close(compiled.grad, plain.grad)


class _Sharpened(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return sharpened(logits)


def test_exports_with_a_dynamic_batch() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(_Sharpened(), (normal(3, 5, 5),), dynamic_shapes=({0: batch},))
    for count in (1, 7):
        logits = normal(count, 5, 5, seed=1)
        torch.testing.assert_close(program.module()(logits), sharpened(logits))


def test_rule_of_full_size_needs_no_newton_step() -> None:
    rule = permutation_matrix(token_mixing_permutation(16, 16, 16)).float()
    for symmetric in (True, False):
        assert scale(rule / 0.05, symmetric, 1e-5, 200)[1] == 0
