"""Assignment: fixed by unit and salt, fair, ramped up without moving anyone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from experiments import experiment, microseconds
from hypothesis import given
from hypothesis import strategies as st

from unimixer.abtest.assignment import Assignment, assign
from unimixer.abtest.canonical import canonical_text
from unimixer.errors import UnimixerError
from unimixer.serving.stores.records import canonical

UNITS = range(20_000)


def counts(**changes: Any) -> Counter[str | None]:
    given = experiment(**changes)
    return Counter(assign(given, unit).arm for unit in UNITS)


def test_known_units_have_the_arms_that_they_always_had() -> None:
    given = experiment(arms={"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 1}}, traffic=0.9)
    arms = "".join(assign(given, unit).arm or "-" for unit in range(40))
    assert arms == "aaabbc-aa-acbccbbbb-bbabacbaccbbccbcacac"


def test_another_process_assigns_the_same() -> None:
    code = (
        "from experiments import experiment; from unimixer.abtest.assignment import assign; "
        "print([assign(experiment(), unit).arm for unit in range(100)])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="tests/abtest")
    assert found.stdout.strip() == str([assign(experiment(), unit).arm for unit in range(100)])


def test_arms_get_their_weights() -> None:
    found = counts(arms={"old": {"weight": 3}, "new": {"weight": 1}, "watch": {"shadow": True}})
    assert found.keys() == {"old", "new"}
    assert abs(found["new"] - 5_000) < 4 * 61.3  # four standard deviations
    assert assign(experiment(arms={"old": {"weight": 3}, "new": {}}), 1).propensity in (0.75, 0.25)


def test_the_order_of_the_file_has_no_effect() -> None:
    arms = {"old": {}, "new": {}}
    there, back = experiment(arms=arms), experiment(arms=dict(reversed(arms.items())), control="old")
    assert [assign(there, unit) for unit in range(200)] == [assign(back, unit) for unit in range(200)]


def test_another_salt_draws_anew() -> None:
    one, other = experiment(), experiment(salt="second")
    same = sum(assign(one, unit).arm == assign(other, unit).arm for unit in UNITS)
    assert abs(same - 10_000) < 4 * 70.7


def test_more_traffic_moves_nobody() -> None:
    before: dict[int, str] = {}
    for traffic in (0.0, 0.01, 0.1, 0.5, 1.0):
        given = experiment(traffic=traffic)
        now = {unit: found.arm for unit in UNITS if (found := assign(given, unit)).arm is not None}
        assert before.items() <= now.items()
        assert abs(len(now) - traffic * 20_000) <= 4 * 70.7
        before = now
    assert len(before) == 20_000


def test_experiments_of_a_layer_share_no_unit_and_hold_out_the_same_units() -> None:
    layer = [{"name": "ranking", "buckets": [0, 300]}, {"name": "ranking", "buckets": [300, 1_000]}]
    first, second = (experiment(name=f"e{n}", layer=layer[n], holdout=0.1) for n in range(2))
    held = 0
    for unit in UNITS:
        one, other = assign(first, unit), assign(second, unit)
        assert one.arm is None or other.arm is None
        assert (one.arm or other.arm) or "holdout" in (one.reason, other.reason)
        held += "holdout" in (one.reason, other.reason)
    assert abs(held - 2_000) < 4 * 42.4


def test_an_experiment_with_the_name_of_its_layer_is_independent_of_it() -> None:
    found = counts(layer={"name": "mixer", "buckets": [0, 500]}, traffic=0.5)
    assert abs(found[None] - 15_000) < 4 * 61.3


def test_the_context_targets() -> None:
    given = experiment(targeting={"country": ["de", "at"], "tab": [3]})
    assert assign(given, 1, {"country": "de", "tab": "3.0"}).reason == "assigned"
    assert assign(given, 1, {"country": "fr", "tab": 3}).reason == "targeting"
    assert assign(given, 1, {"country": "de"}).reason == "targeting"
    assert assign(given, 1, {"country": ["de"], "tab": 3}).reason == "targeting"
    assert assign(given, 1).reason == "targeting"
    assert assign(given, 1, {"country": "de", "tab": np.int32(3)}).reason == "assigned"


def test_overrides_win_and_do_not_count() -> None:
    given = experiment(overrides={7: "new"}, traffic=0, targeting={"tab": [1]})
    assert assign(given, "7") == Assignment("new", "override", 1.0)
    assert not assign(given, 7).exposed
    assert assign(given, 8).arm is None


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("2026-02-28T23:59:59", "not started"),
        ("2026-03-01T00:00:00", "assigned"),
        ("2026-03-30T23:59:59", "assigned"),
        ("2026-03-31T00:00:00", "ended"),
    ],
)
def test_an_experiment_runs_from_midnight_of_its_start_to_midnight_of_its_end(moment: str, reason: str) -> None:
    assert assign(experiment(), 1, time=microseconds(moment)).reason == reason


@pytest.mark.parametrize("unit", [None, "", "  "])
def test_a_unit_without_an_id_takes_no_part(unit: str | None) -> None:
    assert assign(experiment(overrides={"u": "new"}), unit) == Assignment(None, "no id", 0.0)


@given(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(2**63) + 1, 2**63 - 1), st.booleans())
)
def test_an_id_has_the_text_that_the_feature_store_gives_it(value: str | int) -> None:
    assert canonical_text(value) == canonical([value])[0]


@pytest.mark.parametrize(
    "value", ["3", "3.0", "3.00", " 3 ", 3, 3.0, "\u20073", np.int64(3), np.float32(3), np.float64(3), np.str_("3")]
)
def test_forms_of_an_id_are_one_unit(value: str | float) -> None:
    assert canonical_text(value) == "3"


def test_numbers_with_decimals_keep_them_and_other_values_are_refused() -> None:
    assert canonical_text(np.float64(7.5)) == canonical_text(np.float32(7.5)) == canonical_text(7.5) == "7.5"
    with pytest.raises(UnimixerError, match=r"an id is text or a number, found Decimal\('7.5'\)"):
        assign(experiment(), Decimal("7.5"))  # type: ignore[arg-type]


def test_a_salt_may_have_any_characters() -> None:
    assert assign(experiment(salt="\ud800"), 1).arm is not None
