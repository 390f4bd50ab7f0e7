"""A store of the small world in a file, and all that it holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from toy import toy_tables

from unimixer.serving.stores.build import building, fill

ITEMS = [f"i{n}" for n in range(30)]


def build(path: Path, price: float, *, overwrite: bool = False) -> Path:
    """The small world with one price for all items."""
    with building(str(path), overwrite=overwrite) as store:
        fill(store, toy_tables())
        store.put_items("item_id", [{"item_id": item, "price": price} for item in ITEMS])
    return path


def content(path: Path) -> list[Any]:
    """Every row of every table, after SQLite has looked at every page."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4").fetchall()
            if table == "events"
            else connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("users", "items", "events", "meta")
        ]
