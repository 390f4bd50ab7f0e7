"""Metrics under multiplicities, intervals over seeds and users, and the correction for many comparisons."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from unimixer import metrics
from unimixer.analysis.significance import (
    Difference,
    Part,
    UserBootstrap,
    difference,
    half_width,
    holm,
    runs_needed,
    two_sided,
)
from unimixer.analysis.weighted_metrics import LabelledRows
from unimixer.errors import UnimixerError

PLAIN = {
    "auc": lambda logits, labels, users: metrics.auc(logits, labels),
    "uauc": metrics.uauc,
    "gauc": metrics.gauc,
    "log_loss": lambda logits, labels, users: metrics.log_loss(logits, labels),
    "ne": lambda logits, labels, users: metrics.normalised_entropy(logits, labels),
}
Columns = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]


@st.composite
def columns(draw: st.DrawFn) -> Columns:
    """Some rows with many ties, users of one row, and users of one class."""
    size = draw(st.integers(4, 40))
    logits = draw(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0]), min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    users = draw(st.lists(st.sampled_from([-9, 3, 4, 70, 1 << 40]), min_size=size, max_size=size))
    both = [0.0, 0.25], [0, 1], [3, 3]  # one user has both classes at least
    parts = zip((logits, labels, users), both, (np.float32, np.uint8, np.int64), strict=True)
    return tuple(np.array([*own, *more], dtype=kind) for own, more, kind in parts)  # type: ignore[return-value]


@given(columns())
@settings(deadline=None)
def test_every_user_once_is_the_plain_metric(rows: Columns) -> None:
    logits, labels, users = rows
    prepared = LabelledRows(labels, users)
    once = np.ones((1, prepared.num_users), dtype=np.uint8)
    assert prepared.metrics == tuple(PLAIN)
    assert prepared.weighted("auc", logits)(once)[0] == metrics.auc(logits, labels)  # to the last bit
    for name, plain in PLAIN.items():
        assert prepared.weighted(name, logits)(once)[0] == pytest.approx(plain(logits, labels, users), rel=1e-12)


@given(columns(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_whole_multiplicities_are_literally_repeated_users(rows: Columns, seed: int) -> None:
    logits, labels, users = rows
    prepared = LabelledRows(labels, users)
    counts = np.random.default_rng(seed).integers(0, 4, (3, prepared.num_users)).astype(np.uint8)
    values = {name: prepared.weighted(name, logits)(counts) for name in PLAIN}
    for replicate, chosen in enumerate(counts):
        copies = [(copy, user) for user, times in zip(prepared.keys, chosen, strict=True) for copy in range(times)]
        repeated = [np.flatnonzero(users == user) for _, user in copies]
        order = np.concatenate([np.empty(0, np.int64), *repeated])
        people = np.repeat(np.arange(len(copies)), [len(part) for part in repeated])  # a copy is a user of its own
        if len(set(labels[order])) < 2:
            assert np.isnan([values[name][replicate] for name in ("auc", "uauc", "gauc", "ne")]).all()
            continue
        for name, plain in PLAIN.items():
            if name in ("uauc", "gauc") and not prepared.both[chosen > 0].any():
                assert np.isnan(values[name][replicate])
            else:
                expected = plain(logits[order], labels[order], people)
                assert values[name][replicate] == pytest.approx(expected, rel=1e-12), name


def test_weights_mean_what_they_mean_to_scikit_learn(rng: np.random.Generator) -> None:
    logits, labels, users = sample(rng, users=50)
    prepared = LabelledRows(labels, users)
    counts = rng.integers(0, 5, (1, prepared.num_users)).astype(np.uint8)
    weights = counts[0][prepared.codes]
    assert prepared.weighted("auc", logits)(counts)[0] == pytest.approx(
        roc_auc_score(labels, logits, sample_weight=weights), rel=1e-12
    )
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert prepared.weighted("log_loss", logits)(counts)[0] == pytest.approx(
        sklearn_log_loss(labels, probability, sample_weight=weights), rel=1e-9
    )


def test_users_of_one_class_are_left_out_of_uauc_only() -> None:
    rows = LabelledRows([0, 1, 1, 1, 0], [1, 1, 2, 2, 3])
    assert rows.users_of("uauc") == 1
    assert rows.users_of("auc") == 3
    assert rows.weighted("uauc", [0.2, 0.1, 0.9, 0.8, 0.0])(np.array([[1, 9, 9]], dtype=np.uint8)).tolist() == [0.0]


def test_without_users_rows_are_drawn_and_there_is_no_uauc() -> None:
    rows = LabelledRows([0, 1, 1, 0])
    assert rows.num_users == 4
    assert rows.metrics == ("auc", "log_loss", "ne")
    with pytest.raises(UnimixerError, match="metric='uauc' is not one of auc, log_loss, ne"):
        rows.weighted("uauc", [0.1, 0.2, 0.3, 0.4])


def test_draws_are_the_same_for_every_model_and_take_as_many_users_as_there_are() -> None:
    first, again = UserBootstrap(300, replicates=40, seed=3), UserBootstrap(300, replicates=40, seed=3)
    (counts,) = first.counts()
    assert np.array_equal(counts, next(again.counts()))
    assert (counts.sum(axis=1) == 300).all()
    assert counts.mean(axis=0).std() == pytest.approx(np.sqrt(1 / 40), rel=0.15)
    assert not np.array_equal(counts, next(UserBootstrap(300, replicates=40, seed=4).counts()))


def test_many_users_are_drawn_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels, users = sample(rng, users=50)
    rows = LabelledRows(labels, users)
    value, whole = UserBootstrap(rows.num_users, replicates=30).values(rows, "auc", logits)
    monkeypatch.setattr("unimixer.analysis.significance._BLOCK", 3 * rows.num_users)
    again, parts = UserBootstrap(rows.num_users, replicates=30).values(rows, "auc", logits)
    assert value == again == metrics.auc(logits, labels)
    assert np.array_equal(whole, parts)


def test_the_spread_of_draws_is_the_standard_error_of_a_mean_over_users(rng: np.random.Generator) -> None:
    logits, labels, users = sample(rng, users=400)
    rows = LabelledRows(labels, users)
    _, draws = UserBootstrap(rows.num_users, replicates=2_000).values(rows, "uauc", logits)
    own = metrics.user_auc(logits, labels, users).auc
    assert draws.std() == pytest.approx(own.std() / np.sqrt(len(own)), rel=0.06)


def test_a_thousand_draws_of_thirty_thousand_rows_are_quick(rng: np.random.Generator) -> None:
    logits, labels, users = sample(rng, users=7_500, rows=30_000)
    rows = LabelledRows(labels, users)
    bootstrap = UserBootstrap(rows.num_users)
    began = time.process_time()
    assert len(bootstrap.values(rows, "auc", logits)[1]) == 1_000
    assert time.process_time() - began < 3  # 0.2 s where nothing else runs


REGIMES = {  # standard deviations, in units of the mean: users, seed by user, seed; and where the coverage must lie
    "users": (1.0, 0.0, 0.0, 3, (0.92, 0.98)),
    "seeds": (0.3, 0.0, 1.0, 3, (0.90, 0.98)),
    "both": (1.0, 0.3, 1.0, 5, (0.92, 0.985)),
    "seed by user": (0.3, 1.0, 0.0, 5, (0.95, 1.0)),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_intervals_cover_the_truth_where_the_variances_are_known(regime: str, rng: np.random.Generator) -> None:
    users, both, seeds, number, (least, most) = REGIMES[regime]
    differences = [simulated(rng, users, both, seeds, number) for _ in range(500)]
    coverage = np.mean([one.low < 0.01 < one.high for one in differences])
    assert least <= coverage <= most


def test_p_is_uniform_where_there_is_no_difference(rng: np.random.Generator) -> None:
    values = [simulated(rng, 1.0, 0.0, 0.2, 4, truth=0.0).p for _ in range(400)]
    assert stats.kstest(values, "uniform").pvalue > 0.05


def test_p_is_not_too_small_for_whole_models_that_are_alike(rng: np.random.Generator) -> None:
    """From rows to p: models whose seeds differ in quality, on users who differ in how predictable they are."""
    below = []
    for _ in range(80):
        _, labels, users = sample(rng, users=80, rows=500)
        rows, ease = LabelledRows(labels, users), rng.normal(1.0, 0.5, 500)[users]
        bootstrap = UserBootstrap(rows.num_users, replicates=150, seed=int(rng.integers(1 << 30)))
        scores = [labels * (ease + rng.normal(0, 0.15)) + rng.normal(size=500) for _ in range(6)]
        values, draws = zip(*(bootstrap.values(rows, "auc", score) for score in scores), strict=True)
        one = difference(values[:3], values[3:], draws[:3], draws[3:], num_users=rows.num_users)
        below.append(one.p is not None and one.p < 0.05)
    assert np.mean(below) <= 0.1


def test_a_difference_by_hand() -> None:
    base = np.zeros((2, 4))
    model = np.array([[0.0, 2.0, 0.0, 2.0], [2.0, 4.0, 2.0, 4.0]])  # means over seeds 1, 3, 1, 3: variance 4/3
    result = difference([1.0, 3.0], [0.0, 0.0], model, base, num_users=5)
    assert result.estimate == 2.0
    assert result.by_seed == (1.0, 3.0)
    assert result.users_deviation**2 == pytest.approx(4 / 3)
    assert result.seeds_deviation == pytest.approx(1.0)  # variance 2, two seeds
    errors = np.random.default_rng(0).standard_t((4, 1), size=(400_000, 2)) @ [np.sqrt(4 / 3), 1.0]
    assert result.p == pytest.approx(np.mean(np.abs(errors) > 2), rel=0.02)
    assert np.mean(np.abs(errors) < result.high - result.estimate) == pytest.approx(0.95, abs=0.002)


def test_one_seed_has_an_interval_over_users_and_no_p() -> None:
    result = difference([0.7], [0.6], [[0.6, 0.7, 0.8]], [[0.6, 0.6, 0.6]], num_users=9)
    assert result.p is None
    assert result.seeds_deviation is None
    assert result.high - result.low == pytest.approx(2 * 0.1 * stats.t.ppf(0.975, 8))


def test_a_model_against_itself_is_not_different() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 20))
    result = difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], draws, draws, num_users=9)
    assert (result.estimate, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("estimate", "users", "runs"),
    [
        (1.0, 0.0, 7),  # t(6) / sqrt(7) = 0.92, t(5) / sqrt(6) = 1.05
        (-1.0, 0.0, 7),
        (10.0, 0.0, 2),  # t(1) / sqrt(2) = 8.98
        (1.0, 0.3, 9),  # p = .043, and with eight .053
        (1.0, 0.6, None),  # 1.96 * 0.6 is more than the difference
    ],
)
def test_the_runs_that_decide_a_difference(estimate: float, users: float, runs: int | None) -> None:
    measured = Difference(estimate, 0, 0, 0.5, 3, (), users, 3**-0.5)  # the seeds have a deviation of 1
    assert runs_needed(measured, num_users=10_000) == runs
    assert runs_needed(Difference(estimate, 0, 0, None, 1, (), users, None), num_users=10_000) is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_is_below_a_level_at_most_as_often_as_it_says(seeds: int) -> None:
    """Two errors that are known: other users 1, other seeds a third of it, as much, three times as much."""
    rng, number, places = np.random.default_rng(seeds), 20_000, np.geomspace(1e-3, 30, 50)
    for level in (0.05, 0.01, 0.001):
        reaches = [half_width(level, (1.0, 1e6), (error, seeds - 1)) for error in places]
        for share in (0.3, 1.0, 3.0):
            by_seed = share * seeds**0.5 * rng.normal(size=(number, seeds))
            errors = by_seed.std(axis=1, ddof=1) / seeds**0.5
            estimates = rng.normal(size=number) + by_seed.mean(axis=1)
            false_positives = np.mean(np.abs(estimates) > np.interp(errors, places, reaches))
            assert false_positives <= level + 3 * (level / number) ** 0.5


def test_the_common_approximation_has_sixteen_times_as_many_small_p_as_it_says() -> None:
    """Satterthwaite's, with three seeds that scatter three times as much as the users: why the exact sum is taken."""
    rng, number, level = np.random.default_rng(0), 100_000, 0.001
    by_seed = 3 * 3**0.5 * rng.normal(size=(number, 3))
    variances = by_seed.var(axis=1, ddof=1) / 3
    freedom = (1 + variances) ** 2 / (1e-6 + variances**2 / 2)
    t = np.abs(rng.normal(size=number) + by_seed.mean(axis=1)) / (1 + variances) ** 0.5
    assert 12 * level < np.mean(2 * stats.t.sf(t, freedom) < level) < 20 * level


