"""``unimixer config``: the resolved values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.output import Json, emit, table
from unimixer.settings import annotated_yaml, find_settings, origins_of, packaged_files, parse
from unimixer.training.config import Recipe, recipe_values
from unimixer.training.run import RunFolder

KINDS = {"recipe": "", "study": "studies"}
"""Folder of the packaged files by their kind."""

app = typer.Typer(
    help="Recipes: list the packaged ones, print one with every key and where its value is from.", no_args_is_help=True
)


@app.command("list")
def list_packaged(as_json: Json = False) -> None:
    """Print the recipes and studies that come with the package; train and compare take their names.

    Example: unimixer config list
    """
    files = [(kind, name, path) for kind, folder in KINDS.items() for name, path in packaged_files(folder).items()]
    subjects = [
        path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rpartition(": ")[0] for *_, path in files
    ]
    rows = [(name, kind, subject) for (kind, name, _), subject in zip(files, subjects, strict=True)]
    named = zip(rows, files, strict=True)
    keys = ("name", "kind", "subject", "file")
    values = {"packaged": [dict(zip(keys, (*row, str(path)), strict=True)) for row, (*_, path) in named]}
    emit(values, as_json, lambda: table(None, ["name", "kind", "subject"], rows, left=3))


@app.command("show")
def show(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML), the name of a packaged one, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Json = False,
) -> None:
    """Print every key of a recipe with its value and the origin of it: a line of the file, an override, the default.

    Example: unimixer config show kuairand-unimixer-lite training.seed=1
    """
    path = RunFolder(recipe).folder / "config.yaml" if recipe.is_dir() else find_settings(recipe)
    values = recipe_values(path, overrides or [])
    resolved = parse(Recipe, values, where=str(path))
    shown = {**resolved.model_dump(mode="json"), "origins": origins_of(resolved, values)}
    emit(shown, as_json, lambda: print(annotated_yaml(resolved, values), end=""))
