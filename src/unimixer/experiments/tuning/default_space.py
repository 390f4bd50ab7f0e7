"""The space of a search whose user gives none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unimixer.backbones.registry import backbone_class
from unimixer.errors import UnimixerError
from unimixer.experiments.sizes import depth_option
from unimixer.experiments.tuning.space import own_value
from unimixer.features.spec import FeatureSpec
from unimixer.settings import Change, override, parse
from unimixer.training.config import Recipe
from unimixer.training.model import resolve, validate_recipe

DENSE = ("adam", "adamw", "muon")
ENCODERS = ("mean", "target_attention", "din")
DOUBLED = ("training.batch_size", "model.embedding_dim", "model.num_tokens")
"""Keys that are searched at half of their value in the recipe, at the value itself and at its double."""
MOST_CROSSES, MOST_BLOCKS = 2, 4


def default_space(recipe: Recipe, spec: FeatureSpec) -> dict[str, dict[str, Sequence[Any]]]:
    """Return the default space as a file would have it.

    A list of choices holds the values at which the recipe can be built for the data, at its present width. A key with
    fewer than two of them is left out.

    Args:
        recipe: as it is.
        spec: shapes of the encoded data.
    """
    options, dense = backbone_class(recipe.model.backbone).options(), recipe.optimizer.dense
    space: dict[str, dict[str, Sequence[Any]]] = {
        "optimizer.dense_lr": {"log": [1e-4, 1e-2]},
        "optimizer.embedding_lr": {"log": [1e-4, 1e-1]},
        "model.embedding_dropout": {"uniform": [0.0, 0.3]},
    }
    if dense != "sgd":
        space["optimizer.weight_decay"] = {"log": [1e-6, 1e-1]}
    if "dropout" in options:
        space["model.options.dropout"] = {"uniform": [0.0, 0.3]}
    depth = depth_option(recipe.model.backbone)
    if depth is not None and recipe.model.dense_params is not None:  # the budget then makes deeper models narrower
        own = own_value(recipe, f"model.options.{depth}")
        space[f"model.options.{depth}"] = {"int": [1, max(MOST_BLOCKS, own or 1)]}
    sized = resolve(recipe, spec)  # a budget takes seconds, so choices are tried at the width that it gives the recipe
    for key, values in _choices(recipe).items():
        possible = [value for value in values if _has_effect(sized, spec, key, value)]
        if len(possible) > 1:
            space[key] = {"choice": possible}
    return space


def _choices(recipe: Recipe) -> dict[str, Sequence[Any]]:
    """List the values of the keys that are searched over a list."""
    model = recipe.model
    choices: dict[str, Sequence[Any]] = {
        "model.tower_crosses": range(max(MOST_CROSSES, model.tower_crosses) + 1),
        "averaging.kind": ("none", "ema", "swa"),
    }
    if recipe.optimizer.dense in DENSE:
        choices["optimizer.dense"] = DENSE
    if model.sequence_encoder in ENCODERS:
        choices["model.sequence_encoder"] = ENCODERS
    by_field = (model.tokenizer or backbone_class(model.backbone).default_tokenizer) == "field"
    for key in DOUBLED:
        if not (key == "model.num_tokens" and by_field) and not (key == "model.embedding_dim" and recipe.pretrained):
            own = own_value(recipe, key)
            choices[key] = [value for value in (own // 2, own, 2 * own) if value]
    return choices


def _has_effect(recipe: Recipe, spec: FeatureSpec, key: str, value: Any) -> bool:
    """Return whether the recipe can be built with a value, and has a history for an encoder."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    try:
        changed = parse(Recipe, override(values, [Change(key, value, key)]), where="recipe")
        if not key.startswith("model."):
            return True
        model = validate_recipe(changed, spec)
    except UnimixerError:
        return False
    return key != "model.sequence_encoder" or value == "mean" or len(model.embedding.encoders) > 0
