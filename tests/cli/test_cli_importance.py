"""``unimixer importance``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimixer.training.run import RunFolder


def test_importance_prints_a_table_and_writes_numbers_and_pictures(
    cli: Callable[..., Any], toy_run: RunFolder, tmp_path: Path
) -> None:
    done = cli("importance", toy_run.folder, "--by", "domains", "--out", "found/importance")
    assert "drop of UAUC" in done.out
    assert "the model as it is: auc" in done.out
    numbers = json.loads((tmp_path / "found" / "importance.json").read_text())
    assert {part["name"] for part in numbers["parts"]} == {"user", "item", "behaviour", "context"}
    assert (tmp_path / "found" / "importance.svg").exists()
    again = cli("importance", toy_run.folder, "--by", "domains", "--json").json
    assert again["parts"] == numbers["parts"]
    assert "--by" in cli("importance", toy_run.folder, "--by", "tables").error
    assert (
        "'--seed': Input should be greater than or equal to 0"
        in cli("importance", toy_run.folder, "--seed", "-1").error
    )
    assert ". is a folder; name the file to write" in cli("importance", toy_run.folder, "--out", ".").error
