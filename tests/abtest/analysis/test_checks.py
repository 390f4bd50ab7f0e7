"""Every broken experiment is caught with one sentence, and shows no effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from abtest_cases import HOUR, database, experiment, simulate
from scipy.stats import binom, multinomial

from unimixer.abtest.analysis.check import LEVEL, Check, exceeds
from unimixer.abtest.analysis.checks import balance_limit, fixed_split_p_value, split_check
from unimixer.abtest.analysis.reading import Reading, read_experiment
from unimixer.abtest.records import Covariate, Exposure, Outcome
from unimixer.abtest.specification import DAY_US, Experiment
from unimixer.errors import UnimixerError

Rows = tuple[list[Exposure], list[Outcome]]
PLAN = experiment()


@pytest.fixture(scope="module")
def sound() -> Rows:
    return simulate(PLAN, units=1_200)


def number(unit: str) -> int:
    return int(unit[1:])


def skewed(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Two fifths of the units of an arm are lost."""
    lost = {row.unit for row in exposures if row.arm == "mixer" and number(row.unit) % 5 < 2}
    return [row for row in exposures if row.unit not in lost], [row for row in outcomes if row.unit not in lost]


def in_two_arms(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Every hundredth unit sees the arms in turn."""
    turned = [
        row._replace(arm=("control", "mixer")[place % 2]) if number(row.unit) % 100 == 0 else row
        for place, row in enumerate(exposures)
    ]
    return turned, outcomes


def losing(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """An arm loses a fifth of its outcomes, whole requests."""
    arms = {row.request_id: row.arm for row in exposures}
    lost = {request for place, request in enumerate(arms) if arms[request] == "mixer" and place % 5 == 0}
    return exposures, [row for row in outcomes if row.request_id not in lost]


def losing_a_day(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """The outcomes of an arm do not arrive on one day."""
    arms = {row.unit: row.arm for row in exposures}
    return exposures, [
        row for row in outcomes if arms[row.unit] != "mixer" or (row.time - PLAN.start_us) // DAY_US != 9
    ]


def without_clicks(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """The event of a metric is named otherwise."""
    return exposures, [row._replace(event="tap") if row.event == "click" else row for row in outcomes]


def ahead(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Every twentieth unit has a clock one year ahead."""
    return exposures, [
        row._replace(time=row.time + 365 * DAY_US) if number(row.unit) % 20 == 0 else row for row in outcomes
    ]


def server_ahead(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """One server has a clock far ahead."""
    return [*exposures, exposures[0]._replace(request_id="x", time=PLAN.end_us + 999 * DAY_US)], outcomes


def before_exposure(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Every twentieth unit dates outcomes an hour before the request."""
    return exposures, [row._replace(time=row.time - HOUR) if number(row.unit) % 20 == 0 else row for row in outcomes]


def with_bots(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Five units click all day long."""
    more = []
    for unit in range(5):
        row = next(row for row in exposures if number(row.unit) == unit)
        for event in range(2_000):
            at = row.time + event * 1_000_000
            more.append(Outcome(f"bot-{unit}-{event}", row.unit, "view", 1.0, at, at, None, None))
    return exposures, outcomes + more


def unregistered(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """Half of the exposures come from a version that nobody registered."""
    return [row._replace(version=1 + number(row.unit) % 2) for row in exposures], outcomes


def renamed(exposures: list[Exposure], outcomes: list[Outcome]) -> Rows:
    """An arm was served that the specification does not have."""
    return [row._replace(arm="mlp") if number(row.unit) % 9 == 0 else row for row in exposures], outcomes


CASES: list[tuple[Callable[[list[Exposure], list[Outcome]], Rows], str, str]] = [
    (skewed, "sample ratio", "is not the configured one"),
    (renamed, "sample ratio", "units saw 'mlp', which the specification has no arm for"),
    (in_two_arms, "one arm a unit", "units (0."),
    (losing, "outcomes arrive", "outcomes of mixer are lost on their way"),
    (losing_a_day, "outcomes arrive", "exposures on 2026-03-10 and no outcome, while other arms have some"),
    (without_clicks, "outcomes arrive", "no unit has an outcome 'click' after its exposure"),
    (ahead, "clocks", "are dated over an hour after they were received"),
    (server_ahead, "clocks", "1 exposures lie in the future"),
    (before_exposure, "exposure before outcome", "are dated before the exposure that they answer"),
    (with_bots, "bots", "5 units have over"),
    (unregistered, "specification", "units were exposed under version 2, which is not registered"),
]


def read(
    path: Path, rows: Rows, plan: Experiment = PLAN, *, as_of: int | None = None, served: Experiment | None = None
) -> Reading:
    events = database(path / "events.sqlite", served or plan, *rows)
    try:
        return read_experiment(plan, events, as_of=as_of or plan.end_us, now=PLAN.end_us + DAY_US)
    finally:
        events.close()


@pytest.mark.parametrize(("spoil", "name", "words"), CASES, ids=[spoil.__name__ for spoil, _, _ in CASES])
def test_a_broken_experiment_is_caught_with_its_sentence(
    spoil: Callable[[list[Exposure], list[Outcome]], Rows], name: str, words: str, sound: Rows, tmp_path: Path
) -> None:
    reading = read(tmp_path, spoil(*sound))
    assert reading.verdict.decision == "broken"
    assert reading.effects == reading.segments == ()
    failed = [check for check in reading.checks if not check.passed]
    assert failed[0].name == name
    assert words in failed[0].sentence
    assert ". " not in failed[0].sentence  # one sentence
    assert f"{name}: {failed[0].sentence}" in reading.verdict.reasons


def test_a_sound_experiment_passes_every_check(sound: Rows, tmp_path: Path) -> None:
    reading = read(tmp_path, sound)
    assert [check.name for check in reading.checks if not check.passed] == []
    assert len(reading.effects) == 2


def test_peeking_with_fixed_intervals_waits_and_shows_nothing(sound: Rows, tmp_path: Path) -> None:
    reading = read(tmp_path, sound, as_of=PLAN.start_us + 7 * DAY_US)
    assert reading.verdict.decision == "keep running"
    assert reading.effects == ()
    assert "fixed intervals hold for one look at the end, 2026-03-15, and not before" in reading.verdict.reasons[0]


def test_a_sequential_reading_may_look_every_day(sound: Rows, tmp_path: Path) -> None:
    plan = experiment(reading="sequential", planned_units=1_200)
    reading = read(tmp_path, sound, plan, as_of=plan.start_us + 7 * DAY_US)
    assert len(reading.effects) == 2


@pytest.mark.parametrize(
    ("changes", "keys"),
    [({"arms": {"control": {}, "mixer": {"weight": 3}}}, "arms"), ({"salt": "x", "alpha": 0.1}, "salt and alpha")],
)
def test_a_specification_other_than_the_served_one_is_caught(
    changes: dict[str, object], keys: str, sound: Rows, tmp_path: Path
) -> None:
    reading = read(tmp_path, sound, experiment(**changes), served=PLAN)
    failed = reading.checks[0]
    assert (failed.name, failed.passed) == ("specification", False)
    assert failed.sentence.startswith(f"{keys} of version 1 differs from the version that was served")


def test_a_specification_that_changed_in_the_middle_is_caught(sound: Rows, tmp_path: Path) -> None:
    changed = experiment(version=2, salt="other")
    rows = [row._replace(version=1 + number(row.unit) % 2) for row in sound[0]], sound[1]
    events = database(tmp_path / "e.sqlite", PLAN, *rows)
    reading = read_experiment(changed, events, as_of=PLAN.end_us)
    assert reading.verdict.decision == "broken"
    assert "salt changed between version 1 and 2 while units were exposed" in reading.verdict.reasons[0]


def test_traffic_may_grow_in_the_middle(sound: Rows, tmp_path: Path) -> None:
    first, second = experiment(traffic=0.5), experiment(version=2, traffic=1.0)
    rows = [row._replace(version=1 + (row.time > PLAN.start_us + 7 * DAY_US)) for row in sound[0]], sound[1]
    events = database(tmp_path / "e.sqlite", first, *rows)
    events.register(second, now=PLAN.start_us + 7 * DAY_US)
    reading = read_experiment(second, events, as_of=PLAN.end_us)
    assert reading.checks[0] == Check(
        "specification", True, "nothing that decides changed while units were exposed (versions 1, 2)"
    )
    assert reading.valid


def test_arms_that_differed_before_the_start_are_caught(sound: Rows, tmp_path: Path) -> None:
    plan = experiment(covariates=["before"])
    arm = {row.unit: row.arm for row in sound[0]}
    values = [
        Covariate("ranker", unit, "before", number(unit) % 10 + (1.5 if arm[unit] == "mixer" else 0)) for unit in arm
    ]
    events = database(tmp_path / "e.sqlite", plan, *sound, values)
    reading = read_experiment(plan, events, as_of=plan.end_us)
    assert reading.verdict.decision == "broken"
    assert "mixer and control differed in before before the start by +0.5" in reading.verdict.reasons[0]


def test_a_metric_that_no_unit_is_old_enough_for_is_no_missing_event(sound: Rows, tmp_path: Path) -> None:
    back = {"name": "back", "kind": "retention", "event": "view", "day": 13}
    plan = experiment(reading="sequential", metrics=[back])
    reading = read(tmp_path, sound, plan, as_of=plan.start_us + 5 * DAY_US)
    assert reading.valid
    assert reading.verdict.reasons == ("mixer: back has too few units that are old enough yet",)


def test_a_metric_with_few_old_units_waits(tmp_path: Path) -> None:
    late = {"name": "back", "kind": "retention", "event": "view", "day": 5}
    plan = experiment(reading="sequential", metrics=[*PLAN.model_dump()["metrics"], late], segments=["country"])
    better = simulate(plan, units=1_200, rates={"mixer": 0.4})
    reading = read(tmp_path, better, plan, as_of=plan.start_us + 7 * DAY_US)
    assert {effect.metric for effect in reading.effects} == {"ctr", "long_views"}
    assert "mixer: back has too few units that are old enough yet" in reading.verdict.reasons
    least = min(reading.effects, key=lambda effect: effect.p)
    assert least.p_corrected == pytest.approx(3 * least.p, abs=0)  # the third metric counts from the first look on
    assert min(min(effect.units, effect.units_control) for effect in reading.segments) >= 100


def test_a_day_in_the_future_is_refused(sound: Rows, tmp_path: Path) -> None:
    events = database(tmp_path / "e.sqlite", PLAN, *sound)
    with pytest.raises(UnimixerError, match="as of 2026-03-15: the day lies in the future"):
        read_experiment(PLAN, events, as_of=PLAN.end_us, now=PLAN.end_us - 1)


@pytest.mark.parametrize("version", [1, 2])
def test_an_end_that_comes_nearer_is_no_way_to_look_early(version: int, sound: Rows, tmp_path: Path) -> None:
    sooner = experiment(version=version, end="2026-03-05")
    reading = read(tmp_path, sound, sooner, as_of=sooner.end_us, served=PLAN)
    assert reading.verdict.decision == "broken"
    assert not reading.effects
    assert "end" in reading.checks[0].sentence
    assert "read with the registered specification" in reading.checks[0].sentence


@pytest.mark.parametrize("reading", ["fixed", "sequential"])
def test_a_shadow_alone_is_compared_with_nothing(reading: str, tmp_path: Path) -> None:
    plan = experiment(arms={"control": {}, "mixer": {"shadow": True}}, reading=reading)
    found = read(tmp_path, simulate(plan, units=150), plan)
    assert found.verdict.decision == "not decidable"
    assert found.verdict.reasons == ("no arm but the control 'control' answers, so nothing is compared",)
    assert "p 1.000" in found.checks[1].sentence


def test_a_segment_that_no_context_holds_is_named(sound: Rows, tmp_path: Path) -> None:
    plan = experiment(segments=["country", "contry"], reading="sequential")
    sentences = {check.name: check.sentence for check in read(tmp_path, sound, plan).checks if check.passed}
    assert sentences["segments"].startswith(
        "no context of an exposure holds 'contry', so no effects are shown for it; "
    )


def test_a_covariate_that_was_never_loaded_is_named(sound: Rows, tmp_path: Path) -> None:
    plan = experiment(covariates=["before"], reading="sequential")
    reading = read(tmp_path, sound, plan, as_of=plan.start_us + 7 * DAY_US)
    assert reading.valid
    assert reading.checks[7].sentence.endswith(
        "; no values, or equal ones, are loaded for before, so no interval becomes narrower"
    )


def test_few_units_wait(tmp_path: Path) -> None:
    plan = experiment(reading="sequential")
    reading = read(tmp_path, simulate(plan, units=120), plan, as_of=plan.start_us + 7 * DAY_US)
    assert reading.verdict.decision == "keep running"
    assert "expected at least 100: wait for more" in reading.verdict.reasons[0]


def test_the_split_is_compared_with_the_configured_one() -> None:
    weighted = experiment(arms={"control": {"weight": 9}, "mixer": {"weight": 1}})
    assert split_check(weighted, {"control": 9_030, "mixer": 970}).passed
    assert not split_check(weighted, {"control": 8_800, "mixer": 1_200}).passed
    assert not split_check(experiment(), {"control": 9_030, "mixer": 970}).passed
    assert not split_check(experiment(reading="sequential"), {"control": 9_030}).passed


@pytest.mark.parametrize(("total", "share"), [(1, 0.01), (100, 0.01), (500, 0.01), (40, 0.5), (3_000, 0.2)])
def test_a_sound_split_fails_at_most_once_in_a_thousand_whatever_the_number_of_units(total: int, share: float) -> None:
    fails = [n for n in range(total + 1) if fixed_split_p_value([total - n, n], [1 - share, share]) < LEVEL]
    assert binom.pmf(fails, total, share).sum() < LEVEL
    if total > 1:  # and a split that is far off does fail
        assert total in fails


def test_a_split_of_three_arms_is_corrected_for_their_number() -> None:
    shares = [0.98, 0.01, 0.01]
    chance = sum(
        multinomial.pmf([60 - a - b, a, b], 60, shares)
        for a in range(61)
        for b in range(61 - a)
        if fixed_split_p_value([60 - a - b, a, b], shares) < LEVEL
    )
    assert 0 < chance < LEVEL
    assert fixed_split_p_value([5_000, 5_000, 4_500], [1 / 3] * 3) < LEVEL


@pytest.mark.parametrize("total", [1, 30, 500, 20_000])
def test_few_of_few_are_no_evidence_of_a_fault(total: int) -> None:
    for share in (0.001, 0.01):
        counts = [n for n in range(total + 1) if exceeds(n, total, share)]
        assert binom.pmf(counts, total, share).sum() < LEVEL
    assert exceeds(500, 20_000, 0.01)
    assert not exceeds(0, 0, 0.01)


def test_the_first_exposure_breaks_nothing(sound: Rows, tmp_path: Path) -> None:
    plan = experiment(reading="sequential", arms={"control": {"weight": 99}, "mixer": {"weight": 1}})
    first = sound[0][0]._replace(arm="mixer")
    late = Outcome("o", first.unit, "click", 1.0, first.time + 9 * HOUR, first.time + HOUR, None, None)
    for outcomes in ([], [late]):
        folder = tmp_path / str(len(outcomes))
        folder.mkdir()
        reading = read(folder, ([first], outcomes), plan, as_of=plan.start_us + 7 * DAY_US)
        assert reading.verdict.decision == "keep running"
        assert not reading.effects


def test_the_limit_of_balance_falls_with_units_and_rises_with_comparisons() -> None:
    assert balance_limit(100, 100, 1) == pytest.approx(3.29 * 0.1414, abs=1e-3)
    assert balance_limit(10**7, 10**7, 1) == 0.02
    assert balance_limit(100, 100, 4) > balance_limit(100, 100, 1)


def test_a_check_is_plain_data() -> None:
    assert json.dumps(Check("bots", True, "none").__dict__)
