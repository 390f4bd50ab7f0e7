import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimixer.blocks import constant_temperature, linear_temperature
from unimixer.errors import UnimixerError


def test_linear_schedule_by_hand() -> None:
    assert linear_temperature(0, 100, 1.0, 0.05) == 1.0
    assert linear_temperature(50, 100, 1.0, 0.05) == pytest.approx(0.525)
    assert linear_temperature(100, 100, 1.0, 0.05) == pytest.approx(0.05)
    assert linear_temperature(1000, 100, 1.0, 0.05) == pytest.approx(0.05)


@given(step=st.integers(0, 500), total=st.integers(1, 300), end=st.floats(0.01, 1.0))
def test_linear_schedule_equals_the_papers_maximum(step: int, total: int, end: float) -> None:
    assert linear_temperature(step, total, 1.0, end) == pytest.approx(max(1.0 - (1.0 - end) * step / total, end))


def test_constant_schedule_is_constant() -> None:
    assert {constant_temperature(step, 10, 0.2) for step in range(20)} == {0.2}


def test_a_temperature_is_positive() -> None:
    with pytest.raises(UnimixerError, match="end=0 must be greater than 0"):
        linear_temperature(1, 10, 1.0, 0)
    with pytest.raises(UnimixerError, match="total=0 must be greater than 0"):
        linear_temperature(1, 0)
