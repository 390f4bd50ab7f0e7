"""``unimixer abtest assign``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from unimixer.abtest.assignment import Assignment
from unimixer.abtest.assignment import assign as arm_of
from unimixer.abtest.records import time_us
from unimixer.abtest.specification import load_experiment
from unimixer.abtest.stops import is_stopped
from unimixer.cli.output import Json, emit, table, takes
from unimixer.errors import UnimixerError


@dataclass(frozen=True)
class AssignOptions:
    """Options of ``unimixer abtest assign``."""

    specification: Annotated[Path, typer.Argument(metavar="SPEC", help="Specification of the experiment (YAML).")]
    units: Annotated[list[str], typer.Argument(metavar="UNIT...", help="Ids of units.")]
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="Value that targeting compares: COLUMN=VALUE, also true or false; repeatable."),
    ] = None
    at: Annotated[
        str | None, typer.Option("--at", help="Time of the request, such as 2026-03-01T12:00Z (default: any).")
    ] = None
    as_json: Json = False


@takes(AssignOptions)
def assign(options: AssignOptions) -> None:
    """Print the arm of units, as the server chooses it; a stopped experiment gives none.

    Example: unimixer abtest assign mixer.yaml 7 8 9 --context tab=home
    """
    experiment = load_experiment(options.specification)
    context = dict(_pair(text) for text in options.context or ())
    time = None if options.at is None else time_us(options.at, "--at")
    if is_stopped(experiment, options.specification):
        assignments = dict.fromkeys(options.units, Assignment(None, "stopped", 0.0))
    else:
        assignments = {unit: arm_of(experiment, unit, context, time=time) for unit in options.units}
    values = {
        "experiment": experiment.name,
        "version": experiment.version,
        "units": {unit: one._asdict() for unit, one in assignments.items()},
    }
    rows = [_row(unit, one) for unit, one in assignments.items()]
    emit(values, options.as_json, lambda: table(None, ["unit", "arm", "reason", "propensity"], rows, left=3))


def _row(unit: str, assignment: Assignment) -> tuple[str, str, str, str]:
    return unit, assignment.arm or "none", assignment.reason, f"{assignment.propensity:.3f}" if assignment.arm else ""


def _pair(text: str) -> tuple[str, str | bool]:
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise UnimixerError(f"--context {text!r}: expected COLUMN=VALUE")
    return column, {"true": True, "false": False}.get(value, value)
