"""The space of a search: keys of a recipe, and the values that each may take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Any

from unimixer.backbones.registry import backbone_class, check_options
from unimixer.errors import UnimixerError, unknown
from unimixer.experiments.lr_search import rounded
from unimixer.settings import Change, Document, check_distinct, override, parse
from unimixer.training.config import Recipe

if TYPE_CHECKING:
    from optuna.trial import Trial

DIGITS = 4
"""Significant digits of a drawn number, so that a recipe stays readable."""
KINDS = {
    "log": "numbers between two positive ones, uniform in their logarithm: {log: [1e-4, 1e-2]}",
    "uniform": "numbers between two others: {uniform: [0, 0.3]}",
    "int": "whole numbers between two others, both included: {int: [1, 4]}",
    "choice": "the values of a list: {choice: [adam, adamw]}",
}
OUTSIDE = {
    "name": "it changes no result",
    "dataset": "every trial trains on the same data",
    "metrics": "they change no model",
    "training.seed": "luck is not a setting; see --confirm",
    "training.monitor": "trials are compared by one metric",
    "training.eval_interval": "trials are compared after the same share of their steps",
    **dict.fromkeys(
        (
            *("training.device", "training.num_workers", "training.threads", "training.log_every"),
            *("training.checkpoint_interval", "training.keep_checkpoints", "training.trackers"),
            "training.activation_checkpointing",
        ),
        "it changes no result",
    ),
}
"""Keys that are no settings of a model or its training, and why."""
NEEDS = {
    "optimizer.weight_decay": ("optimizer.dense", ("adamw", "muon")),
    "averaging.decay": ("averaging.kind", ("ema",)),
    "averaging.start": ("averaging.kind", ("swa",)),
    "temperature.start": ("temperature.schedule", ("linear", "two-stage")),
}
"""Keys that have an effect at some values of another key only."""


@dataclass(frozen=True)
class Dimension:
    """One key and its values.

    Args:
        key: of the recipe, dotted.
        kind: one of :data:`KINDS`.
        values: the two ends of a range, or the choices.
        origin: its place in a message.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    origin: str

    def probes(self) -> list[Any]:
        """Return values whose types are those of all others."""
        if self.kind in ("int", "choice"):
            return list(self.values)
        low, high = self.values
        return [
            low,
            self._rounded(exp((log(low) + log(high)) / 2) if self.kind == "log" else low + (high - low) / 3),
            high,
        ]

    def holds(self, value: Any) -> bool:
        """Return whether a value can be drawn."""
        if self.kind == "choice":
            return _plain(value) in [_plain(one) for one in self.values]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.values[0] <= value <= self.values[1] and (self.kind != "int" or value == int(value))

    def stored(self, value: Any) -> Any:
        """Return a value as the storage of trials has it."""
        return _plain(value) if self.kind == "choice" else value

    def suggest(self, trial: Trial) -> Any:
        """Draw a value, or return the one that the trial has already."""
        if self.kind == "choice":
            chosen = trial.suggest_categorical(self.key, [_plain(value) for value in self.values])
            return next(value for value in self.values if _plain(value) == chosen)
        if self.kind == "int":
            return trial.suggest_int(self.key, *self.values)
        return self._rounded(trial.suggest_float(self.key, *self.values, log=self.kind == "log"))

    def _rounded(self, value: float) -> float:
        return float(min(max(rounded(value, DIGITS), self.values[0]), self.values[1]))

    def change(self, value: Any) -> Change:
        """Return the change of a recipe."""
        return Change(self.key, value, self.origin)


Space = tuple[Dimension, ...]


def read_space(values: Mapping[str, Any], where: str) -> Space:
    """Read the space from plain values.

    Args:
        values: by key of the recipe, ``{KIND: VALUES}``; those of a file know their lines.
        where: the name of other values in a message.
    """
    if not values:
        raise UnimixerError(f"{where}: no key to search; write for example optimizer.dense_lr: {{log: [1e-4, 1e-2]}}")
    origins = values if isinstance(values, Document) else Document(values, {})
    space = [_dimension(key, written, origins.origin((key,)) or where) for key, written in values.items()]
    check_distinct([dimension.change(None) for dimension in space])
    parents = {parent for parent, _ in NEEDS.values()}
    return tuple(sorted(space, key=lambda dimension: dimension.key not in parents))


