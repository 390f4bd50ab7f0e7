"""The verdict: what is shipped, what is not, and when an experiment goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from abtest_cases import experiment

from unimixer.abtest.analysis.check import Check
from unimixer.abtest.analysis.statistics import Effect
from unimixer.abtest.analysis.verdict import guardrail_state, judge
from unimixer.abtest.specification import DAY_US, Metric

METRICS = [
    {"name": "ctr", "kind": "ratio", "event": "click", "denominator": "view"},
    {"name": "hides", "kind": "mean", "event": "hide", "direction": "down", "guardrail": True, "margin": 0.02},
]
PLAN = experiment(metrics=METRICS)
FINE = (Check("sample ratio", True, "fits"),)


def effect(metric: str, relative: float, half: float, *, p: float | None = None, arm: str = "mixer") -> Effect:
    significant = abs(relative) > half
    return Effect(
        metric,
        arm,
        1_000,
        1_000,
        1.0,
        1 + relative,
        relative,
        relative - half,
        relative + half,
        half / 2,
        relative,
        relative - half,
        relative + half,
        0.01 if significant else 0.5,
        p if p is not None else (0.01 if significant else 0.5) if metric == "ctr" else None,
    )


GUARDED = effect("hides", 0.0, 0.01)


def test_an_improvement_with_guardrails_that_hold_is_shipped() -> None:
    verdict = judge(PLAN, FINE, [effect("ctr", 0.03, 0.01), GUARDED], finished=False)
    assert (verdict.decision, verdict.arm) == ("ship", "mixer")
    assert verdict.reasons == ("mixer: ctr improved by +3.00% (+2.00% to +4.00%)", "mixer: all guardrails hold")
    assert verdict.next_steps[0] == "ship mixer to all units"


def test_a_loss_is_not_shipped() -> None:
    verdict = judge(PLAN, FINE, [effect("ctr", -0.03, 0.01), GUARDED], finished=False)
    assert verdict.decision == "do not ship"
    assert verdict.reasons == ("mixer: ctr got worse by -3.00% (-4.00% to -2.00%)",)


def test_a_harmed_guardrail_stops_an_improvement() -> None:
    verdict = judge(PLAN, FINE, [effect("ctr", 0.03, 0.01), effect("hides", 0.05, 0.02)], finished=True)
    assert verdict.decision == "do not ship"
    assert verdict.reasons[1] == "mixer: guardrail hides is harmed: +5.00% (+3.00% to +7.00%)"


def test_an_undecided_guardrail_waits_until_the_end() -> None:
    effects = [effect("ctr", 0.03, 0.01), effect("hides", 0.0, 0.05)]
    verdicts = [judge(PLAN, FINE, effects, finished=finished) for finished in (False, True)]
    assert [verdict.decision for verdict in verdicts] == ["keep running", "do not ship"]
    assert "may still lose more than its margin of 2.00%" in verdicts[0].reasons[1]


def test_no_effect_waits_until_the_end() -> None:
    effects = [effect("ctr", 0.01, 0.02), GUARDED]
    verdicts = [judge(PLAN, FINE, effects, finished=finished) for finished in (False, True)]
    assert [verdict.decision for verdict in verdicts] == ["keep running", "do not ship"]
    assert verdicts[1].reasons == ("mixer: ctr shows no effect beyond chance: +1.00% (-1.00% to +3.00%)",)


def test_the_corrected_p_value_decides() -> None:
    verdict = judge(PLAN, FINE, [effect("ctr", 0.03, 0.01, p=0.06), GUARDED], finished=True)
    assert verdict.decision == "do not ship"


def test_a_metric_that_shall_fall_improves_by_falling() -> None:
    plan = experiment(metrics=[{**METRICS[0], "direction": "down"}])
    assert judge(plan, FINE, [effect("ctr", -0.03, 0.01)], finished=True).decision == "ship"


def test_of_several_arms_the_largest_gain_is_shipped() -> None:
    plan = experiment(arms={"control": {}, "mixer": {}, "mlp": {}, "wide": {}}, metrics=METRICS[:1])
    effects = [
        effect("ctr", 0.03, 0.01),
        effect("ctr", 0.05, 0.01, arm="mlp"),
        effect("ctr", -0.09, 0.01, arm="wide"),
    ]
    verdict = judge(plan, FINE, effects, finished=True)
    assert (verdict.decision, verdict.arm) == ("ship", "mlp")


def test_a_broken_experiment_says_why_and_nothing_else() -> None:
    failed = Check("bots", False, "5 units click all day")
    verdict = judge(PLAN, (*FINE, failed), [effect("ctr", 0.03, 0.01)], finished=True)
    assert verdict.decision == "broken"
    assert verdict.reasons == ("bots: 5 units click all day",)


@pytest.mark.parametrize(("finished", "decision"), [(False, "keep running"), (True, "not decidable")])
def test_what_cannot_be_judged_is_no_reason_against_an_arm(*, finished: bool, decision: str) -> None:
    few = Check("enough units", False, "the smallest arm has 0 units", breaks=False)
    alone = experiment(arms={"control": {}, "mixer": {"shadow": True}}, metrics=METRICS)
    cases = [(PLAN, (few,), []), (experiment(metrics=[]), FINE, []), (alone, FINE, []), (PLAN, FINE, [GUARDED])]
    verdicts = [judge(plan, checks, effects, finished=finished) for plan, checks, effects in cases]
    assert [verdict.decision for verdict in verdicts] == [decision] * 4
    assert verdicts[-1].reasons == ("mixer: ctr has no value yet, because an arm has no 'view'",)


def test_a_metric_without_units_old_enough_waits() -> None:
    verdict = judge(PLAN, FINE, [effect("ctr", 0.03, 0.01)], finished=False)
    assert verdict.decision == "keep running"
    assert "mixer: hides has too few units that are old enough yet" in verdict.reasons


@pytest.mark.parametrize(
    ("relative", "half", "margin", "state"),
    [
        (0.0, 0.01, 0.02, "holds"),
        (-0.015, 0.004, 0.02, "holds"),  # worse, but within the margin
        (-0.03, 0.02, 0.02, "harmed"),
        (0.0, 0.03, 0.02, "undecided"),
        (0.0, 0.03, None, "holds"),
        (-0.03, 0.01, None, "harmed"),
    ],
)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_guardrail_is_one_sided_with_its_margin(
    relative: float, half: float, margin: float | None, state: str, direction: str
) -> None:
    metric = Metric(name="m", kind="mean", event="e", direction=direction, guardrail=True, margin=margin)
    sign = 1 if direction == "up" else -1
    assert guardrail_state(metric, effect("m", sign * relative, half)) == state


def test_a_guardrail_of_nothing_relative_is_judged_by_its_difference() -> None:
    metric = Metric(name="m", kind="mean", event="e", guardrail=True)
    found = replace(effect("m", -0.5, 0.1), relative=None, relative_low=None, relative_high=None)
    assert guardrail_state(metric, found) == "harmed"


def test_an_experiment_that_is_over_before_a_window_is_not_decidable_until_the_window_is_over() -> None:
    late = {"name": "return", "kind": "retention", "event": "visit", "day": 7}
    plan = experiment(metrics=[*METRICS, late])
    effects = [effect("ctr", 0.03, 0.01), GUARDED]
    assert judge(plan, FINE, effects, finished=False).decision == "keep running"
    closing = plan.end_us + 8 * DAY_US
    day = f"{plan.end + timedelta(days=8)}"
    early, afterwards = (judge(plan, FINE, effects, finished=True, as_of=time) for time in (closing - 1, closing))
    assert early.decision == afterwards.decision == "not decidable"
    assert (
        early.reasons[-1]
        == f"mixer: return has too few units that are old enough yet; the window of the last is over on {day}"
    )
    assert early.next_steps == (
        f"read again on {day}, when the window of the last unit is over; change nothing until then",
    )
    assert afterwards.next_steps[0].startswith("run a longer experiment")
    harmed = [effect("ctr", -0.03, 0.01), GUARDED]  # what is known to be worse needs no window
    assert judge(plan, FINE, harmed, finished=True, as_of=closing - 1).decision == "do not ship"
