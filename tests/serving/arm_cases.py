"""A server with an experiment of two arms, and the rows of its database."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from experiments import experiment

from unimixer.abtest.specification import Experiment
from unimixer.settings import dump_yaml


def always(**changes: Any) -> Experiment:
    """An experiment that runs whenever the test does."""
    return experiment(**{"start": "2020-01-01", "end": "2100-01-01", **changes})


def written(folder: Path, given: Experiment) -> Path:
    path = folder / f"{given.name}.yaml"
    path.write_text(dump_yaml(given))
    return path


def rows(database: Path, table: str, order: str = "rowid") -> list[dict[str, Any]]:
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}")]
    connection.close()
    return found


def shown(row: dict[str, Any]) -> list[str]:
    items: list[str] = json.loads(row["positions"])
    return items
