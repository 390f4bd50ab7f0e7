"""The plan of a search for settings: the recipe, the space and the seed, kept in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from unimixer.data.dataset import Dataset, open_dataset
from unimixer.errors import UnimixerError, first_difference
from unimixer.experiments.plan_file import PlanFile, check_folder, is_begun, read_plan
from unimixer.experiments.tuning.space import Space, check_space, read_space
from unimixer.io import write_text
from unimixer.metrics import lower_is_better
from unimixer.settings import dump_yaml, parse
from unimixer.training.config import Recipe
from unimixer.training.model import monitor, resolve, validate_recipe
from unimixer.training.summary import flat


class Search(PlanFile):
    """A recipe, and the space in which better settings are looked for."""

    file: ClassVar[str] = "search.yaml"
    noun: ClassVar[str] = "search"
    command: ClassVar[str] = "unimixer tune RECIPE"

    source: str
    """The file of the recipe, for the reader."""
    recipe: dict[str, Any]
    """The recipe as its file and the command line have it."""
    space: dict[str, dict[str, Any]]
    """By key of the recipe, the values that it may take."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the sampler; that of the runs is the recipe's."""
    data: str = ""
    """Hash of the dataset's content."""

    def in_folder(self, folder: Path) -> Search:
        """Return this plan; raise if the folder was begun with another one."""
        check_folder(folder, Search)
        if is_begun(folder, Search):
            before = read_plan(folder, Search)
            pairs = {
                "recipe": (flat(before.recipe), flat(self.recipe)),
                "space": (flat(before.space), flat(self.space)),
                "seed": (before.seed, self.seed),
                "data": (before.data, self.data),
            }
            for name, (earlier, later) in pairs.items():
                if earlier != later:
                    difference = first_difference(name, earlier, later)
                    raise UnimixerError(f"{folder}: the search began with {difference}; choose another --out")
        return self


class OpenSearch(NamedTuple):
    """A plan that was checked, with all that follows from it."""

    plan: Search
    folder: Path
    recipe: Recipe
    """The recipe as it is, with the tasks and the path of its dataset."""
    dataset: Dataset
    space: Space

    @property
    def metric(self) -> str:
        """The name of the metric that judges a trial: that of ``training.monitor``, on validation."""
        return ".".join(monitor(self.recipe))

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower metric is better."""
        return lower_is_better(monitor(self.recipe)[1])


def open_search(plan: Search, folder: Path, space: Space | None = None) -> OpenSearch:
    """Check the recipe, the space and the folder before anything trains.

    Args:
        plan: a new plan, or that of the folder.
        folder: folder of the search, which need not exist.
        space: of the plan, with the lines of its file.
    """
    space = space or read_space(plan.space, "space")
    recipe = parse(Recipe, plan.recipe, where=plan.source)
    dataset = open_dataset(recipe.dataset)
    check_space(space, plan.recipe)
    resolved = resolve(recipe, dataset.transform.spec)
    validate_recipe(resolved, dataset.transform.spec)
    whole = recipe.model_copy(update={"dataset": str(dataset.folder.resolve()), "tasks": resolved.tasks})
    plan = plan.model_copy(update={"data": dataset.hash}).in_folder(folder)
    return OpenSearch(plan, folder, whole, dataset, space)


def write_search(search: OpenSearch) -> None:
    """Write the plan into its folder, which makes the folder a search."""
    write_text(search.folder / Search.file, dump_yaml(search.plan))
