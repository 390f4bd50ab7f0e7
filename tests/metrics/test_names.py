"""Metrics that are asked for by name."""

from __future__ import annotations

import pytest

from unimixer.errors import UnimixerError
from unimixer.metrics import metric_names


def test_spellings_have_one_name() -> None:
    assert metric_names(("NDCG@10", "HitRate@5", "HR@5", "hit_rate@5", "MRR", "mrr@3", "ECE@20", "rig")) == (
        "ndcg@10", "hitrate@5", "mrr", "mrr@3", "ece@20", "rig",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", "unknown metric 'ndgc@10'; did you mean 'ndcg'"),
        ("hitrate", "needs a number of places; write hitrate@10"),
        ("ndcg@0", "'0' is not a number of places"),
        ("ndcg@-5", "'-5' is not a number of places"),
        ("ndcg@1_0", "'1_0' is not a number of places"),
        ("rig@3", "takes no number"),
        ("log_loss", "metric 'log_loss' is always measured; leave it out"),
    ],
)
def test_a_wrong_name_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        metric_names((name,))
