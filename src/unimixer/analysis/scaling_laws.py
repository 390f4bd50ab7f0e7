"""Analyze the points of a file: fit laws, compare exponents, predict other sizes, and collect warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from unimixer.analysis.bootstrap import LEVEL, REPLICATES, BootstrapOptions, interval
from unimixer.analysis.curve_fit import Array
from unimixer.analysis.equal_size import SizeRatio, compare_at_equal_size
from unimixer.analysis.joint_law import NEEDED, JointLaw, fit_joint
from unimixer.analysis.points import SAME_ROWS, Points
from unimixer.analysis.power_law import Law, fit_law, needed_sizes
from unimixer.analysis.series import Reading, Series, build_series, words_of
from unimixer.analysis.significance import holm_where_known
from unimixer.analysis.units import ERROR
from unimixer.errors import UnimixerError, check_positive

FAR = 8.0
"""Multiple of the largest size beyond which a prediction comes with a warning."""
AHEAD_BY = 4.0
"""Multiple of the largest size that is predicted by default."""
STEEPER, FLATTER, INCONCLUSIVE = "steeper", "flatter", "inconclusive"


@dataclass(frozen=True)
class Predicted:
    """The prediction for a model at a size: the law, its interval, and the interval of one new run."""

    model: str
    size: float
    times: float
    value: float
    band: tuple[float, float] | None
    run: tuple[float, float] | None

    @property
    def far(self) -> bool:
        """Whether the size is far beyond those of the runs."""
        return self.times > FAR


@dataclass(frozen=True)
class Pair:
    """The difference of two exponents, with its interval, its p, and the p corrected for all pairs.

    Without an interval of both exponents the difference has none either.
    """

    model: str
    other: str
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def conclusion(self) -> str:
        """The conclusion: steeper or flatter if the corrected p is below 0.05."""
        if self.holm is None or self.holm >= 1 - LEVEL:
            return INCONCLUSIVE
        return STEEPER if self.difference > 0 else FLATTER


@dataclass(frozen=True)
class Analysis:
    """The laws of all models over one kind of size.

    Args:
        x: ``params``, ``flops``, ``latency_ms`` or ``rows``.
        form: ``gain`` or ``error``.
        words: name of the fitted quantity.
        series: runs by model.
        laws: by model, those that can be fitted.
        left_out: by model without a law, the reason.
        pairs: differences of exponents.
        ratios: models compared at equal size.
        predicted: predictions at other sizes.
        replicates: draws of the bootstrap.
    """

    x: str
    form: str
    words: str
    series: dict[str, Series]
    laws: dict[str, Law]
    left_out: dict[str, str]
    pairs: list[Pair]
    ratios: list[SizeRatio]
    predicted: list[Predicted]
    replicates: int
    notes: tuple[str, ...] = field(default=())

    @property
    def warnings(self) -> list[str]:
        """Sentences that a reader must know, each with its model."""
        warnings = list(self.notes)
        for model, law in self.laws.items():
            warnings += [f"{model}: {text}" for text in (*self.series[model].notes, *law.warnings)]
        warnings += [f"{model}: not fitted: {why}" for model, why in self.left_out.items()]
        tested = sum(pair.p is not None for pair in self.pairs)
        if tested * 2 / (self.replicates + 1) >= 1 - LEVEL:
            warnings.append(
                f"{self.replicates} draws are too few to tell any of {tested} pairs apart after Holm; "
                f"give --replicates {int(2 * tested / (1 - LEVEL)) + 1} or more"
            )
        far = list(dict.fromkeys(one.model for one in self.predicted if one.far))
        if far:
            warnings.append(
                f"{', '.join(far)}: predicted at more than {FAR:g} times the largest size; the interval holds only if "
                "the law does not bend"
            )
        return warnings


def analyze(
    points: Points,
    *,
    x: str = "params",
    reading: Reading | None = None,
    at: Sequence[float] = (),
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Analysis:
    """Fit every model of a file and compare their exponents.

    Args:
        points: the runs.
        x: ``params``, ``flops``, ``latency_ms`` or ``rows``.
        reading: how the metric becomes the fitted quantity.
        at: sizes to predict (default: four times the largest).
        replicates: draws of the bootstrap.
        seed: of the draws.

    Raises:
        UnimixerError: if no model can be fitted.
    """
    if replicates < 100:
        raise UnimixerError(f"replicates={replicates}: percentiles of 95% intervals need at least 100 draws")
    check_positive(**{f"at[{n}]": size for n, size in enumerate(at)})
    reading = reading or Reading()
    form, series = reading.form_of(points), build_series(points, x, reading)
    laws, left_out = {}, {}
    for one, stream in zip(series, np.random.default_rng(seed).spawn(len(series)), strict=True):
        needed = needed_sizes(form, one.irreducible_error)
        if one.sizes < needed:
            left_out[one.model] = f"{one.sizes} size{'s' if one.sizes > 1 else ''}, and {needed} are needed" + (
                " where the floor is fitted (2 where it is given: --best-auc or --floor)" if needed > 2 else ""
            )
            continue
        laws[one.model] = fit_law(
            *(one.x, one.y),
            form=form,
            irreducible_error=one.irreducible_error,
            size=one.size,
            options=BootstrapOptions(replicates, stream),
        )
    if not laws:
        reasons = "; ".join(f"{model}: {why}" for model, why in left_out.items())
        others = [kind for kind in points.sizes if kind != x]
        way = f"fit over another: {', '.join(others)}" if others else "train more sizes"
        raise UnimixerError(f"{points.source}: too few points to fit anything: {reasons}; {way}")
    return Analysis(
        x=x,
        form=form,
        words=words_of(form, points.metric),
        series={one.model: one for one in series},
        laws=laws,
        left_out=left_out,
        pairs=compare_exponents(laws),
        ratios=compare_at_equal_size({one.model: one for one in series}, form),
        predicted=_predicted(laws, at),
        replicates=replicates,
        notes=points.notes,
    )


def analyze_jointly(
    points: Points, reading: Reading | None = None, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, JointLaw]:
    """Fit the joint law over parameters and rows of every model whose runs vary both."""
    reading, laws = reading or Reading(), {}
    form = reading.form_of(points)
    streams = np.random.default_rng(seed).spawn(len(points.models))
    for model, stream in zip(points.models, streams, strict=True) if form == ERROR else ():
        runs = [point for point in points.points if point.model == model]
        rows = [point.rows for point in runs if point.rows is not None]
        varied = len(rows) == len(runs) and max(rows) > SAME_ROWS * min(rows)
        if not varied or min(len(set(rows)), len({point.params for point in runs})) < NEEDED:
            continue
        laws[model] = fit_joint(
            [point.params for point in runs],
            rows,
            [reading.value(point, form, points.metric) for point in runs],
            irreducible_error=reading.irreducible_error_of(runs, form, points.metric),
            options=BootstrapOptions(replicates, stream),
        )
    return laws


def _predicted(laws: dict[str, Law], at: Sequence[float]) -> list[Predicted]:
    predictions = []
    for model, law in laws.items():
        largest = float(law.x.max())
        for size in at or (AHEAD_BY * largest,):
            band, run = law.band(size), law.prediction(size)
            predictions.append(
                Predicted(
                    model=model,
                    size=float(size),
                    times=float(size) / largest,
                    value=float(law.at(size)[0]),
                    band=None if band is None else (float(band[0][0]), float(band[1][0])),
                    run=None if run is None else (float(run[0][0]), float(run[1][0])),
                )
            )
    return predictions


def compare_exponents(laws: Mapping[str, Law]) -> list[Pair]:
    r"""Compare the exponents of every pair of models, corrected together after Holm (1979).

    The test is the bootstrap's: with :math:`d_r = b_{1,r} - b_{2,r}` the difference of the exponents on draw :math:`r`,
    the two models drawn on their own,

    .. math:: p = 2 \min\Bigl(\frac{1 + \#\{d_r \le 0\}}{R + 1}, \frac{1 + \#\{d_r \ge 0\}}{R + 1}\Bigr),

    the level at which the percentile interval would just reach 0. Draws carry the tails of Student's t, so few sizes
    give large p. The smallest p that ``R`` draws can show is :math:`2 / (R + 1)`.
    """
    pairs = [_pair(one, laws[one], two, laws[two]) for one, two in combinations(laws, 2)]
    corrected = holm_where_known([pair.p for pair in pairs])
    return [replace(pair, holm=value) for pair, value in zip(pairs, corrected, strict=True)]


def p_value(draws: Array) -> float:
    """Compute a two-sided p-value from how often differences lie on the rarer side of 0.

    Example:
        >>> import numpy as np
        >>> round(p_value(np.linspace(-1.0, 9.0, 999)), 3)
        0.202
    """
    below, above = int((draws <= 0).sum()), int((draws >= 0).sum())
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(draws) + 1)))


def _pair(one: str, law: Law, two: str, other: Law) -> Pair:
    pair = Pair(one, two, law.b - other.b)
    if law.b_draws is None or other.b_draws is None:
        return pair
    count = min(len(law.b_draws), len(other.b_draws))
    draws = law.b_draws[:count] - other.b_draws[:count]
    low, high = interval(draws)
    return replace(pair, low=low, high=high, p=p_value(draws))
