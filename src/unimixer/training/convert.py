"""Convert a finished run to the recipe of another model that starts with the same scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from unimixer.backbones import BACKBONES
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.environment import states_kept
from unimixer.errors import UnimixerError
from unimixer.mixing import Discretizable, discretize
from unimixer.progress import progress_bar
from unimixer.ranker import Ranker
from unimixer.training.config import ModelConfig, Recipe
from unimixer.training.evaluation import EVALUATION_BATCH
from unimixer.training.model import build_ranker, load_ranker, with_tasks
from unimixer.training.run import RunFolder
from unimixer.training.warm_start import WarmStart

TARGETS = {"rankmixer": ("unimixer", "unimixer-lite"), "unimixer-lite": ("unimixer",)}
"""The backbones that each backbone can become without a change of its scores."""
INIT_SCALE = 2.0
"""Raw value of a converted rule; at the temperature of 0.1 every other entry of a row is exp(-20)."""


@dataclass(frozen=True)
class ScoreChange:
    """The differences between the scores of two models, over all rows and tasks."""

    rows: int
    max_logit_difference: float
    mean_logit_difference: float
    max_probability_difference: float


def converted_recipe(run: RunFolder, to: str) -> Recipe:
    """Make the recipe of a model that ``train(recipe, start_from=run)`` starts with the scores of this run.

    A RankMixer becomes a UniMixer that starts from the rule, with the same FFNs, norms and residuals; a UniMixing-Lite
    becomes a full UniMixer.

    Raises:
        UnimixerError: if the run's backbone cannot become the other one.
    """
    recipe = run.recipe
    backbone = recipe.model.backbone
    if to not in TARGETS.get(backbone, ()):
        ways = "; ".join(f"{source} to {' or '.join(targets)}" for source, targets in TARGETS.items())
        raise UnimixerError(f"a {backbone} cannot be converted to {to!r}; what can be: {ways}")
    with torch.device("meta"):
        source = build_ranker(recipe.model, with_tasks(run.transform.spec, tuple(recipe.tasks)))
    arguments = {**_defaults(backbone), **source.backbone_arguments}
    num_tokens, token_dim = arguments.pop("num_tokens"), arguments["token_dim"]
    arguments["hidden_dim"] = arguments["hidden_dim"] or max(1, round(arguments["expansion"] * token_dim))
    if backbone == "rankmixer":
        arguments |= {"num_heads": num_tokens, "init_scale": INIT_SCALE, "matrices": "blocks"}
    known = _defaults(to)
    options = {name: value for name, value in arguments.items() if name in known and name not in ("rank", "expansion")}
    model = recipe.model.model_copy(
        update={
            "backbone": to,
            "width": None,
            "tokenizer": recipe.model.tokenizer or BACKBONES[backbone].default_tokenizer,
            "options": {name: value for name, value in options.items() if value != known[name]},
        }
    )
    return recipe.model_copy(update={"name": f"{recipe.name}-as-{to}", "model": model})


def _defaults(backbone: str) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in BACKBONES[backbone].options().items()}


def converted_ranker(run: RunFolder, model: ModelConfig) -> Ranker:
    """Load the run's best weights into a model of another backbone, ready to score."""
    converted = build_ranker(model, with_tasks(run.transform.spec, tuple(run.recipe.tasks)))
    converted.load_state_dict(WarmStart(run, converted, run.transform).state(converted))
    return converted.eval()


@states_kept()
def conversion_change(run: RunFolder, recipe: Recipe, dataset: Dataset, split: str = "validation") -> ScoreChange:
    """Measure the change of scores when the model of another recipe takes over the run's weights."""
    return score_change(load_ranker(run), converted_ranker(run, recipe.model), dataset, split)


def score_change(before: Ranker, after: Ranker, dataset: Dataset, split: str) -> ScoreChange:
    """Score every row of a split with two models of the same dataset and compare."""
    loader = Loader(dataset, split, batch_size=EVALUATION_BATCH)
    largest = largest_probability = total = 0.0
    count = 0
    with torch.no_grad(), progress_bar(f"comparing scores on {split}", loader.num_rows) as advance:
        for batch in loader.batches():
            first, second = before(batch).float(), after(batch).float()
            difference = (first - second).abs()
            largest = max(largest, difference.max().item())
            probabilities = (first.sigmoid() - second.sigmoid()).abs()
            largest_probability = max(largest_probability, probabilities.max().item())
            total += difference.double().sum().item()
            count += difference.numel()
            advance(len(batch))
    return ScoreChange(loader.num_rows, largest, total / max(count, 1), largest_probability)


def hardened_ranker(ranker: Ranker, form: str, run: RunFolder) -> Ranker:
    """Copy a run's ranker with its learned mixings made hard.

    Raises:
        UnimixerError: if the model has no learned mixing.
    """
    if not any(isinstance(part, Discretizable) for part in ranker.modules()):
        raise UnimixerError(
            f"{run.folder} is a {run.recipe.model.backbone}: it has no learned mixing to harden; "
            "unimixer and unimixer-lite have"
        )
    return discretize(ranker, form)
