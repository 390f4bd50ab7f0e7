"""Rates and temperatures by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.errors import UnimixerError
from unimixer.training.config import OptimizerConfig, TemperatureConfig
from unimixer.training.schedule import linear_temperature, rate, temperature


def test_the_rate_is_constant_unless_asked() -> None:
    assert [rate(OptimizerConfig(), step, 10) for step in (0, 5, 9)] == [1.0, 1.0, 1.0]


def test_warm_up_grows_linearly_from_the_first_step() -> None:
    config = OptimizerConfig(warmup_steps=3)
    assert [rate(config, step, 10) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_decay_ends_at_zero_after_the_last_step() -> None:
    config = OptimizerConfig(decay="linear")
    assert [rate(config, step, 4) for step in (0, 1, 2, 3, 4, 9)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_cosine_decay_is_half_in_the_middle() -> None:
    config = OptimizerConfig(decay="cosine")
    expected = [1.0, 0.8535534, 0.5, 0.1464466, 0.0]
    assert [rate(config, step, 4) for step in range(5)] == pytest.approx(expected)


def test_warm_up_and_decay_multiply() -> None:
    config = OptimizerConfig(warmup_steps=1, decay="linear")
    assert [rate(config, step, 4) for step in range(3)] == [0.5, 0.75, 0.5]


def test_linear_temperature_runs_from_start_to_end() -> None:
    config = TemperatureConfig(schedule="linear", start=1.0, end=0.2)
    assert [temperature(config, step, 4) for step in (0, 2, 4, 8)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("schedule", ["constant", "two-stage"])
def test_other_schedules_stay_at_their_end(schedule: str) -> None:
    config = TemperatureConfig.model_validate({"schedule": schedule, "start": 1.0, "end": 0.3})
    assert [temperature(config, step, 4) for step in range(5)] == [0.3] * 5


def test_linear_schedule_by_hand() -> None:
    assert linear_temperature(0, 100, 1.0, 0.05) == 1.0
    assert linear_temperature(50, 100, 1.0, 0.05) == pytest.approx(0.525)
    assert linear_temperature(100, 100, 1.0, 0.05) == pytest.approx(0.05)
    assert linear_temperature(1000, 100, 1.0, 0.05) == pytest.approx(0.05)


@given(step=st.integers(0, 500), total=st.integers(1, 300), end=st.floats(0.01, 1.0))
def test_linear_schedule_equals_the_papers_maximum(step: int, total: int, end: float) -> None:
    assert linear_temperature(step, total, 1.0, end) == pytest.approx(max(1.0 - (1.0 - end) * step / total, end))


def test_a_temperature_is_positive() -> None:
    with pytest.raises(UnimixerError, match="end=0 must be greater than 0"):
        linear_temperature(1, 10, 1.0, 0)
    with pytest.raises(UnimixerError, match="total=0 must be greater than 0"):
        linear_temperature(1, 0)
