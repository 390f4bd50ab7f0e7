"""The plan of an experiment: models x budgets x seeds on prepared data, and where learning rates are searched.

The folder of an experiment keeps its plan as YAML. The rest of the program treats a study and a sweep alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from unimixer.errors import UnimixerError, first_difference, unknown
from unimixer.experiments.datasets import DatasetRef, WrittenDataset, open_datasets
from unimixer.experiments.lr_search import POWER, Rates
from unimixer.experiments.models import EMBEDDING_LR, Variant, WrittenVariant, label_of
from unimixer.experiments.plan_file import PlanFile, check_folder, is_begun, read_plan
from unimixer.experiments.sizes import second_base_size, with_depth
from unimixer.io import write_text
from unimixer.settings import dump_yaml, find_settings, load_yaml, parse
from unimixer.training.config import Count, RecipeKeys

JUDGED = ("excess_log_loss", "auc", "uauc", "log_loss", "ne")
"""Metrics whose differences can be judged, each where it is known; the first known one leads a report."""

OWN_KEYS = (
    *("training.seed", "optimizer.dense_lr", "optimizer.embedding_lr", "model.dense_params", "model.width"),
    *("model.backbone", "model.options", "name", "dataset", "tasks"),
)
"""Keys of a recipe that a plan sets itself."""

Budget = tuple[str, int]
"""A kind of :data:`~unimixer.experiments.sizes.BUDGETS`, and its amount."""
AnyPlan = TypeVar("AnyPlan", bound="Plan")


class Plan(PlanFile):
    """Every model at every budget on every dataset, with the same features, batches and steps."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "dense_lr": "lr learning_rate lr_grid",
        "data": "dataset datasets",
        "models": "model backbones",
        "params": "budget budgets",
        "judged_metrics": "metrics",
        "recipe": "training settings batch_size",
    }
    fixed: ClassVar[tuple[str, ...]] = ("dense_lr", "sparse_lr", "mixing_lr", "tasks", "recipe")
    """Fields that must not change once an experiment has begun."""
    columns: ClassVar[tuple[str, ...]]
    """Columns of the printed plan."""
    text_columns: ClassVar[int]
    """Number of leading columns that are text."""

    data: tuple[WrittenDataset, ...] = Field(min_length=1)
    """Datasets: paths, or names below ``$UNIMIXER_DATASETS``."""
    models: tuple[WrittenVariant, ...] = Field(min_length=1)
    """Mappings, or the short form ``backbone:option=value``."""
    params: tuple[Count, ...] = ()
    """Budgets in dense parameters, each met within 2%."""
    flops: tuple[Count, ...] = ()
    """Budgets in floating-point operations of a forward pass a sample, each met within 2%."""
    widths: tuple[PositiveInt, ...] = ()
    """Token widths, each the same for every model, with hidden widths in proportion and whatever they then cost."""
    seeds: PositiveInt = 5
    """Runs a model, with seeds 0, 1, ..."""
    base: str = ""
    """Label of the model that the others are compared with (default: the first)."""
    dense_lr: tuple[PositiveFloat, ...] = Field(default=(1e-3, 2e-3, 4e-3), min_length=1)
    """Learning rates to choose from, on validation, with the first seed."""
    sparse_lr: tuple[PositiveFloat, ...] = Field(default=(1e-3,), min_length=1)
    """The same for the embedding tables; more than one makes a grid."""
    mixing_lr: tuple[PositiveFloat, ...] = ()
    """The same for learned mixings (``optimizer.mixing_lr``), in models that have one and leave its rate open."""
    tasks: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Labels to learn and their weights (default: every label of a dataset, weight 1)."""
    judged_tasks: tuple[str, ...] = ()
    """Tasks whose differences are judged (default: all). Fewer comparisons need less evidence each; choose them
    before looking."""
    judged_metrics: tuple[str, ...] = ()
    """Metrics whose differences are judged (default: AUC, UAUC, log loss, NE, and the excess log loss where the
    truth is known)."""
    recipe: RecipeKeys = Field(default_factory=dict)
    """Dotted keys of the recipe for every model, for example ``training.batch_size: 512``."""
    lenient: bool = False
    """Leave out a model that cannot be built at a budget, and say why, instead of refusing the whole plan."""

    def model_post_init(self, _context: Any) -> None:
        """Check the rules that concern several fields."""
        if not self.budgets:
            raise UnimixerError("a study needs a budget: --params 1M,4M, --flops 2M or --widths 64")
        labels = [variant.label for variant in self.models]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UnimixerError(f"two models are called {twice!r}; give one another name: BACKBONE:label=NAME")
        for metric in self.judged_metrics:
            if metric not in JUDGED:
                raise unknown("metric", metric, JUDGED)
        for field in ("params", "flops", "widths", "dense_lr", "sparse_lr", "mixing_lr"):
            object.__setattr__(self, field, tuple(dict.fromkeys(getattr(self, field))))
        object.__setattr__(self, "base", label_of(self.base, self.models) if self.base else labels[0])
        backbones = {variant.label: variant.backbone for variant in self.models}
        for variant in self.models:
            alike = [label for label in labels if backbones[label] == variant.backbone and label != variant.label]
            if variant.size_of is not None and variant.size_of not in alike:
                raise unknown(f"model {variant.label!r}: size_of", variant.size_of, alike)
        for key in self.recipe:
            if key in OWN_KEYS:
                raise UnimixerError(f"--set {key}: a study sets it itself; see --seeds, --lr-grid, --params, --models")

    def grid(self, variant: Variant, *, mixing: bool) -> list[Rates]:
        """Return the rates to choose from for a model: its own ones, else those of the plan.

        Args:
            variant: the model.
            mixing: whether it has learned mixings to choose a rate for.
        """
        mixing_lr = (variant.mixing_lr or self.mixing_lr if mixing else ()) or (None,)
        own = variant.recipe.get(EMBEDDING_LR)
        sparse_lr = self.sparse_lr if own is None else (own,)
        return [Rates(*rates) for rates in product(self.dense_lr, sparse_lr, mixing_lr)]

    @property
    def monitor(self) -> str | None:
        """The metric that chooses rates, ``TASK.METRIC`` on validation (default: the first task's AUC)."""
        monitor: str | None = self.recipe.get("training.monitor")
        return monitor

    @property
    def budgets(self) -> list[Budget]:
        """The budgets at which every model is built."""
        amounts = {"params": self.params, "flops": self.flops, "width": self.widths}
        return [(kind, amount) for kind, counts in amounts.items() for amount in counts]

    def at_budget(self, variant: Variant, budget: Budget) -> Variant:
        """Return the model to build at a budget."""
        return variant

    @property
    def search_words(self) -> str:
        """The search for learning rates in words."""
        counts = [len(self.grid(variant, mixing=True)) for variant in self.models]
        tried = f"{max(counts)}" if min(counts) == max(counts) else f"up to {max(counts)}"
        grid = f"{tried} learning rates with the first seed, then " if max(counts) > 1 else ""
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"a model: {grid}{seeds}; budgets are met within 2%"

    def opened(self, folder: Path) -> Self:
        """Open the datasets of the plan, and check that it agrees with the plan that its folder holds."""
        plan = self.model_copy(update={"data": open_datasets(self.data)})
        plan.in_folder(folder)  # raises where they differ
        return plan

    def in_folder(self, folder: Path) -> Self:
        """Join this plan with the one that its folder holds, if it holds one.

        Raises:
            UnimixerError: if the folder was begun with other settings; the message names the first difference.
        """
        kind = type(self)
        check_folder(folder, kind)
        return read_plan(folder, kind).joined(self, folder) if is_begun(folder, kind) else self

    def joined(self, later: Self, folder: Path) -> Self:
        """Join this plan of a folder with a later one: models, seeds and budgets may be added, the rest must agree."""
        for field in self.fixed:
            before, after = getattr(self, field), getattr(later, field)
            if before != after:
                change = first_difference(field, before, after)
                raise UnimixerError(f"{folder}: the {self.noun} began with {change}; choose another --out")
        models = {variant.label: variant for variant in self.models}
        for variant in later.models:
            begun = models.setdefault(variant.label, variant).model_copy(update={"group": variant.group})
            if begun != variant:
                change = first_difference("other settings", begun.model_dump(), variant.model_dump())
                raise UnimixerError(f"{folder}: model {variant.label!r} was begun with {change}; give it another label")
        joined = {
            "data": self._joined_data(later, folder),
            "models": tuple(models.values()),
            "params": (*self.params, *later.params),
            "flops": (*self.flops, *later.flops),
            "widths": (*self.widths, *later.widths),
            "seeds": max(self.seeds, later.seeds),
            "base": later.base if "base" in later.model_fields_set else self.base,
            "lenient": self.lenient or later.lenient,
            "judged_tasks": later.judged_tasks or self.judged_tasks,
            "judged_metrics": later.judged_metrics or self.judged_metrics,
        }
        return type(self)(**{**dict(self), **joined})

    def _joined_data(self, later: Self, folder: Path) -> tuple[DatasetRef, ...]:
        begun = {ref.path: ref for ref in self.data}
        for ref in later.data:
            if ref.path in begun and begun[ref.path].hash != ref.hash:
                raise UnimixerError(
                    f"{folder}: data={ref.path} has content {ref.hash}, the study began with "
                    f"{begun[ref.path].hash}; choose another --out"
                )
        return tuple({ref.hash or ref.path: ref for ref in (*self.data, *later.data)}.values())


class Study(Plan):
    """A comparison of models at equal budgets: every model gets its own best learning rates at every budget."""

    file = "study.yaml"
    noun = "study"
    command = "unimixer compare"
    text_columns = 3
    columns = (
        *("data", "model", "budget", "dense parameters", "FLOPs/sample", "rows", "to compute", "samples/s"),
        *("seconds a row", "seconds"),
    )


class Sweep(Plan):
    """Every model at every size, with one pass over the data unless the recipe says otherwise."""

    file = "sweep.yaml"
    noun = "sweep"
    command = "unimixer scale run"
    text_columns = 2
    fixed = (*Plan.fixed, "dial", "lr_search", "lr_power")
    columns = (
        *("data", "model", "dense parameters", "FLOPs/sample", "blocks", "width", "rate", "rows", "to compute"),
        *("samples/s", "seconds a row", "seconds"),
    )

    seeds: PositiveInt = 3
    dense_lr: tuple[PositiveFloat, ...] = Field(default=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3), min_length=1)
    """Learning rates to choose from at the smallest size; a single one is not searched."""
    dial: Literal["width", "depth", "both"] = "width"
    """What grows with the size."""
    lr_search: Literal["smallest", "two", "every"] = "smallest"
    """Sizes at which rates are searched, see :mod:`unimixer.experiments.lr_search`."""
    lr_power: NonNegativeFloat = POWER
    """p, for a search at the smallest size."""
    anchors: tuple[Count, ...] = ()
    """Base sizes, at which rates are searched. They are kept from the first call on, so that sizes added later do not
    move the rates of others."""

    def model_post_init(self, context: Any) -> None:
        """Check the rules that concern several fields, and choose the base sizes."""
        if self.flops or self.widths or not self.params:
            raise UnimixerError("the sizes of a sweep are dense parameters: give --sizes 0.25M..64M")
        super().model_post_init(context)
        if len(self.sparse_lr) > 1:
            raise UnimixerError("a sweep has one rate for the embedding tables: give one --sparse-lr")
        if any(len(rates) > 1 for rates in (self.mixing_lr, *(variant.mixing_lr for variant in self.models))):
            raise UnimixerError("a sweep has one rate for learned mixings: give one mixing_lr")
        if self.lr_search == "every" and len(self.dense_lr) == 1:
            raise UnimixerError("a search at every size needs rates to choose from; give --lr-grid several")
        if self.lr_search != "smallest" and self.lr_power != POWER and len(self.dense_lr) > 1:
            raise UnimixerError(f"lr_power {self.lr_power:g} belongs to a search at the smallest size; leave it out")
        object.__setattr__(self, "params", tuple(sorted(self.params)))
        if not self.anchors:
            two = self.lr_search == "two" and len(self.dense_lr) > 1
            second = (second_base_size(self.params),) if two else ()
            object.__setattr__(self, "anchors", (self.params[0], *second))

    @property
    def base_sizes(self) -> tuple[int, ...]:
        """Sizes at which rates are searched; none if there is one rate."""
        if len(self.dense_lr) == 1:
            return ()
        return self.params if self.lr_search == "every" else self.anchors

    @property
    def search_words(self) -> str:
        """The search for learning rates in words."""
        if not self.base_sizes:
            return ""
        tried = f"rates: {len(self.dense_lr)} tried with the first seed at "
        if self.lr_search == "every":
            return f"{tried}every size"
        where, power = "the smallest size", f"{self.lr_power:g}"
        if len(self.base_sizes) > 1:
            where, power = "two sizes, which give p", "p"
        tried += where
        return f"{tried}; then lr = base (width / base width)^-{power}"

    def opened(self, folder: Path) -> Self:
        """Open the datasets of the plan, and join it with the plan that its folder holds: a sweep is computed whole."""
        return super().opened(folder).in_folder(folder)

    @property
    def budgets(self) -> list[Budget]:
        """The sizes at which every model is built."""
        return [("params", size) for size in sorted({*self.params, *self.base_sizes})]

    def at_budget(self, variant: Variant, budget: Budget) -> Variant:
        """Return the model with the number of blocks that it has at a size."""
        options = with_depth(variant.backbone, variant.options, self.dial, budget=budget[1], smallest=self.anchors[0])
        return variant.model_copy(update={"options": options})

    def _joined_data(self, later: Self, folder: Path) -> tuple[DatasetRef, ...]:
        if [ref.hash for ref in self.data] != [ref.hash for ref in later.data]:
            before, after = (", ".join(f"{ref.path} ({ref.hash})" for ref in plan.data) for plan in (self, later))
            raise UnimixerError(f"{folder}: the sweep began with data {before}, not {after}; choose another --out")
        return self.data


def load_study(path: Path | str, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study, by its path or the name of a packaged one; ``changes`` replace whole keys."""
    values = load_yaml(find_settings(path, "studies")).with_values(changes or {}, "the changes")
    return parse(Study, values, where=str(path))


def write_plan(folder: Path, plan: AnyPlan) -> AnyPlan:
    """Write the plan of a folder, joined with the one that it holds; return the joined plan."""
    whole = plan.in_folder(folder)
    write_text(folder / plan.file, dump_yaml(whole))
    return whole
