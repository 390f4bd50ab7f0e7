"""Prepare a synthetic world for the benchmarks that need data."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.raw.tables import RawTables


def world(rows: int) -> RawTables:
    """Draw the easy world from its own seed."""
    return open_raw("synthetic", None, rows=rows, users=max(100, rows // 20), items=max(100, rows // 50))


def world_dataset(folder: Path, rows: int, *, history: int = 50) -> Dataset:
    """Prepare a dataset of impressions with histories of at most ``history`` events."""
    tables = world(rows)
    limits = tuple(limit.model_copy(update={"max_length": history}) for limit in tables.schema.histories)
    schema = tables.schema.model_copy(update={"histories": limits})
    with no_bars():
        return prepare(RawTables(schema, tables.impressions, tables.users, tables.items, tables.num_rows), folder)


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Hide the bars of calls inside below the bar of the benchmarks."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
