"""Hold tables as text, the same for Markdown, pages and the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Badge(str):
    """A cell of a table whose text has a color on pages."""

    kind: str
    """``better``, ``worse``, or empty for neither."""
    tip: str
    """The text under the pointer."""

    def __new__(cls, text: str, kind: str, tip: str = "") -> Badge:
        badge = super().__new__(cls, text)
        badge.kind, badge.tip = kind, tip
        return badge


class TextTable(NamedTuple):
    """A table whose cells are texts.

    Args:
        columns: names of the columns.
        rows: cells, a sequence for each row.
        text: indices of the columns that are aligned left; the others hold numbers.
        groups: headings above the columns after the first, each with the number of columns that it spans.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = (0,)
    groups: Sequence[tuple[str, int]] = ()

    def markdown(self) -> str:
        """Write the table as Markdown."""
        marks = ["---" if index in self.text else "---:" for index in range(len(self.columns))]
        rows = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in self.rows)
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.columns, marks, *rows))


def bullets(items: Iterable[str]) -> str:
    """Write a list as Markdown."""
    return "\n".join(f"- {item}" for item in items)
