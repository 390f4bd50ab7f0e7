"""``unimixer config``: what a recipe resolves to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit

app = typer.Typer(help="Look at recipes.", no_args_is_help=True)


@app.command("show")
def show(
    recipe: Annotated[Path, typer.Argument(help="A recipe, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Json = False,
) -> None:
    """Print a recipe with all defaults and overrides filled in.

    Example: unimixer config show recipes/kuairand-unimixer-lite.yaml training.seed=1
    """
    from unimixer.settings import dump_yaml
    from unimixer.training.config import load_recipe

    path = recipe / "config.yaml" if recipe.is_dir() else recipe
    resolved = load_recipe(path, overrides or [])
    emit(resolved.model_dump(mode="json"), as_json, lambda: print(dump_yaml(resolved), end=""))
