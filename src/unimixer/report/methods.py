"""What was done and how differences are judged, in plain words."""

from __future__ import annotations

from unimixer.analysis.comparison import BETTER, INCONCLUSIVE, WORSE, ComparisonReport
from unimixer.analysis.significance import LEVEL


def method(found: ComparisonReport) -> list[tuple[str, str]]:
    """Paragraphs, each with its subject."""
    return [
        (
            "Equal terms",
            "At each budget every model is sized to the same number of dense parameters (or FLOPs of a forward pass), "
            "within 2%. Features, batches, steps and the order of the rows for a seed are the same. Embedding tables "
            "are not part of the budget.",
        ),
        (
            "Learning rates",
            "Every model has its rates chosen on the validation rows from the same small grid, with the first seed. "
            "The test rows play no part in any choice.",
        ),
        (
            "Seeds",
            "A seed moves the initial weights and the order of the rows. Mean and spread (standard deviation) are over "
            "seeds. One seed has no spread, and no conclusion is drawn from it.",
        ),
        (
            "Difference",
            f"The metric of a model minus that of {found.base} on the same test rows, seed by seed, then the mean over "
            "the seeds that both have.",
        ),
        (
            "Interval",
            "Two things could have come out otherwise. Other users could have been in the test: all users are drawn "
            f"again {found.replicates:,} times with replacement, each with all impressions, the same draw for "
            "every model and seed, and the variance of the mean difference is taken. Other seeds could have "
            "been drawn: the variance of the differences over seeds, divided by their number, is added. The interval "
            "is Student's t, its degrees of freedom combined after Satterthwaite. What depends on seed and user "
            f"together is in both parts, so it is wide rather than narrow: the stated {1 - LEVEL:.0%} cover 93 to 99% "
            "in simulations with three seeds or more, and can cover 90% with two seeds that differ much.",
        ),
        (
            "Many comparisons",
            "Each data set and budget (each group of models, in an ablation) is one family: all tasks, metrics and "
            "models in it are corrected together after Holm. Normalised entropy is the log loss over one number of the "
            "test rows, so the two count as one comparison.",
        ),
        (
            "Words",
            f"“{BETTER}” and “{WORSE}” stand where the corrected p is below {LEVEL}; better means lower for log "
            f"loss and NE. Everything else is “{INCONCLUSIVE}”: that is no proof of equality, the "
            "interval says how large the difference may still be.",
        ),
        (
            "Metrics",
            "AUC is exact, a tie counts half. UAUC is the plain mean of AUC over users with both labels, GAUC the same "
            "weighted by impressions; users with one label only are left out of both. NE is the log loss over the "
            "entropy of the mean label. Calibration is the sum of predicted probabilities over the sum of labels. "
            "Samples/s are of training, on the machine of the rows, with as many processes as the rows say.",
        ),
        (
            "Not covered",
            "One training log and one period of test: another month, another site or another set of features may rank "
            "the models otherwise. The choice of the learning rate is taken as given.",
        ),
    ]
