"""The main job as two calls: raw data to a store, a recipe to a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimixer.data.dataset import Store
from unimixer.data.prepare import prepare as write_store
from unimixer.data.raw.origin import open_source
from unimixer.settings import parse
from unimixer.training.config import Recipe, load_recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import train as train_recipe


def prepare(
    source: str | Path,
    out: Path | str,
    *,
    raw: Path | str | None = None,
    overwrite: bool = False,
    workers: int = 1,
    ray: str | None = None,
    **options: Any,
) -> Store:
    """Write the encoded store of a data set.

    Args:
        source: name of a data set (``synthetic``, ``kuairand-pure``, ...), or a schema file for your own data.
        out: folder to make.
        raw: folder or file with the raw data.
        overwrite: replace an existing store.
        workers: processes that read the log and write the store, which is the same for any number.
        ray: workers of a Ray cluster instead: ``local``, ``auto`` or the address of a head.
        options: of the data set, for example ``rows=100_000`` for ``synthetic``.
    """
    tables, origin = open_source(str(source), None if raw is None else Path(raw), options)
    return write_store(tables, Path(out), overwrite=overwrite, origin=origin, workers=workers, ray=ray)


def train(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    *,
    folder: Path | str | None = None,
    warm_start: Path | str | None = None,
    quiet: bool = False,
) -> RunFolder:
    """Train a recipe (an object, its values, or its file) and return the finished run.

    Args:
        recipe: what to train on what.
        folder: run folder to make (default: below ``runs``).
        warm_start: run whose best weights to start from.
        quiet: say nothing on standard error.
    """
    if isinstance(recipe, Mapping):
        recipe = parse(Recipe, recipe, where="recipe")
    elif not isinstance(recipe, Recipe):
        recipe = load_recipe(Path(recipe))
    return train_recipe(
        recipe,
        folder=None if folder is None else Path(folder),
        start_from=None if warm_start is None else Path(warm_start),
        quiet=quiet,
    )
