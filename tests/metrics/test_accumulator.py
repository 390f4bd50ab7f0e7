from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from unimixer import metrics
from unimixer.errors import UnimixerError
from unimixer.metrics import MetricAccumulator, auc, calibration, gauc, log_loss, normalised_entropy, uauc

TASKS = ("click", "like")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(rows: int = 3_000, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, 2)).astype(np.float32).round(2)
    labels = (rng.random((rows, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return logits, labels, rng.integers(0, 100, rows) ** 2


def filled(*parts: Rows) -> MetricAccumulator:
    accumulator = MetricAccumulator(TASKS, with_users=True)
    for part in parts:
        accumulator.update(*part)
    return accumulator


def cut(rows: Rows, pieces: int) -> list[Rows]:
    return [tuple(part) for part in zip(*(np.array_split(c, pieces) for c in rows), strict=True)]


def test_every_metric_equals_its_function() -> None:
    logits, labels, users = draw()
    for column, (task, found) in enumerate(filled((logits, labels, users)).compute().items()):
        scores, outcome = logits[:, column], labels[:, column]
        assert task == TASKS[column]
        assert found.auc == auc(scores, outcome) == pytest.approx(roc_auc_score(outcome, scores), abs=1e-12)
        assert found.uauc == uauc(scores, outcome, users)
        assert found.gauc == gauc(scores, outcome, users)
        assert found.log_loss == log_loss(scores, outcome)
        assert found.normalised_entropy == normalised_entropy(scores, outcome)
        assert found.calibration == calibration(scores, outcome)
        assert found.positive_rate == pytest.approx(outcome.mean(), abs=1e-6)
        assert (found.num_rows, found.users_counted + found.users_left_out) == (3_000, len(np.unique(users)))


def test_the_result_is_equal_to_the_last_bit_under_permutation_of_the_rows() -> None:
    rows = draw()
    order = np.random.default_rng(1).permutation(len(rows[2]))
    assert filled(rows).compute() == filled((rows[0][order], rows[1][order], rows[2][order])).compute()


def test_a_merge_of_parts_is_the_whole() -> None:
    rows = draw()
    parts = cut(rows, 7)
    left, right = filled(*parts[:3]), filled(*parts[3:])
    right.merge(left)
    assert right.num_rows == 3_000
    assert right.compute() == filled(rows).compute()


def test_state_survives_a_round_trip_as_tensors() -> None:
    rows = draw()
    state = {name: torch.from_numpy(array) for name, array in filled(rows).state().items()}
    restored = filled(draw(50, seed=9))
    restored.load_state(state)
    assert restored.compute() == filled(rows).compute()


def test_tensors_and_arrays_give_the_same() -> None:
    rows = draw()
    tensors = [torch.from_numpy(column) for column in rows]
    accumulator = MetricAccumulator(TASKS, with_users=True)
    accumulator.update(tensors[0].requires_grad_(), tensors[1], tensors[2])
    assert accumulator.compute() == filled(rows).compute()


def test_without_users_there_is_no_uauc() -> None:
    accumulator = MetricAccumulator(("click",), with_users=False)
    accumulator.update([[0.1], [0.2]], [[0], [1]])
    found = accumulator.compute()["click"]
    assert (found.auc, found.uauc, found.gauc, found.users_counted) == (1.0, None, None, 0)
    assert set(accumulator.state()) == {"logits", "labels"}


def test_where_no_user_has_both_classes_uauc_is_none_and_the_count_says_why() -> None:
    accumulator = MetricAccumulator(("click",), with_users=True)
    accumulator.update([[0.1], [0.2]], [[0], [1]], [4, 5])
    found = accumulator.compute()["click"]
    assert (found.uauc, found.gauc, found.users_counted, found.users_left_out) == (None, None, 0, 2)


def test_a_caller_who_reuses_its_buffer_does_not_change_the_rows_before() -> None:
    logits, labels, users = draw(200)
    accumulator = filled((logits, labels, users))
    before = accumulator.compute()
    logits *= -1
    users += 1
    assert accumulator.compute() == before


def test_a_result_is_frozen() -> None:
    found = filled(draw(100)).compute()["click"]
    with pytest.raises(FrozenInstanceError):
        found.auc = 1.0  # type: ignore[misc]


def test_mistakes_are_refused_in_one_sentence() -> None:
    logits, labels, users = draw(1_000)
    with pytest.raises(UnimixerError, match=r"AUC needs both classes: label 'like' is 0 in all 1,000 rows"):
        filled((logits, labels * [1, 0], users)).compute()
    with pytest.raises(UnimixerError, match="no rows: update"):
        filled().compute()
    with pytest.raises(UnimixerError, match=r"logits, row 3, column 1: nan is not a score"):
        filled((np.where(np.arange(2_000).reshape(1_000, 2) == 7, np.nan, logits), labels, users))
    with pytest.raises(UnimixerError, match=r"labels, row 0, column 0: 1.5 is not a label"):
        filled((logits, labels * 0 + 1.5, users))
    with pytest.raises(UnimixerError, match=r"truths='clock' must be some of the tasks"):
        MetricAccumulator(TASKS, truths="clock")
    with pytest.raises(UnimixerError, match=r"truths=\('like',\)\) needs truth, and none was given"):
        MetricAccumulator(TASKS, truths=("like",)).update(logits, labels, users)
    with pytest.raises(UnimixerError, match=r"logits has shape \(1000,\), expected \(any, 2\)"):
        filled((logits[:, 0], labels, users))
    with pytest.raises(UnimixerError, match=r"labels has shape \(999, 2\), expected \(1000, 2\)"):
        filled((logits, labels[1:], users))
    with pytest.raises(UnimixerError, match=r"with_users=True\) needs users, and none were given"):
        MetricAccumulator(TASKS).update(logits, labels)
    with pytest.raises(UnimixerError, match=r"with_users=False\) takes no users, and they were given"):
        MetricAccumulator(TASKS, with_users=False).update(logits, labels, users)
    with pytest.raises(UnimixerError, match="users are float64, expected integers"):
        filled((logits, labels, users / 2))
    with pytest.raises(UnimixerError, match="one or more different names"):
        MetricAccumulator(("click", "click"))
    with pytest.raises(UnimixerError, match="accumulators differ"):
        filled().merge(MetricAccumulator(("click",)))
    with pytest.raises(UnimixerError, match=r"state has \['logits'\], expected \['labels', 'logits', 'users'\]"):
        filled().load_state({"logits": logits})


def test_a_refused_update_leaves_the_accumulator_as_it_was() -> None:
    rows = draw(500)
    accumulator = filled(rows)
    with pytest.raises(UnimixerError):
        accumulator.update(rows[0], rows[1], rows[2][1:])
    assert accumulator.compute() == filled(rows).compute()


def test_the_import_needs_numpy_alone() -> None:
    code = (
        "import sys, unimixer.metrics; print([m for m in ('torch', 'scipy', 'sklearn', 'polars') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names() -> None:
    assert metrics.__all__ == [
        "Bin", "MetricAccumulator", "TaskMetrics", "UserAUC", "auc", "best_auc", "calibration",
        "conditional_logits", "conditional_name", "excess_log_loss",
        "expected_calibration_error", "gauc", "hit_rate", "log_loss", "lower_is_better", "metric_names", "mrr", "ndcg",
        "normalised_entropy", "reliability", "uauc", "user_auc",
    ]  # fmt: skip


def test_metrics_asked_for_are_those_of_their_functions_and_merge() -> None:
    rows = draw()
    names = ("ndcg@5", "MRR", "hitrate@3", "ece", "rig")
    whole = MetricAccumulator(TASKS, metrics=names)
    for part in cut(rows, 4):
        other = whole.empty()
        other.update(*part)
        whole.merge(other)
    found = whole.compute()["click"]
    scores, outcome, users = rows[0][:, 0], rows[1][:, 0], rows[2]
    assert found.asked == {
        "ndcg@5": metrics.ndcg(scores, outcome, users, 5),
        "mrr": metrics.mrr(scores, outcome, users),
        "hitrate@3": metrics.hit_rate(scores, outcome, users, 3),
        "ece": metrics.expected_calibration_error(scores, outcome),
        "rig": 1 - found.normalised_entropy,
    }
    assert found.value("ndcg@5") == found.asked["ndcg@5"]
    assert found.value("auc") == found.auc
    assert len(found.as_dict()["reliability"]) == 10
    assert filled(rows).compute()["click"].as_dict().keys().isdisjoint({"asked", "reliability"})


def test_lists_are_those_of_requests_where_they_are_given() -> None:
    logits, labels, users = draw()
    requests = np.arange(len(users)) // 6
    accumulator = MetricAccumulator(TASKS, metrics=("ndcg@3",), with_requests=True)
    accumulator.update(logits, labels, users, requests=requests)
    expected = metrics.ndcg(logits[:, 1], labels[:, 1], requests, 3)
    assert accumulator.compute()["like"].asked == {"ndcg@3": expected}


def test_metrics_of_lists_need_lists() -> None:
    with pytest.raises(UnimixerError, match="metric ndcg@3 is one of lists; give the users or the requests"):
        MetricAccumulator(TASKS, with_users=False, metrics=("ndcg@3",))


def test_weights_equal_scikit_learn_and_whole_ones_equal_repeated_rows() -> None:
    logits, labels, users = draw(500)
    weights = np.random.default_rng(5).integers(0, 4, 500)
    weighted = MetricAccumulator(TASKS, weighted=True, metrics=("ece", "rig"))
    weighted.update(logits, labels, users, weights=weights)
    repeated = MetricAccumulator(TASKS, metrics=("ece", "rig"))
    repeated.update(*(np.repeat(column, weights, axis=0) for column in (logits, labels, users)))
    for task, found in weighted.compute().items():
        other = repeated.compute()[task]
        for name in ("auc", "uauc", "gauc", "log_loss", "normalised_entropy", "calibration", "positive_rate", "rig"):
            assert found.value(name) == pytest.approx(other.value(name), rel=1e-12), name
    scores, outcome = logits[:, 0], labels[:, 0]
    click = weighted.compute()["click"]
    assert click.auc == pytest.approx(roc_auc_score(outcome, scores, sample_weight=weights), abs=1e-12)
    probabilities = 1 / (1 + np.exp(-scores.astype(float)))
    expected = sk_log_loss(outcome, probabilities, sample_weight=weights)
    assert click.log_loss == pytest.approx(expected, abs=1e-12)


def test_the_excess_log_loss_is_weighted() -> None:
    logits, truth, weights = [[0.0], [1.0], [-1.0]], [[0.5], [0.9], [0.2]], [1, 3, 2]
    labels = [[0], [1], [0]]
    weighted = MetricAccumulator(("click",), with_users=False, truths=("click",), weighted=True)
    weighted.update(logits, labels, truth=truth, weights=weights)
    found = weighted.compute()["click"]
    losses = [metrics.excess_log_loss(z, p) for z, p in zip(logits, truth, strict=True)]
    mean = np.average(losses, weights=weights)
    assert found.excess_log_loss == pytest.approx(mean, rel=1e-12)
    # the linearized error of a ratio of sums, of three rows
    spread = np.sqrt(sum((w * (x - mean)) ** 2 for w, x in zip(weights, losses, strict=True)) / 2 * 3) / 6
    assert found.excess_log_loss_error == pytest.approx(spread, rel=1e-12)


def test_labels_of_one_class_are_refused_before_any_metric_is_measured() -> None:
    accumulator = MetricAccumulator(("click",), with_users=False, metrics=("rig",))
    accumulator.update([[0.0], [1.0]], [[1], [1]])
    with pytest.raises(UnimixerError, match="label 'click' is 1 in all 2 rows"):  # a warning of NumPy is an error
        accumulator.compute()


def test_weights_are_numbers_from_0_on() -> None:
    accumulator = MetricAccumulator(("click",), with_users=False, weighted=True)
    with pytest.raises(UnimixerError, match=r"weights, row 1: -1\.0 is not a weight"):
        accumulator.update([[0.0], [1.0]], [[0], [1]], weights=[1.0, -1.0])
    with pytest.raises(UnimixerError, match="weights are <U1, expected numbers"):
        accumulator.update([[0.0], [1.0]], [[0], [1]], weights=["1", "2"])


def test_rows_that_all_weigh_nothing_have_no_metric() -> None:
    accumulator = MetricAccumulator(("click",), with_users=False, weighted=True)
    accumulator.update([[0.0], [1.0]], [[0], [1]], weights=[0.0, 0.0])
    with pytest.raises(UnimixerError, match="weights are 0 in all rows; give a positive weight to some"):
        accumulator.compute()
