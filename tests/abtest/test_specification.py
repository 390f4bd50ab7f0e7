"""Specifications: what they refuse, one sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments import VALUES, experiment

from unimixer.abtest.specification import Experiment, load_experiment
from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml, parse, read_yaml


@pytest.mark.parametrize("shadow", [True, "true", "yes", "On", 1])
def test_defaults_are_the_name_as_salt_and_the_first_arm_as_control(shadow: object) -> None:
    found = experiment(arms={"watch": {"shadow": shadow}, "old": {}, "new": {}})
    assert (found.salt, found.control, found.unit, found.traffic) == ("mixer", "old", "user_id", 1.0)
    assert found.shadows == ("watch",)
    assert found.weights == {"new": 1.0, "old": 1.0}
    assert found.start_us == 1_772_323_200_000_000
    assert (found.end_us - found.start_us) // 86_400_000_000 == 30


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    given = experiment(
        overrides={7: "new"}, targeting={"tab": [1, "x"]}, layer={"name": "ranking", "buckets": [0, 500]}
    )
    path = tmp_path / "mixer.yaml"
    path.write_text(dump_yaml(given))
    assert load_experiment(path) == given
    assert parse(Experiment, read_yaml(dump_yaml(given), "text"), where="text") == given


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arm": {}}, "unknown key 'arm'; did you mean 'arms'?"),
        ({"arms": {"old": {}}}, "at least two arms"),
        ({"arms": {"old": {}, "new": {"weight": 0}}}, "arms.new.weight=0 must be greater than 0"),
        ({"arms": {"old": {}, "new": {"weigth": 1}}}, "unknown key 'arms.new.weigth'"),
        ({"control": "newer"}, "control='newer' is not an arm that answers; did you mean 'new'?"),
        ({"arms": {"old": {}, "new": {"shadow": True}}, "control": "new"}, "control='new' is not an arm that answers"),
        ({"overrides": {"7": "now"}}, "overrides.7='now' is not an arm that answers; did you mean 'new'?"),
        ({"traffic": 1.5}, "traffic=1.5: input should be less than or equal to 1"),
        ({"end": "2026-03-01"}, "end=2026-03-01 must be after start=2026-03-01"),
        ({"start": "1. March"}, "start='1. March': input should be a day such as 2026-03-01"),
        ({"layer": {"name": "l", "buckets": [500, 400]}}, "buckets=[500, 400] must rise and lie within 0 and 1,000"),
        ({"targeting": {"tab": []}}, "input should be a list of at least one value"),
        ({"overrides": {"7": "new", "7.0": "old"}}, "every unit once"),
        ({"metrics": [{"name": "ctr", "kind": "ratio", "event": "click"}]}, "denominator goes with kind 'ratio'"),
        ({"metrics": [{"name": "back", "kind": "retention", "event": "visit"}]}, "day goes with kind 'retention'"),
        ({"metrics": [{"name": "days", "kind": "active-days", "event": "visit"}]}, "needs window_days"),
        ({"metrics": [{"name": "m", "kind": "mean", "event": "e", "margin": 0.1}]}, "margin goes with guardrail"),
        ({"metrics": VALUES["metrics"] * 2}, "metrics: 'ctr' is given twice"),
        ({"version": 2**31}, "version=2147483648: input should be less than 2147483648"),
        ({"name": "a b"}, "name='a b': string should match pattern"),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnimixerError) as found:
        experiment(**changes)
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)
