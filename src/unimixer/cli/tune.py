"""``unimixer tune``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.experiment import DryRun, TrainingOptions, folder_of, recipe_changes
from unimixer.cli.output import emit, say_what_is_not_drawn, table, takes

if TYPE_CHECKING:
    from unimixer.experiments.tuning import OpenSearch, TrialRow
    from unimixer.report.tables import TextTable
    from unimixer.report.tune import TuneReport


@dataclass(frozen=True)
class TuneOptions(TrainingOptions):
    """Options of ``unimixer tune``."""

    source: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe (YAML), or the folder of a search that was begun.")
    ] = None
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials in the end, those of earlier calls counted.")
    ] = None
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the search; an existing one is continued.")] = (
        None
    )
    space: Annotated[
        Path | None, typer.Option("--space", help="Keys of the recipe and their values (YAML; default: a usual space).")
    ] = None
    data: Annotated[str | None, typer.Option("--data", help="Dataset to train on, instead of the recipe's.")] = None
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the search (default 0).")] = None
    confirm: Annotated[
        int | None,
        typer.Option("--confirm", min=1, help="Then train the recipe and the best one with this many seeds, and test."),
    ] = None
    dry_run: DryRun = False


@takes(TuneOptions)
def tune(options: TuneOptions) -> None:
    """Search for better settings of a recipe on validation; or continue a search.

    The best trial becomes a recipe, best.yaml. No trial sees the test part; --confirm 3 measures the best recipe on it
    with further seeds. The same command continues a search that was stopped or killed. Examples: unimixer tune
    recipe.yaml --trials 40 --out FOLDER · unimixer tune recipe.yaml --space space.yaml --trials 40 --out FOLDER ·
    unimixer tune FOLDER --trials 80 --confirm 3
    """
    from unimixer.errors import UnimixerError
    from unimixer.experiments.tuning import BEST, best_trial, confirm, read_trials, run_search
    from unimixer.experiments.tuning.storage import need_optuna
    from unimixer.progress import note
    from unimixer.report.tune import read_report, write_tune_report

    need_optuna()
    search = _search(options)
    known = read_trials(search.folder)
    total = options.trials or len(known)
    if options.dry_run:
        _show_plan(search, known, total, as_json=options.as_json)
        return
    if not total:
        raise UnimixerError("--trials is missing; give the number of trials, such as --trials 30")
    machine, again = options.machine(), f"unimixer tune {shlex.quote(str(search.folder))}"
    say_what_is_not_drawn(again)
    rows = run_search(search, total, machine)
    best, failed = best_trial(search, rows), []
    if best is not None and not best.number and options.confirm is not None:
        note("the recipe as it is came out best, so there is nothing to confirm")
    elif best is not None and options.confirm is not None:
        resume_with = f"{again} --confirm {options.confirm}{machine.options()}"
        failed = confirm(search, best, options.confirm, machine, resume_with=resume_with).failed
    report = read_report(search, rows)
    written = {"report": str(write_tune_report(report))}
    if best is not None:
        written["best_recipe"] = str(search.folder / BEST)
    values = {**_values(report), **written, "failed_confirmations": {row["key"]: row["error"] for row in failed}}
    emit(values, options.as_json, lambda: _show(report, [*written.values()]))
    if best is None:
        raise UnimixerError(f"no trial has finished; the first one: {rows[0].error or rows[0].state}")
    if failed:
        raise typer.Exit(1)


def _search(options: TuneOptions) -> OpenSearch:
    """Read the plan of the folder, or make one of the recipe and the options."""
    from unimixer.data.dataset import open_dataset
    from unimixer.errors import UnimixerError
    from unimixer.experiments.plan_file import read_plan
    from unimixer.experiments.tuning import Search, default_space, open_search, read_space
    from unimixer.settings import Change, copied, load_yaml
    from unimixer.training.config import load_recipe, recipe_values

    if options.source is None:
        raise UnimixerError("a recipe is missing; give its file, or the folder of a search that was begun")
    folder = folder_of(Search, options.source, options.out)
    changes = recipe_changes(options.settings, batch_size=options.batch_size, max_steps=options.max_steps)
    if options.data is not None:
        changes.append(Change("dataset", options.data, f"--data {options.data}"))
    if folder == options.source:
        if changes or options.space is not None or options.seed is not None:
            raise UnimixerError(
                f"{folder} goes on with its own plan; leave out --set, --data, --space and --seed, or begin a search "
                "with the recipe and another --out"
            )
        return open_search(read_plan(folder, Search), folder)
    recipe = load_recipe(options.source, changes)
    if options.space is None:
        written: dict[str, Any] = default_space(recipe, open_dataset(recipe.dataset).transform.spec)
    else:
        written = load_yaml(options.space)
    space = read_space(written, "space" if options.space is None else str(options.space))
    plan = Search(
        source=str(options.source),
        recipe=copied(recipe_values(options.source, changes)),
        space=copied(written),
        seed=options.seed or 0,
    )
    return open_search(plan, folder, space)


def _show_plan(search: OpenSearch, known: Sequence[TrialRow], total: int, *, as_json: bool) -> None:
    """Print the space and the number of trials."""
    from unimixer.settings.document import dump_values

    def show() -> None:
        print(dump_values(search.plan.space, default_flow_style=None), end="")
        print(f"{total} trials by {search.metric} on validation, {len(known)} of them begun")

    values = {"space": search.plan.space, "trials": total, "begun": len(known), "metric": search.metric}
    emit({"folder": str(search.folder), **values}, as_json, show)


def _values(report: TuneReport) -> dict[str, Any]:
    """Return the report as plain values."""
    states = [row.state for row in report.rows]
    best = report.best
    values: dict[str, Any] = {
        "folder": str(report.search.folder),
        "trials": {state: states.count(state) for state in dict.fromkeys(states)},
        "metric": report.search.metric,
        "recipe_as_it_is": report.rows[0].value,
        "best": None if best is None else {"trial": best.number, "value": best.value, "settings": best.settings},
        "importance": report.importance,
        "confirmation": [],
    }
    for one in [] if report.confirmation is None else report.confirmation.tables:
        for line in one.lines:
            compared, names = line.compared, ("estimate", "low", "high")
            difference = None if compared is None else {name: getattr(compared, name) for name in names}
            values["confirmation"].append(
                {
                    "metric": f"{one.task}.{one.metric}",
                    "model": line.chosen.variant,
                    "mean": line.mean,
                    "by_seed": line.values,
                    "difference": difference,
                    "conclusion": line.conclusion,
                }
            )
    return values


def _show(report: TuneReport, written: Sequence[str]) -> None:
    """Print the tables for people."""
    from unimixer.report.tune import confirmation_tables, failure_table, importance_table, sentences, trial_table

    for title, shown in (
        ("best trials on validation", trial_table(report, 5)),
        ("importance", importance_table(report)),
        ("failed", failure_table(report)),
    ):
        _print(title, shown)
    for shown, words in confirmation_tables(report):
        _print(words, shown)
    print("\n".join([*sentences(report), *written]))


def _print(title: str, shown: TextTable) -> None:
    if shown.rows:
        table(title, list(shown.columns), shown.rows, left=len(shown.text) if shown.text == (0, 1) else 1)
