"""What was done to fit and to compare, in plain words."""

from __future__ import annotations

from unimixer.analysis.bootstrap import LEVEL
from unimixer.analysis.power_law import GAIN, SHORT_RANGE
from unimixer.analysis.scaling_laws import FAR, Analysis

COVERED = "92 to 98%"
"""How often the interval of the exponent held the truth in simulations; the tests repeat them."""


def method(found: Analysis, *, joint: bool) -> list[tuple[str, str]]:
    """Paragraphs, each with its subject."""
    law = (
        "Of each model, dAUC = a N^b, as UniMixer's authors do (arXiv:2604.00590): a straight line in logarithms."
        if found.form == GAIN
        else "Of each model, error = c + a N^-b. The floor c is what no model goes below: one less the best reachable "
        "AUC where that is known or given, else fitted between 0 and the smallest error. A fitted floor and the "
        "exponent trade against each other, so their intervals are much wider."
    )
    told = [
        ("Law", law),
        (
            "Fit",
            "Residuals are of logarithms. The loss is Huber's: square up to 1.345 robust standard deviations, straight "
            "beyond, so that one diverged run does not turn the line; the fit starts from several floors and exponents "
            "and the best is kept. R² is the share of the variance of the logarithms that the law explains.",
        ),
        (
            "Interval",
            f"A bootstrap in two steps with {found.replicates:,} draws: sizes keep their place, and each gets one of "
            "the residuals that the runs of a size share, then each run one of the deviations of seeds around their "
            "size. Few sizes know the noise badly, so each draw draws its level too, which gives the tails of "
            f"Student's t with as many degrees of freedom as there are sizes less coefficients. The stated {LEVEL:.0%} "
            f"covered the planted exponent in {COVERED} of simulated sweeps of four to eight sizes.",
        ),
        (
            "Comparison",
            "Exponents of two models are compared by the same bootstrap, each model drawn on its own; p is twice the "
            "share of draws on the rarer side of no difference. All pairs are corrected together after Holm, and a "
            "word stands only where the corrected p is below 0.05. “Inconclusive” is no proof of equality.",
        ),
        (
            "Prediction",
            "The interval of the law says where its mean lies, that of one run adds the noise of a size and a seed. "
            f"Both hold only if the law goes on as it was. Beyond {FAR:g} times the largest size there is a warning, "
            f"and where sizes span less than a factor of {SHORT_RANGE:g} there is one too.",
        ),
    ]
    if joint:
        told.append(
            (
                "Parameters and data",
                "Where runs vary both, error = c + a N^-b + d D^-e over parameters N and training rows D "
                "(arXiv:2203.15556), with the same loss and bootstrap, a size being a pair of both.",
            )
        )
    told.append(
        (
            "Not covered",
            "One data set, one recipe and one rule for the learning rate: a rate that suits small sizes better than "
            "large ones bends a curve like a law would. Seeds do not vary the data. The form of the law is taken as "
            "given; look at the residuals for a bend.",
        )
    )
    return told