def _dimension(key: str, written: Any, origin: str) -> Dimension:
    if not isinstance(written, Mapping) or len(written) != 1:
        ways = "; ".join(KINDS.values())
        raise UnimixerError(f"{origin}: {key}: expected one mapping for a dotted key of the recipe, one of: {ways}")
    ((kind, values),) = written.items()
    if kind not in KINDS:
        raise UnimixerError(f"{origin}: {unknown(f'kind of {key}:', str(kind), KINDS)}")
    refused = UnimixerError(f"{origin}: {key}: {kind}={values!r}: expected {KINDS[kind]}")
    if not isinstance(values, list | tuple):
        raise refused
    if kind == "choice":
        texts = [json.dumps(value) for value in values]
        if not values or len(set(texts)) < len(texts):
            raise refused
        return Dimension(key, kind, tuple(values), origin)
    numbers = [isinstance(v, int if kind == "int" else int | float) and not isinstance(v, bool) for v in values]
    if len(values) != 2 or not all(numbers) or not values[0] < values[1] or (kind == "log" and not values[0] > 0):
        raise refused
    return Dimension(key, kind, tuple(values), origin)


def check_space(space: Space, values: Mapping[str, Any]) -> None:
    """Raise, before anything trains, for a key or a value that does not fit the recipe.

    Args:
        space: keys and their values.
        values: of the recipe.
    """
    recipe = parse(Recipe, values, where="recipe")
    searched = {dimension.key: dimension for dimension in space}
    for dimension in space:
        key, origin = dimension.key, dimension.origin
        if key in OUTSIDE:
            raise UnimixerError(f"{origin}: {key} cannot be searched: {OUTSIDE[key]}; leave it out")
        if key.startswith("tasks") and key.removeprefix("tasks.") not in recipe.tasks:
            raise UnimixerError(
                f"{origin}: {key}: a search keeps the tasks; name them in the recipe, and search weights"
            )
        for value in dimension.probes():
            parse(Recipe, override(values, [dimension.change(value)]), where=origin)
        _check_option(dimension, searched, recipe)
        if key in NEEDS:
            parent, needed = NEEDS[key]
            possible = searched[parent].values if parent in searched else (own_value(recipe, parent),)
            if not set(possible) & set(needed):
                raise UnimixerError(
                    f"{origin}: {key} has no effect with {parent}={possible[0]}; set or search {parent} among "
                    f"{', '.join(needed)}, or leave {key} out"
                )


def _check_option(dimension: Dimension, searched: Mapping[str, Dimension], recipe: Recipe) -> None:
    """Raise if a backbone of the search does not have the option that a key sets."""
    name = dimension.key.removeprefix("model.options.")
    if name == dimension.key:
        return
    backbones = searched["model.backbone"].values if "model.backbone" in searched else (recipe.model.backbone,)
    for backbone in backbones:
        try:
            for value in dimension.probes():
                check_options(backbone, {name: value})
        except UnimixerError as error:
            raise UnimixerError(f"{dimension.origin}: {error}") from None
        default = backbone_class(backbone).options()[name].default
        whole = isinstance(default, int) and not isinstance(default, bool)
        if whole and dimension.kind in ("log", "uniform"):
            raise UnimixerError(
                f"{dimension.origin}: {dimension.key} is a whole number in {backbone!r}; write {{int: [low, high]}}"
            )


def has_effect(key: str, chosen: Mapping[str, Any], recipe: Recipe) -> bool:
    """Return whether a key has an effect beside the values that are chosen already."""
    if key not in NEEDS:
        return True
    parent, needed = NEEDS[key]
    return (chosen[parent] if parent in chosen else own_value(recipe, parent)) in needed


def own_value(recipe: Recipe, key: str) -> Any:
    """Return the value that a recipe has for a dotted key, or the default of a backbone's option."""
    *sections, name = key.split(".")
    if sections == ["model", "options"] and name not in recipe.model.options:
        option = backbone_class(recipe.model.backbone).options().get(name)
        return None if option is None or option.default is option.empty else option.default
    value: Any = recipe
    for part in (*sections, name):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """Return a value that the storage of trials takes: lists and mappings become texts."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)
