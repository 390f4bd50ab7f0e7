"""Describe how a study and a scaling law are computed and how to read them, in paragraphs with a subject each."""

from __future__ import annotations

from collections.abc import Iterable

from unimixer.analysis import bootstrap, significance
from unimixer.analysis.comparison import BETTER, INCONCLUSIVE, WORSE, ComparisonReport
from unimixer.analysis.power_law import GAIN, SHORT_RANGE
from unimixer.analysis.scaling_laws import FAR, Analysis

COVERED = "92 to 98%"
"""How often the interval of the exponent held the truth in simulations; the tests repeat them."""


def study_method(comparison: ComparisonReport) -> list[tuple[str, str]]:
    """Describe the training runs of a study and the test of their differences."""
    level = significance.LEVEL
    return [
        (
            "Equal terms",
            "At each budget every model is sized to the same number of dense parameters (or FLOPs of a forward pass), "
            "within 2%. Features, batches, steps and the order of the rows for a seed are the same. Embedding tables "
            "are not part of the budget.",
        ),
        (
            "Learning rates",
            "Validation rows choose the rates of every model from the same small grid, with the first seed. "
            "The test rows play no part in any choice.",
        ),
        (
            "Seeds",
            "A seed sets the initial weights and the order of the rows. Mean and spread (standard deviation) are over "
            "seeds. One seed has no spread and supports no conclusion.",
        ),
        (
            "Difference",
            f"The metric of a model minus that of {comparison.base} on the same test rows, seed by seed, then the mean "
            "over the seeds that both have.",
        ),
        (
            "Interval",
            "The interval covers two sources of chance. Other users could have been in the test: all users are drawn "
            f"again {comparison.replicates:,} times with replacement, each with all impressions, the same draw for "
            "every model and seed, and the variance of the mean difference is taken. Other seeds could have "
            "been drawn: the variance of the differences over seeds, divided by their number, is the second source. "
            "The error is the sum of two Student variables with these two standard errors (Behrens and Fisher). Two or "
            f"three seeds that differ much have wide intervals, which cover the stated {1 - level:.0%}. An effect of "
            "seed and user together counts in both sources, so the interval is wide rather than narrow.",
        ),
        (
            "Many comparisons",
            "Each data set and budget (each group of models, in an ablation) is one family: all tasks, metrics and "
            "models in it are corrected together after Holm. Normalized entropy is the log loss divided by one number "
            "of the test rows, so the two count as one comparison.",
        ),
        (
            "Words",
            f"A model is “{BETTER}” or “{WORSE}” only if the corrected p is below {level}; ahead is better, which for "
            f"log loss and NE is lower. Everything else is “{INCONCLUSIVE}”. That does not prove equality: the "
            "interval says how large the difference may still be.",
        ),
        (
            "Metrics",
            "AUC is exact, a tie counts half. UAUC is the plain mean of AUC over users with both labels, GAUC the same "
            "weighted by impressions; both leave out users with one label only. NE is the log loss divided by the "
            "entropy of the mean label. Calibration is the sum of predicted probabilities divided by the sum of "
            "labels. Samples/s are of training, on the machine of the rows, with as many processes as the rows say.",
        ),
        (
            "Not covered",
            "One training log and one period of test: another month, another site or another set of features may rank "
            "the models otherwise. The choice of the learning rate is taken as given.",
        ),
    ]


def scaling_method(analysis: Analysis, *, joint: bool) -> list[tuple[str, str]]:
    """Describe the fit of scaling laws and the comparison of their exponents.

    Args:
        analysis: any of the laws.
        joint: whether a law over parameters and rows is part of the report.
    """
    law = (
        "Each model has the law dAUC = a N^b, as UniMixer's authors fit it (arXiv:2604.00590): a straight line in "
        "logarithms."
        if analysis.form == GAIN
        else "Each model has the law error = c + a N^-b. No model goes below the floor c: it is one less the best "
        "reachable AUC where that is known or given, and 0 for the excess log loss; else it is fitted between 0 and "
        "the smallest error. A fitted "
        "floor and the exponent trade against each other, so their intervals are much wider."
    )
    paragraphs = [
        ("Law", law),
        (
            "Fit",
            "Residuals are of logarithms. The loss is Huber's: square up to 1.345 robust standard deviations, straight "
            "beyond, so that one diverged run does not turn the line; the fit starts from several floors and exponents "
            "and keeps the best. R² is the share of the variance of the logarithms that the law explains.",
        ),
        (
            "Interval",
            f"A bootstrap in two steps with {analysis.replicates:,} draws: sizes keep their place, and each gets one "
            "of the residuals that the runs of a size share, then each run one of the deviations of seeds around their "
            "size. Few sizes estimate the noise poorly, so each draw draws its level too, which gives the tails of "
            "Student's t with as many degrees of freedom as there are sizes less coefficients. The stated "
            f"{bootstrap.LEVEL:.0%} covered the planted exponent in {COVERED} of simulated sweeps of four to eight "
            "sizes.",
        ),
        (
            "Comparison",
            "The same bootstrap compares the exponents of two models, each model drawn on its own; p is twice the "
            "share of draws on the rarer side of no difference. All pairs are corrected together after Holm, and a "
            "pair gets a word only if its corrected p is below 0.05. “Not told apart” is no proof of equality.",
        ),
        (
            "Equal size",
            "The logarithm of the error (or gain) of a seed is drawn over the logarithm of the size by straight lines "
            "between its runs. The ratio of two models is the mean of their difference over the sizes that both cover; "
            "its interval is Student's over the seeds, paired. It holds other seeds, not other test rows.",
        ),
        (
            "Prediction",
            "The interval of the law holds its mean; that of one run adds the noise of a size and a seed. "
            f"Both hold only if the law goes on as it was. A prediction beyond {FAR:g} times the largest size has a "
            f"warning, and so have sizes that span less than a factor of {SHORT_RANGE:g}.",
        ),
    ]
    if joint:
        paragraphs.append(
            (
                "Parameters and data",
                "If runs vary both, error = c + a N^-b + d D^-e over parameters N and training rows D "
                "(arXiv:2203.15556), with the same loss and bootstrap, a size being a pair of both. An F test "
                "compares the misses of the pairs with the scatter of their seeds. The law over parameters alone is "
                "fitted at each number of rows, too.",
            )
        )
    paragraphs.append(
        (
            "Not covered",
            "One data set, one recipe and one rule for the learning rate: a rate that suits small sizes better than "
            "large ones bends a curve like a law would. Seeds do not vary the data. The form of the law is taken as "
            "given; look at the residuals for a bend.",
        )
    )
    return paragraphs


def markdown_method(paragraphs: Iterable[tuple[str, str]]) -> str:
    """Write the paragraphs as the last section of a Markdown report."""
    return "\n\n".join(["## Method", *(f"{subject}. {text}" for subject, text in paragraphs)]) + "\n"
