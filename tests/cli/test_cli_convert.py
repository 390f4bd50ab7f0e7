"""``unimixer convert``: a recipe that trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toy import toy_frames

Cli = Callable[..., Any]
LOG = toy_frames()[0]


def test_convert_writes_a_recipe_that_trains_on(cli: Cli, recipe: Path) -> None:
    assert cli("train", recipe, "model.backbone=rankmixer", "model.options={}", "--run", "rule").code == 0
    done = cli("convert", "rule", "--to", "unimixer-lite", "--out", "lite.yaml", "--json")
    assert done.json["change"]["max_logit_difference"] < 1e-4
    assert done.json["next"] == "unimixer train lite.yaml --warm-start rule"
    assert (
        "lite.yaml exists; choose another --out"
        in cli("convert", "rule", "--to", "unimixer", "--out", "lite.yaml").error
    )
    assert cli("train", "lite.yaml", "--warm-start", "rule", "--run", "lite").code == 0
    assert "cannot be converted to 'fm'" in cli("convert", "rule", "--to", "fm").error
