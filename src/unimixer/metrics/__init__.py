"""AUC, UAUC, GAUC and the calibration of probabilities: exact, and mergeable over parts and ranks."""

from unimixer.metrics.accumulator import LOWER_IS_BETTER, MetricAccumulator, TaskMetrics
from unimixer.metrics.best import best_auc
from unimixer.metrics.probability import calibration, excess_log_loss, log_loss, normalised_entropy
from unimixer.metrics.ranking import UserAUC, auc, gauc, uauc, user_auc

__all__ = [
    "LOWER_IS_BETTER",
    "MetricAccumulator",
    "TaskMetrics",
    "UserAUC",
    "auc",
    "best_auc",
    "calibration",
    "excess_log_loss",
    "gauc",
    "log_loss",
    "normalised_entropy",
    "uauc",
    "user_auc",
]
