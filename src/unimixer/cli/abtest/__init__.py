"""``unimixer abtest``: plan, assign, load, read and simulate online experiments."""

from __future__ import annotations

import typer

from unimixer.cli.abtest import assign, delete, load, plan, read, simulate

app = typer.Typer(no_args_is_help=True, help="Online experiments: plan, assign, load events, read results, simulate.")
for _verb in (plan.plan, assign.assign, load.load, read.read, simulate.simulate, delete.delete):
    app.command()(_verb)
