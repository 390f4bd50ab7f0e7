"""AUC, UAUC, GAUC, metrics of lists, the calibration of probabilities: exact, and mergeable over parts and ranks."""

from unimixer.metrics.accumulator import MetricAccumulator, TaskMetrics, lower_is_better
from unimixer.metrics.best import best_auc
from unimixer.metrics.conditional import conditional_logits, conditional_name
from unimixer.metrics.lists import hit_rate, mrr, ndcg
from unimixer.metrics.names import metric_names
from unimixer.metrics.probability import calibration, excess_log_loss, log_loss, normalised_entropy
from unimixer.metrics.ranking import UserAUC, auc, gauc, uauc, user_auc
from unimixer.metrics.reliability import Bin, expected_calibration_error, reliability

__all__ = [
    "Bin",
    "MetricAccumulator",
    "TaskMetrics",
    "UserAUC",
    "auc",
    "best_auc",
    "calibration",
    "conditional_logits",
    "conditional_name",
    "excess_log_loss",
    "expected_calibration_error",
    "gauc",
    "hit_rate",
    "log_loss",
    "lower_is_better",
    "metric_names",
    "mrr",
    "ndcg",
    "normalised_entropy",
    "reliability",
    "uauc",
    "user_auc",
]