@pytest.mark.parametrize(
    ("first", "second", "reach"),
    [
        ((1.0, 6), (1.0, 6), 2.435 * 2**0.5),  # Fisher and Yates, Statistical Tables, VI: 45 degrees
        ((2.0, 1), (0.5, 1), 2.5 * np.tan(np.pi * 0.475)),  # Cauchy variables add their widths
        ((0.3, 1e9), (0.4, 1e9), 0.5 * stats.norm.isf(0.025)),
        ((0.7, 3), (0.0, 1), 0.7 * stats.t.isf(0.025, 3)),
        ((0.0, 9), (0.0, 2), 0.0),
    ],
)
def test_intervals_of_two_errors_are_those_of_the_tables(first: Part, second: Part, reach: float) -> None:
    assert half_width(0.05, first, second) == pytest.approx(reach, rel=1e-3) == half_width(0.05, second, first)
    assert two_sided(reach, first, second) == pytest.approx(0.05 if reach else 1.0, rel=2e-3)


def test_an_error_that_is_not_known_makes_no_p_and_no_interval() -> None:
    for parts in (((np.nan, 4), (0.1, 2)), ((0.1, 4), (np.nan, 2))):
        assert np.isnan(two_sided(0.3, *parts))
        assert np.isnan(half_width(0.05, *parts))


