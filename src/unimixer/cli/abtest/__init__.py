"""``unimixer abtest``: plan, assign, load, read and simulate online experiments."""

from __future__ import annotations

import typer

from unimixer.cli.abtest import plan, read, simulate

app = typer.Typer(no_args_is_help=True, help="Online experiments: plan, assign, load events, read results, simulate.")
for _verb in (plan.plan, read.read, simulate.simulate):
    app.command()(_verb)
