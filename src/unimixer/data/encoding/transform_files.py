"""Names and contents of the files of a saved transform."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast
from urllib.parse import quote

import polars as pl
import pyarrow as pa

from unimixer.data.encoding.arrays import read_arrays
from unimixer.data.encoding.history import HistoryIndex
from unimixer.data.schema import History

LONGEST_NAME = 160


def file_name(kind: str, name: str) -> str:
    """Return a valid file name for a name of any characters and any length."""
    safe = quote(name, safe=" ")
    if len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{kind}.{safe}.arrow"


def read_texts(path: Path) -> pl.Series:
    """Read the texts of a vocabulary."""
    return pl.Series("text", cast(pa.Array, read_arrays(path)["text"]), dtype=pl.String)


def history_file(name: str, number: int) -> str:
    """Return the file of the events of a history that day ``number`` has brought; 0 is the data as first prepared."""
    return file_name(f"history-{number:05d}" if number else "history", name)


def read_history(folder: Path, history: History, later: int, num_users: int) -> HistoryIndex:
    """Read the events of a history, as first prepared and of all later days."""
    columns = [read_arrays(folder / history_file(history.name, number)) for number in range(later + 1)]
    return HistoryIndex.from_columns(columns, history.max_length, num_users)
