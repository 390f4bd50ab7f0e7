"""The law over parameters and rows."""

from __future__ import annotations

import numpy as np
import pytest

from unimixer.analysis.bootstrap import BootstrapOptions
from unimixer.analysis.joint_law import fit_joint
from unimixer.analysis.power_law import IrreducibleError
from unimixer.errors import UnimixerError

PARAMS, ROWS = (grid.ravel() for grid in np.meshgrid(np.geomspace(2.5e5, 64e6, 5), np.geomspace(1e6, 64e6, 4)))
TRUTH = 0.2 + 0.05 * (PARAMS / 1e6) ** -0.25 + 0.08 * (ROWS / 1e6) ** -0.35


def test_planted_exponents_come_back_with_and_without_the_floor() -> None:
    for floor in (None, IrreducibleError.known(0.2)):
        law = fit_joint(PARAMS, ROWS, TRUTH, irreducible_error=floor, options=BootstrapOptions(20))
        assert (law.b, law.e, law.c) == pytest.approx((0.25, 0.35, 0.2), abs=5e-3)
        assert (law.a(1e6), law.d(1e6)) == pytest.approx((0.05, 0.08), rel=0.05)
        assert law.r2 == pytest.approx(1.0)


def test_intervals_hold_the_planted_exponents() -> None:
    held = np.zeros(2)
    for number in range(30):
        rng = np.random.default_rng(number)
        law = fit_joint(
            PARAMS,
            ROWS,
            TRUTH * np.exp(0.003 * rng.normal(size=len(TRUTH))),
            irreducible_error=IrreducibleError.known(0.2),
            options=BootstrapOptions(200, rng),
        )
        ends = law.intervals
        assert ends is not None
        held += [ends["b"][0] <= 0.25 <= ends["b"][1], ends["e"][0] <= 0.35 <= ends["e"][1]]
    assert (held >= 25).all()


def test_shares_say_what_is_short() -> None:
    law = fit_joint(PARAMS, ROWS, TRUTH, irreducible_error=IrreducibleError.known(0.2), options=BootstrapOptions(20))
    assert sum(law.shares(1e6, 1e6)) == pytest.approx(1)
    assert law.shares(1e6, 1e6)[1] == pytest.approx(0.08 / 0.13, rel=1e-3)
    assert law.shares(64e6, 1e6)[1] > 0.8  # a large model on few rows is short of rows
    assert law.at(1e6, 1e6)[0] == pytest.approx(0.33, rel=1e-4)


def test_what_cannot_be_fitted_is_refused_and_a_short_range_is_said() -> None:
    with pytest.raises(UnimixerError, match="a joint fit needs 3 different numbers of training rows, and there is 1"):
        fit_joint(PARAMS, np.full_like(ROWS, 1e6), TRUTH)
    with pytest.raises(UnimixerError, match="a joint fit has 5 coefficients, and there are 3 pairs"):
        fit_joint([1e6, 2e6, 3e6], [1e6, 2e6, 3e6], [0.3, 0.28, 0.27])
    with pytest.raises(UnimixerError, match=r"floor=0\.5 must lie below every error"):
        fit_joint(PARAMS, ROWS, TRUTH, irreducible_error=IrreducibleError.known(0.5))
    near = 1e6 * (1 + (ROWS / ROWS.max()))
    law = fit_joint(
        PARAMS, near, 0.2 + 0.05 * (PARAMS / 1e6) ** -0.25 + 0.08 * (near / 1e6) ** -0.35, options=BootstrapOptions(20)
    )
    assert any(text.startswith("training rows span a factor of 2.0 only") for text in law.warnings)


def test_size_that_pays_on_long_logs_alone_has_a_warning_and_its_exponents_by_rows() -> None:
    params, rows = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e4, 8e5, 3), np.geomspace(1.5e5, 6e5, 3)))
    exponents = 0.05 * np.log2(rows / 1.5e5)  # 0, 0.05 and 0.1
    scatter = np.exp(0.005 * np.random.default_rng(0).normal(size=(3, 9)))
    none = IrreducibleError.known(0.0)
    coupled = 0.1 * (params / 5e4) ** -exponents * scatter
    summed = (0.05 * (params / 5e4) ** -0.5 + 0.05 * (rows / 1.5e5) ** -0.5) * scatter
    laws = {}
    for name, error in (("coupled", coupled), ("summed", summed)):
        draws = BootstrapOptions(50, np.random.default_rng(1))
        laws[name] = fit_joint(
            *(np.tile(x, 3) for x in (params, rows)), error.ravel(), irreducible_error=none, options=draws
        )
    misfits = [text for text in laws["coupled"].warnings if "do not act as a sum" in text]
    assert len(misfits) == 1
    assert misfits[0].startswith("pairs of size and rows miss the law by ")
    assert not any("do not act as a sum" in text for text in laws["summed"].warnings)
    for law, planted in zip(laws["coupled"].by_rows.values(), (0, 0.05, 0.1), strict=True):
        assert law.b == pytest.approx(planted, abs=0.01)
        assert len(law.x) == 9


def test_an_exponent_that_the_runs_do_not_bound_is_said() -> None:
    level = np.geomspace(0.1, 0.05, 3)  # over rows; the two larger sizes are level, so any large exponent serves
    params, rows = (grid.ravel() for grid in np.meshgrid([5e4, 2e5, 8e5], [1e5, 2e5, 4e5]))
    error = np.repeat(level, 3) * (1 + 0.2 * (params < 1e5))
    draws = BootstrapOptions(100, np.random.default_rng(0))
    law = fit_joint(params, rows, error, irreducible_error=IrreducibleError.known(0.0), options=draws)
    assert any(
        "(b) ends at the largest that is allowed, 4: these runs do not bound it" in text for text in law.warnings
    )
