"""AUC, UAUC, GAUC and the calibration of probabilities: exact, and mergeable over parts and ranks."""

from unimixer.metrics.accumulator import MetricAccumulator, TaskMetrics
from unimixer.metrics.best import best_auc
from unimixer.metrics.probability import calibration, log_loss, normalised_entropy
from unimixer.metrics.ranking import UserAUC, auc, gauc, uauc, user_auc

__all__ = [
    "MetricAccumulator",
    "TaskMetrics",
    "UserAUC",
    "auc",
    "best_auc",
    "calibration",
    "gauc",
    "log_loss",
    "normalised_entropy",
    "uauc",
    "user_auc",
]
