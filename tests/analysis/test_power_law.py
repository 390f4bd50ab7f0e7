"""Laws: planted exponents come back, intervals hold them as often as they say, one bad run does not turn a line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unimixer.analysis.bootstrap import BootstrapOptions, bootstrap, interval, variance_components
from unimixer.analysis.curve_fit import Problem, evaluate, fit, refit
from unimixer.analysis.power_law import IrreducibleError, fit_law
from unimixer.errors import UnimixerError

SIZES = np.geomspace(2.5e5, 64e6, 5)


def gains(a: float, b: float, sizes: NDArray[np.float64] = SIZES) -> NDArray[np.float64]:
    return np.asarray(a * sizes**b)


@settings(max_examples=15, deadline=None)
@given(b=st.floats(0.02, 1.0), a=st.floats(1e-5, 10.0))
def test_a_gain_without_noise_gives_its_law_back(a: float, b: float) -> None:
    law = fit_law(SIZES, gains(a, b), options=BootstrapOptions(100))
    assert law.b == pytest.approx(b, abs=1e-6)
    assert law.a() == pytest.approx(a, rel=1e-4)
    assert law.a(1e6) == pytest.approx(a * 1e6**b, rel=1e-5)
    assert law.r2 == pytest.approx(1.0)


@settings(max_examples=15, deadline=None)
@given(b=st.floats(0.08, 0.8), c=st.floats(0.0, 0.4))
def test_an_error_without_noise_gives_its_law_and_its_floor_back(b: float, c: float) -> None:
    error = c + 0.1 * (SIZES / 1e6) ** -b
    fitted = fit_law(SIZES, error, form="error", options=BootstrapOptions(100))
    given_floor = fit_law(
        SIZES, error, form="error", irreducible_error=IrreducibleError.known(c), options=BootstrapOptions(100)
    )
    assert fitted.b == pytest.approx(b, abs=2e-3)
    assert fitted.c == pytest.approx(c, abs=2e-3)
    assert given_floor.b == pytest.approx(b, abs=1e-5)
    assert given_floor.c == c
    assert given_floor.c_interval is None


def test_a_straight_line_is_numpys_where_noise_has_no_tails() -> None:
    rng = np.random.default_rng(1)
    sizes = np.repeat(np.geomspace(1e5, 1e8, 12), 3)
    metric = gains(1e-3, 0.12, sizes) * np.exp(rng.uniform(-0.02, 0.02, len(sizes)))
    slope = np.polyfit(np.log(sizes), np.log(metric), 1)[0]
    assert fit_law(sizes, metric).b == pytest.approx(
        slope, abs=2e-4
    )  # no residual lies beyond 1.345 deviations by much


def test_one_diverged_run_does_not_turn_the_line() -> None:
    rng = np.random.default_rng(2)
    sizes = np.repeat(SIZES, 3)
    metric = gains(1e-3, 0.12, sizes) * np.exp(0.01 * rng.normal(size=15))
    metric[-1] *= 0.4  # the largest model, one seed
    plain = np.polyfit(np.log(sizes), np.log(metric), 1)[0]
    assert abs(plain - 0.12) > 0.04
    assert abs(fit_law(sizes, metric).b - 0.12) < 0.01


def test_many_refits_are_the_fits_one_by_one() -> None:
    rng = np.random.default_rng(3)
    x = (np.log(SIZES) - np.log(SIZES).mean())[None]
    metric = np.log(0.2 + 0.1 * (SIZES / 1e6) ** -0.3) + 0.002 * rng.normal(size=(6, 5))
    lower, upper = np.array([-20.0, -4.0, 0.0]), np.array([5.0, -1e-3, np.inf])
    problem = Problem(x, metric[0], lower, upper, ((-0.05,), (-0.3,), (-1.0,)))
    first = fit(problem)
    together = refit(problem, first, metric)
    for row, coefficients in zip(metric, together, strict=True):
        alone = refit(problem, first, row[None])[0]
        assert np.allclose(evaluate(coefficients[None], x), evaluate(alone[None], x), atol=1e-6)


def coverage(
    form: str, irreducible_error: IrreducibleError | None, shape: tuple[int, int], deviations: tuple[float, float]
) -> list[float]:
    """Shares of 200 sweeps whose intervals hold the planted exponent, and one new run at four times the size."""
    held, (sizes, seeds), (of_size, of_run) = np.zeros(2), shape, deviations
    for number in range(200):
        rng = np.random.default_rng(number)
        n = np.append(np.repeat(np.geomspace(2.5e5, 16e6, sizes), seeds), 64e6)
        truth = 6e-4 * n**0.12 if form == "gain" else 0.25 + n**-0.2
        shared = np.append(np.repeat(of_size * rng.normal(size=sizes), seeds), of_size * rng.normal())
        metric = truth * np.exp(shared + of_run * rng.normal(size=len(n)))
        law = fit_law(
            n[:-1], metric[:-1], form=form, irreducible_error=irreducible_error, options=BootstrapOptions(150, rng)
        )
        ends, run = law.b_interval, law.prediction(n[-1])
        assert ends is not None
        assert run is not None
        held += [ends[0] <= (0.12 if form == "gain" else 0.2) <= ends[1], run[0][0] <= metric[-1] <= run[1][0]]
    return [float(share) for share in held / 200]


@pytest.mark.parametrize(
    ("form", "irreducible_error", "shape", "deviations"),
    [
        ("gain", None, (5, 2), (0.02, 0.02)),
        ("gain", None, (6, 3), (0.0, 0.03)),
        ("error", IrreducibleError.known(0.25), (6, 2), (0.001, 0.001)),
    ],
)
def test_the_interval_holds_the_planted_exponent_as_often_as_it_says(
    form: str, irreducible_error: IrreducibleError | None, shape: tuple[int, int], deviations: tuple[float, float]
) -> None:
    exponent, run = coverage(form, irreducible_error, shape, deviations)
    assert 0.915 <= exponent <= 0.985  # 95% stated; 200 sweeps know a share within three points
    assert 0.90 <= run <= 0.99


def test_with_a_fitted_floor_it_holds_the_exponent_too() -> None:
    held = 0
    for number in range(40):
        rng = np.random.default_rng(number)
        sizes = np.repeat(np.geomspace(2.5e5, 16e6, 6), 2)
        metric = (0.25 + sizes**-0.2) * np.exp(0.002 * rng.normal(size=12))
        ends = fit_law(sizes, metric, form="error", options=BootstrapOptions(150, rng)).b_interval
        assert ends is not None
        held += ends[0] <= 0.2 <= ends[1]
    assert held >= 35


def test_residuals_are_split_into_sizes_and_seeds() -> None:
    size = np.array([0, 0, 1, 1, 2, 2])
    components = variance_components(np.array([0.3, 0.1, -0.3, -0.1, 0.1, -0.1]), size, free=2)
    assert components.sizes == 1
    assert components.runs == 3
    assert components.between == pytest.approx(np.sqrt(0.2**2 + 0.2**2))
    assert components.within == pytest.approx(np.sqrt(6 * 0.1**2 / 3))
    assert components.seeds == pytest.approx(2)


def test_the_bootstrap_draws_student_t_for_a_straight_line() -> None:
    rng = np.random.default_rng(5)
    x = np.linspace(-1, 1, 6)
    y = 0.3 * x + 0.01 * rng.normal(size=6)
    ends = np.array([-9.0, -4.0, 0.0]), np.array([9.0, 4.0, 0.0])
    problem = Problem(x[None], y, *ends, ((0.1,),))
    fitted = fit(problem)
    drawn = bootstrap(problem, fitted, np.arange(6), BootstrapOptions(4000, rng))
    assert drawn is not None
    low, high = interval(drawn.theta[:, 1])
    deviation = np.sqrt((fitted.residuals**2).sum() / 4 / (x**2).sum())
    assert (high - low) / 2 == pytest.approx(2.776 * deviation, rel=0.2)  # t with 4 degrees of freedom, 97.5%


def test_a_curve_has_a_band_and_a_run_a_wider_interval_that_grows_beyond_the_runs() -> None:
    rng = np.random.default_rng(6)
    law = fit_law(SIZES, gains(1e-3, 0.1) * np.exp(0.02 * rng.normal(size=5)))
    band, run = law.band([4e6, 1e9]), law.prediction([4e6, 1e9])
    assert band is not None
    assert run is not None
    wide, wider = band[1] / band[0], run[1] / run[0]
    assert (wider > wide).all()
    assert wide[1] > 2 * wide[0] - 1
    assert (band[0] < law.at([4e6, 1e9])).all()


def test_what_a_reader_has_to_know_is_said() -> None:
    rng = np.random.default_rng(7)
    short = fit_law(
        [1e6, 2e6, 3e6, 4e6], gains(1e-3, 0.1, np.array([1e6, 2e6, 3e6, 4e6])), options=BootstrapOptions(100)
    )
    assert any("factor of 4.0 only; below 8" in text for text in short.warnings)
    flat = fit_law(SIZES, 0.002 * np.exp(0.05 * rng.normal(size=5)))
    assert any("reaches 0" in text for text in flat.warnings)
    two = fit_law([1e6, 1e8], [0.001, 0.002], options=BootstrapOptions(100))
    assert two.b == pytest.approx(np.log(2) / np.log(100))
    assert two.b_interval is None
    assert two.r2 is None
    assert any("any law fits" in text for text in two.warnings)
    seeds = fit_law([1e6, 1e6, 1e8, 1e8], [0.001, 0.00102, 0.002, 0.00199], options=BootstrapOptions(100))
    assert seeds.b_interval is not None
    assert any("knows the noise of seeds, not that of sizes" in text for text in seeds.warnings)
    line = fit_law(SIZES, 0.3 * (SIZES / 1e6) ** -0.1, form="error", options=BootstrapOptions(100))
    assert any("lies at the end of what is allowed" in text for text in line.warnings)


def test_a_bend_is_seen_and_noise_is_not_taken_for_one() -> None:
    rng = np.random.default_rng(8)
    sizes = np.geomspace(2.5e5, 64e6, 6)
    bent = 1e-3 * sizes**0.1 * np.exp(-0.01 * np.log(sizes / 4e6) ** 2 + 0.003 * rng.normal(size=6))
    assert any(
        "the residuals bend with the size" in text
        for text in fit_law(sizes, bent, options=BootstrapOptions(100)).warnings
    )
    wrong = 0
    for _ in range(60):
        straight = 1e-3 * sizes**0.1 * np.exp(0.02 * rng.normal(size=6))
        wrong += any(
            "residuals bend" in text for text in fit_law(sizes, straight, options=BootstrapOptions(100)).warnings
        )
    assert wrong <= 4


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UnimixerError, match="1 different size: 2 are needed for 2 coefficients"):
        fit_law([1e6, 1e6], [0.1, 0.2])
    with pytest.raises(
        UnimixerError, match="2 different sizes: 3 are needed for 3 coefficients; a floor that is given"
    ):
        fit_law([1e6, 2e6], [0.2, 0.1], form="error")
    with pytest.raises(UnimixerError, match=r"floor=0\.2 must lie below every error, and the smallest is 0\.15"):
        fit_law([1e6, 2e6], [0.3, 0.15], form="error", irreducible_error=IrreducibleError.known(0.2))
    with pytest.raises(UnimixerError, match="the gain must be finite and greater than 0 in every run"):
        fit_law([1e6, 2e6], [0.3, float("nan")])
    with pytest.raises(UnimixerError, match="form='loss' is not one of gain, error"):
        fit_law([1e6, 2e6], [0.3, 0.2], form="loss")
