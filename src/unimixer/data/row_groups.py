"""What of a Parquet file is read, or skipped, at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unimixer.data.tables import CHUNK_ROWS


def runs_of_groups(metadata: Any) -> Iterator[tuple[list[int], int]]:
    """Row groups that are one piece, and their rows: as many as ``CHUNK_ROWS`` holds, at least one."""
    groups: list[int] = []
    height = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if groups and height + rows > CHUNK_ROWS:
            yield groups, height
            groups, height = [], 0
        groups, height = [*groups, group], height + rows
    if groups:
        yield groups, height
