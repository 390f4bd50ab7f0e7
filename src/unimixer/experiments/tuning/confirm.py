"""Confirm a search: the recipe as it is and the best one trained with seeds that no trial had, measured on test."""

from __future__ import annotations

from pathlib import Path

from unimixer.experiments.cases import Case, case_of
from unimixer.experiments.datasets import DatasetRef, open_datasets
from unimixer.experiments.executor import Machine, Outcome, Schedule, run_jobs
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.models import Variant
from unimixer.experiments.progress_view import watching
from unimixer.experiments.results import Row, read_rows, write_truth
from unimixer.experiments.tuning.plan import OpenSearch
from unimixer.experiments.tuning.search import recipe_of
from unimixer.experiments.tuning.storage import TrialRow
from unimixer.ranker import count_dense
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import hollow_ranker, resolve

AS_IT_IS = "recipe as it is"


def confirm(
    search: OpenSearch, best: TrialRow, seeds: int, machine: Machine, *, resume_with: str, quiet: bool = False
) -> Outcome:
    """Train both recipes with further seeds; rows that are there are kept.

    Args:
        search: the search.
        best: its best trial.
        seeds: runs of each recipe.
        machine: processes and threads.
        resume_with: command that continues, for the message of a stopped call.
        quiet: show no progress.
    """
    first = search.recipe.training.seed + 1
    cases = _cases(search, best)
    jobs = [case.job(seed, _rates(case.recipe)) for seed in range(first, first + seeds) for case in cases]
    folder = confirmation_folder(search.folder)
    write_truth(folder, search.dataset, tuple(search.recipe.tasks))
    with watching(folder, quiet=quiet) as view:
        return run_jobs(jobs, folder, machine, Schedule(total=len(jobs), resume_with=resume_with), view=view)


def confirmation_folder(folder: Path) -> Path:
    """Return the folder of the rows and scores."""
    return folder / "confirm"


def confirmation_rows(folder: Path, best: TrialRow) -> list[Row]:
    """Read the rows of the recipe as it is and of the best trial; none if the two are the same."""
    rows = read_rows(confirmation_folder(folder))
    return [row for label in (AS_IT_IS, label_of(best)) for row in rows if row["variant"] == label]


def label_of(best: TrialRow) -> str:
    """Name the recipe of the best trial."""
    return f"trial {best.number}"


def _cases(search: OpenSearch, best: TrialRow) -> list[Case]:
    """Build both cases under one budget, the dense parameters of the recipe as it is."""
    spec = search.dataset.transform.spec
    (ref,) = open_datasets([DatasetRef(path=str(search.dataset.folder))])
    as_it_is = resolve(search.recipe, spec)
    size = search.recipe.model.dense_params or count_dense(hollow_ranker(as_it_is, spec))
    cases = []
    for label, settings in ((AS_IT_IS, {}), (label_of(best), best.settings)):
        recipe = parse(Recipe, {**recipe_of(search, settings), "dataset": search.recipe.dataset}, where="recipe")
        variant = Variant(backbone=recipe.model.backbone, label=label)
        cases.append(case_of(recipe, variant, ref, search.dataset, ("params", size)))
    return cases


def _rates(recipe: Recipe) -> Rates:
    return Rates(recipe.optimizer.dense_lr, recipe.optimizer.embedding_lr, recipe.optimizer.mixing_lr)
