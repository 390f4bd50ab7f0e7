"""Write reports and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_report(title: str, parts: Iterable[str], method: Iterable[tuple[str, str]]) -> str:
    """Join the parts of a report under its title, with the method at the end."""
    paragraphs = [f"{subject}. {text}" for subject, text in method]
    return "\n\n".join([f"# {title}", *parts, "## Method", *paragraphs]) + "\n"


def markdown_list(items: Iterable[str]) -> str:
    """Write one bullet for every item."""
    return "\n".join(f"- {item}" for item in items)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int]) -> str:
    """Write a table.

    Args:
        columns: their names.
        rows: cells.
        text: indices of the columns that are aligned left; the others hold numbers.
    """
    marks = ["---" if index in text else "---:" for index in range(len(columns))]
    lines = [list(columns), marks, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
