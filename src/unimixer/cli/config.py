"""``unimixer config``: the resolved values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit
from unimixer.settings import annotated_yaml, origins_of, parse
from unimixer.training.config import Recipe, recipe_values
from unimixer.training.run import RunFolder

app = typer.Typer(help="Look at recipes.", no_args_is_help=True)


@app.command("show")
def show(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Json = False,
) -> None:
    """Print every key of a recipe with its value and the origin of it: a line of the file, an override, the default.

    Example: unimixer config show recipes/kuairand-unimixer-lite.yaml training.seed=1
    """
    path = RunFolder(recipe).folder / "config.yaml" if recipe.is_dir() else recipe
    values = recipe_values(path, overrides or [])
    resolved = parse(Recipe, values, where=str(path))
    shown = {**resolved.model_dump(mode="json"), "origins": origins_of(resolved, values)}
    emit(shown, as_json, lambda: print(annotated_yaml(resolved, values), end=""))
