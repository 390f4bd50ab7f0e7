"""``unimixer models``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from unimixer.cli.output import Json, emit, markdown, table

if TYPE_CHECKING:
    from unimixer.backbones.overview import Overview

HELP = """Table of the backbones and of the patterns that they mix with, or the options of one.

Examples: unimixer models · unimixer models --markdown · unimixer models unimixer-lite"""

COLUMNS = ("name", "family", "local pattern", "global pattern", "tokenizer", "parameters", "FLOPs an example")
STACKED = ("model", "local pattern", "global pattern", "parameters, FLOPs")
NARROW = 140
"""Columns of a terminal below which cells are stacked, to leave room for the patterns."""


def models(
    name: Annotated[str | None, typer.Argument(help="A backbone, to see its options.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    if name is not None:
        _show_one(name, as_json=as_json)
        return
    from unimixer.backbones.overview import NUM_TOKENS, overviews

    found = overviews()
    if as_markdown and not as_json:
        print(markdown(COLUMNS, wide_rows(found), left=5))
        return

    def show() -> None:
        title = f"backbones at their default size, {NUM_TOKENS} tokens"
        if terminal_width() < NARROW:
            table(title, STACKED, stacked_rows(found), left=3)
        else:
            table(title, COLUMNS, wide_rows(found), left=5)

    emit({"models": [asdict(model) for model in found]}, as_json, show)


def wide_rows(found: Sequence[Overview]) -> list[list[str]]:
    """One line a model."""
    return [
        [m.name, m.family, m.local_pattern, m.global_pattern, m.tokenizer, f"{m.parameters:,}", f"{m.flops:,}"]
        for m in found
    ]


def stacked_rows(found: Sequence[Overview]) -> list[list[str]]:
    """Short facts below each other, so that the patterns keep two thirds of a narrow terminal."""
    return [
        [f"{m.name}\n{m.family}\n{m.tokenizer}\n", m.local_pattern, m.global_pattern, f"{m.parameters:,}\n{m.flops:,}"]
        for m in found
    ]


def terminal_width() -> int:
    """Columns of the terminal; a pipe is as wide as any table."""
    from unimixer.progress import plain_console

    console = plain_console()
    return console.width if console.is_terminal else 10_000


def _show_one(name: str, *, as_json: bool) -> None:
    from unimixer.backbones import BACKBONES
    from unimixer.backbones.overview import overview
    from unimixer.errors import unknown

    if name not in BACKBONES:
        raise unknown("model", name, BACKBONES)
    options = {
        key: None if parameter.default is inspect.Parameter.empty else parameter.default
        for key, parameter in BACKBONES[name].options().items()
    }
    found = overview(name)

    def show() -> None:
        print(inspect.getdoc(BACKBONES[name]) or "", end="\n\n")
        print(f"local pattern:  {found.local_pattern}")
        print(f"global pattern: {found.global_pattern}")
        print(f"at its default size: {found.parameters:,} parameters, {found.flops:,} FLOPs an example")
        rows = [[key, "" if value is None else repr(value)] for key, value in options.items()]
        table(f"options of {name}", ["option", "default"], rows, left=2)

    emit({**asdict(found), "options": options}, as_json, show)
