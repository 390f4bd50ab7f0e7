from __future__ import annotations

import numpy as np
import pytest

from unimixer.errors import UnimixerError
from unimixer.metrics import auc, best_auc


def test_best_auc_is_the_auc_of_the_probability_over_all_blocks() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(1_000)
    click = rng.random(1_000) < p
    blocks = [{"click": click[i : i + 300], "click_probability": p[i : i + 300]} for i in range(0, 1_000, 300)]
    best = best_auc(iter(blocks), ["click"])
    assert best == {"click": auc(p, click)}
    assert auc(p + rng.standard_normal(1_000), click) < best["click"]


def test_no_blocks_are_refused() -> None:
    with pytest.raises(UnimixerError, match="no blocks"):
        best_auc([], ["click"])
