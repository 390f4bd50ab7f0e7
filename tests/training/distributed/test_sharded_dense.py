"""Dense parameters cut over processes train what one process trains, for every backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launch import needs_torchrec, run_jobs, shared
from toy import toy_tables

from unimixer.backbones import BACKBONES
from unimixer.data.prepare import prepare

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.timeout(600)]

ATTENTION = {"sequences": "cross_attention", "size": 8}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"backbone": name, "size": 8} for name in BACKBONES},
    "siamese": {"backbone": "unimixer", "size": 8, "options": {"residual": "siamese"}},
    "attention": {"backbone": "unimixer-lite", **ATTENTION},
    "attention, siamese": {"backbone": "unimixer-lite", **ATTENTION, "options": {"residual": "siamese"}},
    "auxiliary": {"backbone": "tokenmixer-large", "size": 8, "options": {"num_blocks": 4}},
    "mixture": {"backbone": "rankmixer", "size": 8, "options": {"ffn": "relu-moe"}},
    "top-k mixture": {"backbone": "rankmixer", "size": 16, "options": {"ffn": "topk-moe"}},
    "recomputed": {"backbone": "unimixer-lite", "size": 8, "recompute": True, "options": {"num_blocks": 3}},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(folder: Path) -> None:
        torch.set_num_threads(1)
        prepare(toy_tables(), folder / "store")
        gradients = {"kind": "gradients", "store": str(folder / "store"), "cases": CASES}
        for processes in (2, 3):
            said = run_jobs(processes, [gradients], folder / f"{processes}")
            (folder / f"{processes}.json").write_text(json.dumps(said), encoding="utf-8")

    return shared(tmp_path_factory, "sharded-dense", build)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_parts_are_those_of_the_whole(case: str, processes: int, world: Path) -> None:
    for rank in json.loads((world / f"{processes}.json").read_text(encoding="utf-8")):
        assert rank[0]["done"][case]["difference"] < 1e-5