def test_two_seeds_that_agree_by_chance_do_not_decide_beyond_what_one_degree_of_freedom_allows() -> None:
    """25 standard errors of the users are nothing for users and seeds together: p was 4e-137."""
    assert 1e-6 < two_sided(25.0, (1.0, 1e5), (1e-4, 1)) < 1e-5
    assert two_sided(25.0, (1.0, 1e5), (0.0, 1)) < 1e-100


def test_holm_of_a_textbook_example() -> None:
    # four comparisons: 4 x .005, 3 x .01, 2 x .03, then .04 not below its predecessor
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_stays_between_none_and_bonferroni(values: list[float]) -> None:
    corrected = holm(values)
    assert all(p <= c <= min(1.0, len(values) * p) + 1e-15 for p, c in zip(values, corrected, strict=True))
    ranks = sorted(range(len(values)), key=values.__getitem__)
    assert [corrected[place] for place in ranks] == sorted(corrected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference([], [], np.ones((0, 3)), np.ones((0, 3)), num_users=3), "no seeds"),
        (lambda: difference([1.0], [1.0, 2.0], [[1.0]], [[1.0]], num_users=3), r"base has shape \(2,\)"),
        (lambda: difference([1.0], [1.0], [[1.0, 2.0]], [[1.0]], num_users=3), r"base_draws has shape \(1, 1\)"),
        (lambda: difference([1.0], [1.0], [[1.0]], [[1.0]], num_users=1), "num_users=1: a bootstrap over users"),
        (lambda: LabelledRows([1, 1], [1, 2]), "AUC needs both classes"),
        (lambda: LabelledRows([1, 0], [1, 2, 3]), r"users has shape \(3,\)"),
        (lambda: LabelledRows([1, 0]).weighted("auc", [0.1]), "labels has shape"),
        (lambda: LabelledRows([1, 0]).weighted("auc", [0.1, np.nan]), "logits, row 1: nan is not a score"),
        (lambda: LabelledRows([1, 0]).weighted("auc", [0.1, 0.2])(np.ones((2, 3), np.uint8)), "one column a user"),
    ],
)
def test_what_cannot_be_judged_is_said(call: Any, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        call()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def sample(rng: np.random.Generator, *, users: int, rows: int = 3_000) -> Columns:
    """Logits that know something, with ties."""
    labels = (rng.random(rows) < 0.4).astype(np.uint8)
    logits = np.round(rng.normal(size=rows) + 0.9 * labels, 2).astype(np.float32)
    return logits, labels, rng.integers(0, users, rows)


def simulated(
    rng: np.random.Generator, users: float, both: float, seeds: float, number: int, *, truth: float = 0.01
) -> Difference:
    """A metric that is a mean over users of: what is so for the user, for the seed, and for both together."""
    people, draws, unit = 60, 150, 0.001
    own = rng.normal(size=people) * users + rng.normal(size=(number, people)) * both
    own = truth + unit * (own * np.sqrt(people) + rng.normal(size=(number, 1)) * seeds)
    chosen = rng.multinomial(people, np.full(people, 1 / people), size=draws) / people
    base = np.full(number, 0.7)
    model_draws = base[:, None] + own @ chosen.T
    return difference(base + own.mean(axis=1), base, model_draws, np.tile(base[:, None], draws), num_users=people)
