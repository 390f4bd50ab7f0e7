"""Effective and stable rank, by hand and by their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimixer.errors import UnimixerError
from unimixer.inspection.effective_rank import RankMeter, effective_rank, stable_rank


def test_the_identity_uses_all_directions_and_one_direction_is_one() -> None:
    assert effective_rank(torch.eye(5)).item() == pytest.approx(5, abs=1e-12)
    assert stable_rank(torch.eye(5)).item() == pytest.approx(5, abs=1e-12)
    one = torch.outer(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 4.0]))
    assert effective_rank(one).item() == pytest.approx(1, abs=1e-5)
    assert stable_rank(one).item() == pytest.approx(1, abs=1e-12)


def test_singular_values_3_and_1_by_hand() -> None:
    # p = (3/4, 1/4): exp(entropy) = 4 / 3^(3/4); stable rank (9 + 1) / 9
    x = torch.tensor([[0.0, 3.0, 0.0], [-1.0, 0.0, 0.0]])
    assert effective_rank(x).item() == pytest.approx(4 / 3**0.75, abs=1e-12)
    assert stable_rank(x).item() == pytest.approx(10 / 9, abs=1e-12)


def test_a_matrix_of_zeros_has_rank_zero() -> None:
    found = effective_rank(torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]))
    assert found[0] == 0
    assert found[1].item() == pytest.approx(1, abs=1e-6)
    assert stable_rank(torch.zeros(2, 3)) == 0


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 100), scale=st.floats(1e-3, 1e3))
def test_bounds_and_invariance(rows: int, columns: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=generator)).Q
    for rank in (effective_rank, stable_rank):
        found = rank(x).item()
        assert 1 - 1e-9 <= found <= min(rows, columns) + 1e-9
        for other in (scale * x, x.mT, turn @ x):
            assert rank(other).item() == pytest.approx(found, rel=1e-9)
    assert stable_rank(x) <= effective_rank(x) + 1e-9


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(UnimixerError, match="not finite"):
        effective_rank(torch.tensor([[1.0, bad]]))
    with pytest.raises(UnimixerError, match=r"expected matrices \(\.\.\., T, D\)"):
        stable_rank(torch.ones(3))


def test_a_meter_averages_samples_whatever_the_batches() -> None:
    tokens = torch.randn(7, 3, 5)
    meter = RankMeter("here", "norm", (3, 5))
    meter.add(tokens[:4])
    meter.add(tokens[4:])
    found, ranks = meter.statistics(), effective_rank(tokens)
    assert (found.rows, found.num_tokens, found.token_dim) == (7, 3, 5)
    assert found.mean == pytest.approx(ranks.mean().item())
    assert found.share == pytest.approx(ranks.mean().item() / 3)
    assert found.deviation == pytest.approx(math.sqrt(((ranks - ranks.mean()) ** 2).sum().item() / 6))
    assert found.stable_mean == pytest.approx(stable_rank(tokens).mean().item())
    with pytest.raises(UnimixerError, match="here: tokens of shape"):
        meter.add(torch.ones(1, 4, 5))


def test_one_sample_has_no_spread() -> None:
    meter = RankMeter("here", "norm", (3, 3))
    meter.add(torch.eye(3)[None])
    assert (meter.statistics().deviation, meter.statistics().stable_deviation) == (0.0, 0.0)
