"""``unimixer export``: what it prints, and one sentence where it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimixer.training.run import RunFolder

Cli = Callable[..., Any]


def test_export_prints_differences_and_versions(toy_run: RunFolder, tmp_path: Path, cli: Cli) -> None:
    done = cli("export", toy_run.folder, "--out", "bundle", "--largest", "20", "--precision", "int8", "--json")
    assert done.code == 0, done.err
    kept = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert done.json["version"] == kept["version"]
    assert done.json["bytes"] > done.json["graph_bytes"] > 0
    assert cli("export", toy_run.folder, "--out", "bundle").error.startswith("bundle")
    shown = cli("export", toy_run.folder, "--out", "two", "--harden", "top-2", "--largest", "20", "--auc-rows", "300")
    for words in ("tolerance 1e-05", "unknown ids", "20 candidates", "AUC before and after", "two: version"):
        assert words in shown.out
