"""Draw with matplotlib: what the figures of all reports share."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.io import atomic_file

REPORT_DPI, PICTURE_DPI = 130, 110
PALETTE = ("#2563eb", "#d97706", "#0f766e", "#be185d", "#7c3aed", "#4d7c0f", "#0891b2", "#b91c1c", "#57534e", "#a16207")
"""One color for every model, readable on light and on dark ground."""
LINE = 0.15
"""Inches of a line of small text."""


def new_figure(width: float, height: float) -> Any:
    """Make an empty figure of that size in inches, or raise if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing", "report") from None
    return Figure(figsize=(width, height), layout="constrained")


def check_figure(path: Path) -> None:
    """Raise, before the work, if nothing can be drawn or the path of a figure names no file."""
    new_figure(1, 1)
    if path.name in ("", ".."):
        raise UnimixerError(f"{path} is a folder; name the file to write, without its ending")


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and as SVG and return the two files; the same numbers give the same bytes.

    Args:
        figure: a figure of matplotlib.
        path: file to write, without its ending.
    """
    written = []
    for kind, metadata in (("png", {}), ("svg", {"Date": None})):
        target = path.with_name(f"{path.name}.{kind}")
        with atomic_file(target) as temporary, _fixed_svg_ids():
            figure.savefig(temporary, dpi=REPORT_DPI, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # placed already; doing it again takes as long as drawing
        written.append(target)
    return written


def png_bytes(figure: Any) -> bytes:
    """Encode a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=PICTURE_DPI, format="png")
    return buffer.getvalue()


def model_colors(models: Iterable[str]) -> dict[str, str]:
    """Assign a color to every model, in the order of their first appearance."""
    return {model: PALETTE[index % len(PALETTE)] for index, model in enumerate(dict.fromkeys(models))}


def wrapped(name: str, width: int = 32) -> str:
    """Break a name of a model, a field or a key into lines that leave room for what is drawn.

    A dollar sign is one, and begins no formula.

    Example:
        >>> print(wrapped("unimixer-lite, expansion 0.75, pre-norm, dense muon"))
        unimixer-lite, expansion 0.75,
        pre-norm, dense muon
    """
    return textwrap.fill(name, width, break_on_hyphens=False).replace("$", r"\$")


def row_height(names: Iterable[str], least: float) -> float:
    """Inches that a row with one of these names needs."""
    return max([least, *(0.1 + LINE * (1 + wrapped(name).count("\n")) for name in names)])


def name_rows(axis: Any, names: Sequence[str]) -> None:
    """Name the rows of a figure, the first at the top."""
    axis.set_yticks(range(len(names)), [wrapped(name) for name in names])
    if names:
        axis.set_ylim(len(names) - 0.5, -0.5)


def set_log_ticks(axis: Any, ticks: Sequence[float], labels: Sequence[str]) -> None:
    """Make the x axis logarithmic, with these ticks only."""
    axis.set_xscale("log")
    axis.set_xticks(ticks, labels)
    axis.set_xticks([], minor=True)


def add_legend(figure: Any, axes: Any) -> Any:
    """Add one legend for all axes beside them and return the figure."""
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        names = [wrapped(name) for name in handles]
        figure.legend(list(handles.values()), names, loc="outside right upper", fontsize="small")
        lines = len(names) + "".join(names).count("\n")
        figure.set_figheight(max(figure.get_figheight(), 0.5 + (LINE + 0.02) * lines))
    return figure


def _fixed_svg_ids() -> AbstractContextManager[None]:
    """Derive the ids inside an SVG from its content; by default they are random."""
    from matplotlib import rc_context

    return rc_context({"svg.hashsalt": "unimixer"})
