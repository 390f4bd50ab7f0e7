from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from killed import train_killed
from tiny import assert_equal_tensors

from unimixer.api import train
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters.synthetic import load
from unimixer.data.synthetic import BLOCK_ROWS
from unimixer.errors import UnimixerError
from unimixer.training.train import resume


def test_a_killed_run_on_a_stream_resumes_to_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    options = {
        "rows": BLOCK_ROWS,
        "fields": 8,
        "ids": 5,
        "users": 60,
        "items": 50,
        "pairs": 4,
        "triples": 2,
        "quads": 1,
    }
    folder = prepare(load(**options, stream=True), tmp_path / "stream").folder
    values: dict[str, Any] = {
        "name": "stream",
        "dataset": str(folder),
        "tasks": {"click": 1.0},
        "model": {"backbone": "rankmixer", "num_tokens": 4, "options": {"token_dim": 16, "num_blocks": 1}},
        "training": {"max_steps": 12, "batch_size": 1_000, "threads": 1, "eval_interval": 4, "device": "cpu"},
    }
    with pytest.raises(UnimixerError, match=r"is a stream, which has no end, so training needs training\.max_steps"):
        train({**values, "training": {}}, folder=tmp_path / "endless", quiet=True)
    assert not (tmp_path / "endless").exists()
    whole = train(values, folder=tmp_path / "whole", quiet=True)
    train_killed(values, tmp_path / "killed", "step", 10)
    resumed = resume(tmp_path / "killed", quiet=True)
    assert_equal_tensors(whole.folder / "best", resumed.folder / "best")
    results = [json.loads((run.folder / "result.json").read_text()) for run in (whole, resumed)]
    assert [result["steps"] for result in results] == [12, 12]
    assert results[0]["test"] == results[1]["test"]
