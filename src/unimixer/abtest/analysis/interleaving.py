"""Team-draft interleaving: two rankers share one list, and the clicks say whose items users prefer."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from unimixer.errors import UnimixerError, check_positive

Item = TypeVar("Item", bound=Hashable)
A, B = "a", "b"


@dataclass(frozen=True)
class Draft(Generic[Item]):
    """A list of two teams: the items in the order shown, and the ranker that picked each."""

    items: tuple[Item, ...]
    teams: tuple[str, ...]

    def credit(self, clicked: Iterable[Item]) -> int:
        """Count the clicks on items of A less those on items of B; an item counts once.

        Raises:
            UnimixerError: if a clicked item was not shown.
        """
        team = dict(zip(self.items, self.teams, strict=True))
        clicks = set(clicked)
        if not clicks <= set(team):
            stranger = next(item for item in clicks if item not in team)
            raise UnimixerError(f"item {stranger!r} was clicked but is not in the interleaved list that was shown")
        return sum(1 if team[item] == A else -1 for item in clicks)


def team_draft(a: Sequence[Item], b: Sequence[Item], length: int, generator: random.Random) -> Draft[Item]:
    """Interleave two rankings (Radlinski, Kurup and Joachims, CIKM 2008).

    In every round a coin decides which ranker picks first; each picks its best item that is not in the list yet.

    Args:
        a: items of ranker A, best first.
        b: items of ranker B, best first.
        length: of the list.
        generator: of the coins.

    Example:
        >>> team_draft("xyz", "zyx", 3, random.Random(0)).items
        ('z', 'x', 'y')
    """
    check_positive(length=length)
    rankings = {A: iter(dict.fromkeys(a)), B: iter(dict.fromkeys(b))}
    shown: dict[Item, str] = {}
    while len(shown) < length:
        order = (A, B) if generator.random() < 0.5 else (B, A)
        picked = 0
        for team in order:
            item = next((one for one in rankings[team] if one not in shown), None)
            if item is not None and len(shown) < length:
                shown[item] = team
                picked += 1
        if not picked:
            break
    return Draft(tuple(shown), tuple(shown.values()))


@dataclass(frozen=True)
class Preference:
    """How many units prefer each ranker, and the test that the two are equal."""

    for_a: int
    for_b: int
    ties: int
    share_a: float | None
    """Share of A among the units that prefer one; None where none does."""
    low: float
    high: float
    p: float


def preference(credits: Iterable[tuple[Hashable, int]], alpha: float = 0.05) -> Preference:
    """Test which ranker users prefer.

    The credits of a unit are summed first, for its lists are not independent. The test is the exact sign test over
    units without a tie; the interval of the share is that of Clopper and Pearson.

    Args:
        credits: unit and :meth:`Draft.credit` of each shown list.
        alpha: error level of the interval.
    """
    from scipy.stats import binomtest

    sums: dict[Hashable, int] = {}
    for unit, credit in credits:
        sums[unit] = sums.get(unit, 0) + credit
    for_a, for_b = (sum(sign * value > 0 for value in sums.values()) for sign in (1, -1))
    ties = len(sums) - for_a - for_b
    if not for_a + for_b:
        return Preference(0, 0, ties, None, 0.0, 1.0, 1.0)
    test = binomtest(for_a, for_a + for_b)
    interval = test.proportion_ci(1 - alpha, method="exact")
    share = for_a / (for_a + for_b)
    return Preference(for_a, for_b, ties, share, float(interval.low), float(interval.high), float(test.pvalue))
