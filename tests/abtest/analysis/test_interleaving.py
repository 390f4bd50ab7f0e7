"""Team-draft interleaving: fair lists, credit, and the sign test over units."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from unimixer.abtest.analysis.interleaving import Draft, preference, team_draft
from unimixer.errors import UnimixerError


@given(st.permutations(range(8)), st.permutations(range(8)), st.integers(1, 8), st.integers())
def test_teams_pick_in_turns_their_best_item_left(a: list[int], b: list[int], length: int, seed: int) -> None:
    draft = team_draft(a, b, length, random.Random(seed))
    assert len(set(draft.items)) == len(draft.items) == length
    for start in range(0, length - 1, 2):
        assert set(draft.teams[start : start + 2]) == {"a", "b"}  # one pick each a round
    seen: set[int] = set()
    for item, team in zip(draft.items, draft.teams, strict=True):
        ranking = a if team == "a" else b
        assert item == next(one for one in ranking if one not in seen)
        seen.add(item)


def test_a_short_ranking_leaves_its_places_to_the_other() -> None:
    draft = team_draft([1], [2, 3], 5, random.Random(0))
    assert sorted(draft.items) == [1, 2, 3]
    assert sorted(draft.teams) == ["a", "b", "b"]


def test_equal_rankings_show_their_own_order_and_earn_equal_credit() -> None:
    drafts = [team_draft("abcdef", "abcdef", 6, random.Random(seed)) for seed in range(2_000)]
    assert {draft.items for draft in drafts} == {tuple("abcdef")}
    first = sum(draft.teams[0] == "a" for draft in drafts)
    assert binomtest(first, 2_000).pvalue > 0.001


def test_credit_counts_an_item_once_and_refuses_one_that_was_not_shown() -> None:
    draft = Draft(("x", "y", "z"), ("a", "b", "a"))
    assert draft.credit(["x", "x", "y"]) == 0
    assert draft.credit(["x", "z"]) == 2
    assert draft.credit([]) == 0
    with pytest.raises(UnimixerError, match="item 'q' was clicked but is not in the interleaved list"):
        draft.credit(["q"])


def test_the_preference_is_the_exact_sign_test_over_units() -> None:
    credits = [(unit, 1) for unit in range(60)] + [(unit, -1) for unit in range(100, 140)] + [(7, -1), (200, 0)]
    found = preference(credits)
    assert (found.for_a, found.for_b, found.ties) == (59, 40, 2)  # unit 7 has one click for each
    assert found.share_a == pytest.approx(59 / 99)
    assert found.p == pytest.approx(binomtest(59, 99).pvalue, rel=1e-9)
    interval = binomtest(59, 99).proportion_ci(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low, rel=1e-9), pytest.approx(interval.high, rel=1e-9))


def test_ties_alone_prefer_nobody() -> None:
    assert preference([("u", 0)]).share_a is None
    assert preference([]).p == 1.0
