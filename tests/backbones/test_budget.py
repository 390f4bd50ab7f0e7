"""Budgets: met within the tolerance, or refused with what to change."""

from __future__ import annotations

import pytest

from unimixer.backbones import BACKBONES, count_parameters, fit_budget, meet_budget
from unimixer.backbones.budget import BudgetError
from unimixer.errors import UnimixerError
from unimixer.profiling.model_table import any_budget_from


@pytest.mark.parametrize("name", BACKBONES)
def test_from_some_size_on_every_budget_is_met(name: str) -> None:
    lowest = any_budget_from(name, num_tokens=8)
    width = {"token_dim": 16} if BACKBONES[name].default_tokenizer == "field" else {}
    for factor in (1.0, 1.13, 1.9, 6.0):
        budget = round(lowest * factor)
        found = count_parameters(fit_budget(name, params=budget, num_tokens=8, **width))
        assert abs(found / budget - 1) <= 0.02


@pytest.mark.parametrize(("name", "tokens"), [("rankmixer", 8), ("rankmixer", 16)])
def test_below_that_size_is_a_gap(name: str, tokens: int) -> None:
    lowest = any_budget_from(name, num_tokens=tokens)
    with pytest.raises(UnimixerError, match=rf"the (nearest|smallest) count.* {lowest:,}; take"):
        fit_budget(name, params=int(lowest * 0.98) - 3, num_tokens=tokens)


def steps_of(rows: int) -> int:
    """Numbers of a size of 100 in so many rows."""
    return 100 * rows


def count(width: float, rows: int = 16) -> int:
    return max(1, round(width / 100)) * steps_of(rows)


def test_a_budget_between_two_sizes_is_refused_with_both_and_with_a_change_that_meets_it() -> None:
    with pytest.raises(BudgetError) as refused:
        meet_budget(count, {"rows": 16}, 2_400, changeable={"rows": 16})
    assert str(refused.value) == (
        "params=2,400 cannot be met within 2%; the nearest counts are 1,600 and 3,200; take 1600 or 3200, or rows=8, "
        "which reaches 2,400"
    )
    assert refused.value.nearest == (1_600, 3_200)
    assert count(meet_budget(count, {"rows": 8}, 2_400, changeable={"rows": 8}), rows=8) == 2_400


def test_a_budget_below_the_smallest_size_names_that() -> None:
    with pytest.raises(BudgetError) as refused:
        meet_budget(count, {}, 10, what="flops", changeable={})
    assert str(refused.value) == "flops=10 cannot be met within 2%; the smallest count is 1,600; take 1600"


def test_a_change_that_is_no_model_is_not_proposed() -> None:
    def picky(width: float, rows: int = 16) -> int:
        if rows == 8:
            raise UnimixerError("rows=8 is not allowed")
        return count(width, rows)

    with pytest.raises(BudgetError, match=r"or rows=4, which reaches 2,400$"):
        meet_budget(picky, {}, 2_400, changeable={"rows": 16})
