"""``unimixer models``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from unimixer.backbones import BACKBONES
from unimixer.backbones.registry import backbone_name
from unimixer.cli.output import Json, emit, markdown, table
from unimixer.errors import unknown
from unimixer.profiling.model_table import NUM_TOKENS, Overview, any_budget_from, overview, overviews
from unimixer.progress import plain_console

COLUMNS = ("name", "family", "local pattern", "global pattern", "tokenizer", "parameters", "FLOPs an example")
STACKED = ("model", "local pattern", "global pattern", "parameters, FLOPs")
TOKENS = (16, 8, 4)
"""Numbers of tokens of the table of budgets."""
NARROW = 140
"""Columns of a terminal below which cells are stacked, to leave room for the patterns."""


def models(
    name: Annotated[str | None, typer.Argument(help="A backbone, to see its options.")] = None,
    budgets: Annotated[
        bool, typer.Option("--budgets", help="Smallest number of parameters from which every budget is met within 2%.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Print the backbones with the patterns that they mix by, or the options of one.

    Examples: unimixer models · unimixer models --markdown · unimixer models --budgets · unimixer models unimixer-lite
    """
    if name is not None:
        _show_one(name, as_json=as_json)
        return
    if budgets:
        _show_budgets(as_markdown=as_markdown, as_json=as_json)
        return

    rows = overviews()
    if as_markdown and not as_json:
        print(markdown(COLUMNS, wide_rows(rows), left=5))
        return

    def show() -> None:
        title = f"backbones at their default size, {NUM_TOKENS} tokens"
        if terminal_width() < NARROW:
            table(title, STACKED, stacked_rows(rows), left=3)
        else:
            table(title, COLUMNS, wide_rows(rows), left=5)

    emit({"models": [asdict(model) for model in rows]}, as_json, show)


def _show_budgets(*, as_markdown: bool, as_json: bool) -> None:

    lowest = {name: {tokens: any_budget_from(name, num_tokens=tokens) for tokens in TOKENS} for name in BACKBONES}
    columns = ("name", *(f"{tokens} tokens" for tokens in TOKENS))
    rows = [[name, *(f"{count:,}" for count in counts.values())] for name, counts in lowest.items()]
    if as_markdown and not as_json:
        print(markdown(columns, rows))
        return
    title = "number of parameters of the backbone from which every budget is met within 2%"
    emit({"any_budget_from": lowest}, as_json, lambda: table(title, columns, rows))


def wide_rows(overviews: Sequence[Overview]) -> list[list[str]]:
    """Make one line a model."""
    return [
        [m.name, m.family, m.local_pattern, m.global_pattern, m.tokenizer, f"{m.parameters:,}", f"{m.flops:,}"]
        for m in overviews
    ]


def stacked_rows(overviews: Sequence[Overview]) -> list[list[str]]:
    """Put short facts below each other, so that the patterns keep two thirds of a narrow terminal."""
    return [
        [
            "\n".join([*m.name.split(":"), m.family, m.tokenizer, ""]),
            m.local_pattern,
            m.global_pattern,
            f"{m.parameters:,}\n{m.flops:,}",
        ]
        for m in overviews
    ]


def terminal_width() -> int:
    """Count the columns of the terminal; a pipe is as wide as any table."""
    console = plain_console()
    return console.width if console.is_terminal else 10_000


def _show_one(name: str, *, as_json: bool) -> None:

    name = backbone_name(name)
    if name not in BACKBONES:
        raise unknown("model", name, BACKBONES)
    options = {
        key: None if parameter.default is inspect.Parameter.empty else parameter.default
        for key, parameter in BACKBONES[name].options().items()
    }
    one, lowest = overview(name), any_budget_from(name)

    def show() -> None:
        print(inspect.getdoc(BACKBONES[name]) or "", end="\n\n")
        print(f"local pattern:  {one.local_pattern}")
        print(f"global pattern: {one.global_pattern}")
        print(f"at its default size: {one.parameters:,} parameters, {one.flops:,} FLOPs an example")
        print(f"with {NUM_TOKENS} tokens every budget from {lowest:,} parameters up is met within 2%")
        rows = [[key, "" if value is None else repr(value)] for key, value in options.items()]
        table(f"options of {name}", ["option", "default"], rows, left=2)

    emit({**asdict(one), "any_budget_from": lowest, "options": options}, as_json, show)
