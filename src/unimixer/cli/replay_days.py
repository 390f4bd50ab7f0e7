"""``unimixer replay-days``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.experiment import split
from unimixer.cli.output import Json, emit, say_what_is_not_drawn, table, takes
from unimixer.errors import UnimixerError, missing_packages, unknown

if TYPE_CHECKING:
    from unimixer.experiments.days import Replayed


@dataclass(frozen=True)
class ReplayDaysOptions:
    """Choose the recipes and the dataset."""

    recipes: Annotated[
        list[Path],
        typer.Argument(metavar="RECIPE...", help="Recipes (YAML) or names of packaged ones, the base first."),
    ]
    data: Annotated[str, typer.Option("--data", help="Dataset to which days were appended.")]
    out: Annotated[Path, typer.Option("--out", help="Folder for runs, tables and the picture; finished runs are kept.")]
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that changes every recipe; may be given again.")
    ] = None
    models: Annotated[
        str, typer.Option("--models", help="Some of daily, retrained and frozen, separated by commas.")
    ] = "daily,retrained,frozen"
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each, with seeds 0, 1, ...")] = 1
    as_json: Json = False


@takes(ReplayDaysOptions)
def replay_days(options: ReplayDaysOptions) -> None:
    """Predict every appended day by the models of the day before, then train on it.

    daily continues on every day, retrained begins from nothing on all days so far, frozen keeps the model of the first
    days. Example: unimixer replay-days recipe.yaml other.yaml --data datasets/mine --out replays/mine
    """
    from unimixer.analysis.days import judge
    from unimixer.analysis.significance import REPLICATES
    from unimixer.data.dataset import open_dataset
    from unimixer.experiments import days
    from unimixer.report.days import draw_days, judgement_table, total_table, write_page
    from unimixer.settings import Change, read_changes
    from unimixer.training.config import load_recipe

    strategies = split(options.models)
    for name in strategies:
        if name not in days.STRATEGIES:
            raise unknown("model of --models", name, days.STRATEGIES)
    sets = read_changes(options.sets or [])
    if any(change.key == "training.seed" for change in sets):
        raise UnimixerError("replay-days trains with the seeds 0, 1, ... of --seeds; take training.seed out of --set")
    changes = [*sets, Change("dataset", options.data, f"--data {options.data}")]
    recipes = {recipe.name: recipe for recipe in (load_recipe(path, changes) for path in options.recipes)}
    if len(recipes) < len(options.recipes):
        raise UnimixerError("two recipes have one name; give each its own 'name'")
    if len({tuple(recipe.tasks) for recipe in recipes.values()}) > 1:
        raise UnimixerError("the recipes learn different tasks; give all of them the same 'tasks'")
    say_what_is_not_drawn("the same command")
    replayed = days.replay_days(
        recipes, open_dataset(options.data), options.out, seeds=options.seeds, strategies=strategies
    )
    by_model: dict[tuple[str, str], dict[int, list[Any]]] = {}
    for one in replayed:
        by_model.setdefault((one.recipe, one.strategy), {}).setdefault(one.seed, []).append(one)
    judgements = judge(by_model, _pairs(list(recipes), strategies), list(replayed[0].metrics), replicates=REPLICATES)
    written = [write_page(replayed, judgements, options.out)]
    if not missing_packages("report"):
        written += draw_days(replayed, options.out)

    def show() -> None:
        for title, shown in (("all days", total_table(replayed)), ("differences", judgement_table(judgements))):
            table(title, list(shown.columns), shown.rows, left=3)
        print("\n".join(map(str, written)))

    emit({"rows": _plain(replayed), "judgements": [vars(one) for one in judgements]}, options.as_json, show)


def _pairs(recipes: Sequence[str], strategies: Sequence[str]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Compare the first kind of model with the others, and the recipes with the first one."""
    first, *others = strategies
    pairs = [((recipe, first), (recipe, other)) for recipe in recipes for other in others]
    return pairs + [((recipe, first), (recipes[0], first)) for recipe in recipes[1:]]


def _plain(replayed: Sequence[Replayed]) -> list[dict[str, Any]]:
    return [{k: v for k, v in vars(one).items() if k not in ("logits", "labels", "users")} for one in replayed]
