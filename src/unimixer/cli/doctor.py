"""``unimixer doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from unimixer.cli.output import Json, emit, table

HELP = """Show what this machine and this installation can do.

Example: unimixer doctor"""


def doctor(
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Also measure the machine's matrix-multiply rate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.diagnosis import diagnose

    facts = diagnose(benchmark=benchmark)
    emit(facts, as_json, lambda: table(None, ["what", "found"], [[k, v] for k, v in facts.items()], left=2))
