"""Row-sparse optimizers against torch's own and against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unimixer.errors import UnimixerError
from unimixer.training.optimizers import RowSparseAdam, RowSparseSGD, RowWiseAdagrad

ROWS, WIDTH = 20, 3


def trajectory(build: Callable[[list[nn.Parameter]], Any], batches: list[torch.Tensor], *, sparse: bool = True) -> Any:
    """Weights after every step of a small regression on embedding rows."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64))
    goal = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    optimizer, seen = build([weight]), []
    for rows in batches:
        optimizer.zero_grad()
        ((F.embedding(rows, weight, sparse=sparse) - goal[rows]) ** 2).sum().backward()
        optimizer.step()
        seen.append(weight.detach().clone())
    return torch.stack(seen)


def some_rows(steps: int = 30) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, ROWS - 2, (9,), generator=generator) for _ in range(steps)]


def all_rows(steps: int = 30) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randperm(ROWS, generator=generator) for _ in range(steps)]


def sparse(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, (ROWS, WIDTH), check_invariants=True)


def test_row_sparse_adam_is_sparse_adam() -> None:
    own = trajectory(lambda p: RowSparseAdam(p, lr=0.1, eps=1e-12), some_rows())
    torch_s = trajectory(lambda p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-12), some_rows())
    torch.testing.assert_close(own, torch_s, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-8, 1.0])
def test_row_sparse_adam_is_adam_where_every_row_is_met_in_every_step(eps: float) -> None:
    own = trajectory(lambda p: RowSparseAdam(p, lr=0.1, betas=(0.8, 0.95), eps=eps), all_rows())
    dense = trajectory(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=eps), all_rows(), sparse=False)
    torch.testing.assert_close(own, dense, rtol=0, atol=1e-12)


def test_row_wise_adagrad_is_the_loop_over_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64).numpy()
    goal = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64).numpy()
    total = np.zeros(ROWS)
    for rows in some_rows():
        gradient = {r: np.zeros(WIDTH) for r in rows.tolist()}
        for row in rows.tolist():
            gradient[row] += 2 * (weight[row] - goal[row])
        for row, g in gradient.items():
            total[row] += (g**2).sum() / WIDTH
            weight[row] = weight[row] - 0.1 * g / (np.sqrt(total[row]) + 1e-8)
    own = trajectory(lambda p: RowWiseAdagrad(p, lr=0.1), some_rows())
    np.testing.assert_allclose(own[-1].numpy(), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [RowSparseAdam, RowSparseSGD, RowWiseAdagrad])
def test_gradients_of_a_row_met_several_times_are_merged_before_the_update(rule: Any) -> None:
    twice = nn.Parameter(torch.ones(4, 2))
    once = nn.Parameter(torch.ones(4, 2))
    for weight, rows, scale in ((twice, [2, 2, 2], 1.0), (once, [2], 3.0)):
        optimizer = rule([weight], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (F.embedding(torch.tensor(rows), weight, sparse=True).sum() * scale).backward()
            optimizer.step()
    torch.testing.assert_close(twice, once)
    assert bool((twice[2] < 1).all())


@pytest.mark.parametrize("rule", [RowSparseAdam, RowSparseSGD, RowWiseAdagrad])
@pytest.mark.parametrize("order", ["merged", "shuffled", "halves"])
def test_a_gradient_merged_in_the_backward_moves_rows_as_one_merged_here(rule: Any, order: str) -> None:
    """``halves`` is what accumulated batches leave: two merged gradients, one after the other."""
    generator = torch.Generator().manual_seed(3)
    ends = []
    for form in ("coalesced", order):
        weight = nn.Parameter(torch.ones(ROWS, WIDTH, dtype=torch.float64))
        optimizer = rule([weight], lr=0.1)
        generator.manual_seed(3)
        for rows in some_rows(5):
            values = torch.randn(len(rows), WIDTH, generator=generator, dtype=torch.float64)
            gradient = sparse(rows, values)
            if form in ("coalesced", "merged"):
                gradient = gradient.coalesce()
            elif form == "halves":
                first, second = (sparse(rows[half], values[half]).coalesce() for half in (slice(4), slice(4, None)))
                gradient = first + second
            weight.grad = gradient
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [RowSparseAdam, RowSparseSGD, RowWiseAdagrad])
def test_rows_that_are_not_met_do_not_move(rule: Any) -> None:
    moved = trajectory(lambda p: rule(p, lr=0.1), some_rows())
    start = trajectory(lambda p: rule(p, lr=0.0), some_rows())
    assert torch.equal(moved[:, ROWS - 2 :], start[:, ROWS - 2 :])
    met_later = some_rows()[0].new_tensor([r for r in range(ROWS) if r not in some_rows()[0]])
    assert torch.equal(moved[0, met_later], start[0, met_later])
    # a row that was met moves again only when it is met again, momentum or not
    for step in range(1, len(moved)):
        still = [r for r in range(ROWS) if r not in some_rows()[step]]
        assert torch.equal(moved[step, still], moved[step - 1, still])


@pytest.mark.parametrize("rule", [RowSparseAdam, RowSparseSGD, RowWiseAdagrad])
def test_state_saved_and_loaded_continues_as_if_nothing_had_happened(rule: Any) -> None:
    whole = trajectory(lambda p: rule(p, lr=0.1), some_rows(10))

    class Reloading:
        def __init__(self, parameters: list[nn.Parameter]) -> None:
            self.parameters, self.inner = parameters, rule(parameters, lr=0.1)

        def zero_grad(self) -> None:
            self.inner.zero_grad()

        def step(self) -> None:
            self.inner.step()
            state = self.inner.state_dict()
            self.inner = rule(self.parameters, lr=0.1)
            self.inner.load_state_dict(state)

    assert torch.equal(trajectory(Reloading, some_rows(10)), whole)


def test_row_wise_adagrad_keeps_one_number_a_row() -> None:
    weight = nn.Parameter(torch.ones(5, 3))
    optimizer = RowWiseAdagrad([weight])
    F.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()
    optimizer.step()
    assert {key: value.shape for key, value in optimizer.state[weight].items()} == {"sum": (5,)}


def test_a_dense_gradient_is_refused() -> None:
    weight = nn.Parameter(torch.ones(5, 3))
    weight.sum().backward()
    with pytest.raises(UnimixerError, match="RowSparseAdam updates row-sparse gradients and got dense ones"):
        RowSparseAdam([weight]).step()


def test_a_parameter_without_gradient_is_passed_over() -> None:
    weight = nn.Parameter(torch.ones(5, 3))
    RowSparseAdam([weight]).step()
    assert torch.equal(weight, torch.ones(5, 3))


def test_row_sparse_sgd_is_sgd_of_the_rows_met() -> None:
    weight = nn.Parameter(torch.randn(9, 4))
    dense = nn.Parameter(weight.detach().clone())
    rows = torch.tensor([7, 2, 7])
    for parameter, sparse in ((weight, True), (dense, False)):
        torch.nn.functional.embedding(rows, parameter, sparse=sparse).pow(2).sum().backward()
    RowSparseSGD([weight], lr=0.1).step()
    torch.optim.SGD([dense], lr=0.1).step()
    torch.testing.assert_close(weight, dense)
