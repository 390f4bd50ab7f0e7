"""Options and steps that the verbs with experiments share: from the command line to a plan and its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from unimixer.cli.output import Json, emit, table

if TYPE_CHECKING:
    from unimixer.experiments import Experiment, Machine, Outcome, Plan
    from unimixer.experiments.plan_file import PlanFile
    from unimixer.settings import Change

Options = TypeVar("Options")
AnyPlan = TypeVar("AnyPlan", bound="Plan")

Common = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A key of the recipe, for every model.")
]
Data = Annotated[list[str] | None, typer.Option("--data", help="Prepared dataset; may be given several times.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print runs, cost and expected time, and train nothing.")]
KeepRuns = Annotated[bool, typer.Option("--keep-runs", help="Keep weights and checkpoints of finished rows.")]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of every verb that trains many models."""

    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Short for --set training.batch_size=N.")
    ] = None
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Short for --set training.max_steps=N.")
    ] = None
    settings: Common = None
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes side by side (default: the cores; 1 with a GPU).")
    ] = None
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")] = 1
    ray: Annotated[
        str | None, typer.Option("--ray", help="Train on a Ray cluster: local, auto, or the address of its head.")
    ] = None
    as_json: Json = False

    def recipe(self) -> dict[str, Any]:
        """Return the keys of the recipe that the command line sets."""
        return recipe_keys(self.settings, batch_size=self.batch_size, max_steps=self.max_steps)

    def machine(self) -> Machine:
        """Return processes and threads: by default one process per core, or one process on a GPU."""
        import torch

        from unimixer.environment import cores
        from unimixer.experiments import Machine

        default = 1 if torch.cuda.is_available() else max(1, cores() // self.threads)
        return Machine(self.jobs or default, self.threads, self.ray)


def recipe_keys(settings: Sequence[str] | None, **short: int | None) -> dict[str, Any]:
    """Return the keys of the recipe that ``--set`` and the short options of training set."""
    return {change.key: change.value for change in recipe_changes(settings, **short)}


def recipe_changes(settings: Sequence[str] | None, **short: int | None) -> list[Change]:
    """Return the same with the words of the command line, for messages."""
    from unimixer.settings import Change, check_distinct, read_changes

    changes = [
        Change(f"training.{key}", value, f"--{key.replace('_', '-')} {value}")
        for key, value in short.items()
        if value is not None
    ]
    changes += read_changes(settings or [], "--set", "training.batch_size=512")
    check_distinct(changes)
    return changes


def folder_of(kind: type[PlanFile], source: Path | None, out: Path | None) -> Path:
    """Return the folder of an experiment: the source if it is one that was begun, else ``--out``."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments.plan_file import is_begun

    folder = source if source is not None and is_begun(source, kind) else out
    if folder is None:
        refused = f" ({source} is not)" if source is not None else ""
        raise UnimixerError(
            f"a {kind.noun} needs a folder: give --out FOLDER, or the folder of one that was begun{refused}"
        )
    if source == folder and out is not None and out.resolve() != folder.resolve():
        raise UnimixerError(f"{source} is a {kind.noun} that goes on in its own folder; leave out --out {out}")
    return folder


def plan_of(
    kind: type[AnyPlan],
    path: Path | None,
    values: Mapping[str, Any],
    recipe: Mapping[str, Any],
    needs: Mapping[str, str],
) -> AnyPlan:
    """Read a plan from a file, if there is one, with the values of the command line in place of the file's.

    Args:
        kind: study or sweep.
        path: the file.
        values: fields that the command line sets.
        recipe: keys of the recipe that the command line sets.
        needs: by required field, the error if it is missing.
    """
    from unimixer.errors import UnimixerError
    from unimixer.settings import Document, find_settings, load_yaml, parse

    written = Document({}, {}) if path is None else load_yaml(find_settings(path, "studies"))
    for field, error in needs.items():
        if field not in {**written, **values}:
            raise UnimixerError(error)
    budgets = ("params", "flops", "widths")
    if any(kind in values for kind in budgets):  # a budget on the command line replaces all budgets of the file
        written = Document({k: v for k, v in written.items() if k not in budgets}, written.origins)
    if recipe:
        values = {**values, "recipe": {**(written.get("recipe") or {}), **recipe}}
    return parse(kind, written.with_values(dict(values), "command line"), where=str(path or kind.noun))


def show_plan(experiment: Experiment, values: Mapping[str, Any]) -> None:
    """Print runs, cost and expected time."""
    from unimixer.progress import duration

    plan = experiment.plan
    rows = [[_cell(line[column]) for column in plan.columns] for line in values["plan"]]
    table(None, plan.columns, rows, left=plan.text_columns)
    for name, reason in values["left_out"].items():
        print(f"left out: {name}: {reason}")
    if plan.search_words:
        print(plan.search_words)
    processes, flops = values["processes"], values.get("training_flops")
    cost = "" if flops is None else f"{flops:.3g} FLOPs of training, "
    print(
        f"{values['to_compute']} of {values['rows']} rows to compute in {processes} "
        f"{'process' if processes == 1 else 'processes'}, {cost}"
        f"about {duration(values['expected_seconds'])} at the speed just measured"
    )


def finish(folder: Path, outcome: Outcome, written: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print the outcome of a call, then some lines; exit with code 1 if a row failed.

    Args:
        folder: folder of the experiment.
        outcome: rows of the call.
        written: further values of the JSON object.
        lines: last lines for people.
        as_json: print one JSON object instead.
    """
    failed = {row["key"]: row["error"] for row in outcome.failed}
    values = {"folder": str(folder), "computed": len(outcome.computed), "existing": outcome.existing, "failed": failed}

    def show() -> None:
        print(f"{values['computed']} rows computed, {values['existing']} were there")
        for key, error in failed.items():
            print(f"failed: {key}: {error}")
        for line in lines:
            print(line)

    emit({**values, **written}, as_json, show)
    if failed:
        raise typer.Exit(1)


def split(text: str) -> list[str]:
    """Split a list at its commas."""
    from unimixer.errors import UnimixerError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UnimixerError(f"{text!r} names nothing; give one or more names, separated by commas")
    twice = next((part for part in parts if parts.count(part) > 1), None)
    if twice is not None:
        raise UnimixerError(f"{text!r} names {twice!r} twice; give each once")
    return parts


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
