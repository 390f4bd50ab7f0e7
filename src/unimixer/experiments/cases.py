"""Cases and jobs: a case is one model at one budget on one dataset, a job is a case with a seed and learning rates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch

from unimixer.backbones.registry import backbone_class
from unimixer.data.dataset import Dataset
from unimixer.data.schema import SPLITS
from unimixer.data.stream import epoch_rows
from unimixer.errors import UnimixerError
from unimixer.experiments.datasets import DatasetRef
from unimixer.experiments.lr_search import Rates
from unimixer.experiments.models import Variant, slug
from unimixer.experiments.plan import Budget, Plan
from unimixer.experiments.sizes import budget_words, depth_option, ranker_flops, short, size_for_flops, sizes_at_width
from unimixer.models import width_for_budget
from unimixer.ranker import count_dense, table_parameters
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.evaluation import check_chain, check_tasks
from unimixer.training.model import build_ranker, default_tasks, resolve, validate_recipe, with_tasks
from unimixer.training.optimizers import mixing_parameters

IRRELEVANT_TO_RESULTS: dict[str, Any] = {
    "training": {
        *("device", "num_workers", "threads", "log_every", "checkpoint_interval", "keep_checkpoints"),
        "activation_checkpointing",
    },
    "name": True,
    "dataset": True,
}
"""Parts of a recipe that do not change the result of a run, so that a row's key leaves them out."""

NEWER_KEYS = (
    *("soft_labels", "averaging", "model.tower_crosses", "model.embedding_dropout", "model.logit_clamp"),
    *("model.task_head", "model.task_head_options", "model.chain", "loss_weighting"),
)
"""Keys of a recipe that rows of older versions do not know; at its default such a key leaves the name of a row."""


@dataclass(frozen=True)
class Case:
    """One model at one budget on one dataset: its cost is known, the seed and the learning rates of a run are open."""

    dataset: DatasetRef
    variant: str
    """Label of the model."""
    group: str
    backbone: str
    options: dict[str, Any]
    budget_kind: str
    budget: int
    recipe: Recipe
    """The resolved recipe, without the seed and the rates of a job."""
    arguments: dict[str, Any]
    """All arguments of the backbone's constructor with defaults, so that a changed default changes the keys of rows."""
    dense_params: int
    table_params: int
    flops_per_sample: int
    train_rows: int
    held_out_rows: int
    """Rows of the validation and the test part together."""
    searches_mixing: bool
    """Whether the model has learned mixings whose rate its recipe leaves open."""

    @property
    def name(self) -> str:
        """The model and its budget in words."""
        return case_name(self.variant, (self.budget_kind, self.budget))

    @property
    def width(self) -> float:
        """The width at which the model meets its budget, before rounding to whole dimensions."""
        width = self.recipe.model.width
        assert width is not None
        return width

    @property
    def blocks(self) -> int | None:
        """Number of blocks, or None if the backbone has no such number."""
        name = depth_option(self.backbone)
        return None if name is None else int(self.arguments[name])

    @property
    def steps(self) -> int:
        """Optimizer steps of one stage of a run."""
        config = self.recipe.training
        per_epoch = ceil(ceil(self.train_rows / config.batch_size) / config.gradient_accumulation_steps)
        return min(config.max_steps or per_epoch * config.epochs, per_epoch * config.epochs)

    @property
    def stages(self) -> int:
        """Number of runs: two with a warm-up run, else one."""
        return 2 if self.recipe.temperature.schedule == "two-stage" else 1

    @property
    def samples(self) -> int:
        """Impressions that a run trains on, over all epochs and stages."""
        config = self.recipe.training
        rows = min(self.steps * config.batch_size * config.gradient_accumulation_steps, self.train_rows * config.epochs)
        return rows * self.stages

    @property
    def cost_key(self) -> str:
        """The name of everything that decides the cost of a run, whatever its seed and rates."""
        return self.any_job().key

    def any_job(self) -> Job:
        """Make the job of the rates of the recipe, as an example."""
        optimizer = self.recipe.optimizer
        return self.job(0, Rates(optimizer.dense_lr, optimizer.embedding_lr))

    def job(self, seed: int, rates: Rates) -> Job:
        """Make the job of one run of this case."""
        chosen = {"dense_lr": rates.dense, "embedding_lr": rates.sparse}
        if rates.mixing is not None:
            chosen["mixing_lr"] = rates.mixing
        optimizer = self.recipe.optimizer.model_copy(update=chosen)
        training = self.recipe.training.model_copy(update={"seed": seed})
        return Job(self, rates, self.recipe.model_copy(update={"optimizer": optimizer, "training": training}))


@dataclass(frozen=True)
class Job:
    """One run to train, which becomes one row."""

    case: Case
    rates: Rates
    recipe: Recipe

    @cached_property
    def key(self) -> str:
        """The readable name of the row, unique to the recipe and the content of the dataset."""
        case, optimizer = self.case, self.recipe.optimizer
        facts = {
            "recipe": _facts(self.recipe),
            "backbone": case.arguments,
            "dataset": case.dataset.hash,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
        budget = short(case.budget) + {"params": "", "flops": "flop", "width": "wide"}[case.budget_kind]
        rates = f"lr{_rate(optimizer.dense_lr)}"
        if optimizer.embedding_lr != 1e-3:
            rates += f"-sparse{_rate(optimizer.embedding_lr)}"
        if self.rates.mixing is not None:
            rates += f"-mixing{_rate(self.rates.mixing)}"
        words = (case.dataset.name, slug(case.variant), budget, rates, f"s{self.recipe.training.seed}", digest)
        return "-".join(words)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the row that are known before training."""
        case, recipe = self.case, self.recipe
        return {
            "key": self.key,
            "dataset": case.dataset.name,
            "dataset_hash": case.dataset.hash,
            "variant": case.variant,
            "group": case.group,
            "backbone": case.backbone,
            "options": json.dumps(case.options),
            "budget_kind": case.budget_kind,
            "budget": case.budget,
            "dense_params": case.dense_params,
            "table_params": case.table_params,
            "flops_per_sample": case.flops_per_sample,
            "seed": recipe.training.seed,
            "dense_lr": recipe.optimizer.dense_lr,
            "sparse_lr": recipe.optimizer.embedding_lr,
            "mixing_lr": self.rates.mixing,
            "tasks": json.dumps(list(recipe.tasks)),
            "train_rows": case.train_rows,
            "batch_size": recipe.training.batch_size,
            "stages": case.stages,
        }


def build_case(
    plan: Plan, variant: Variant, ref: DatasetRef, dataset: Dataset, budget: Budget, *, width: float | None = None
) -> Case:
    """Build one model on one dataset, with the width that meets a budget unless ``width`` is given."""
    kind, amount = budget
    spec = dataset.transform.spec
    recipe = parse(Recipe, _recipe_values(plan, variant, ref), where="recipe of the study (--set)")
    tasks = tuple(recipe.tasks) or default_tasks(spec)
    if width is None and kind == "width":
        width = float(amount)
        options = {**sizes_at_width(variant.backbone, amount, variant.options), **variant.options}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"options": options})})
    elif width is None and kind == "flops":
        width, kept = size_for_flops(with_tasks(spec, tasks), flops=amount, **_arguments(recipe))
        options = {**recipe.model.options, **kept}
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"options": options})})
    elif width is None:
        width = width_for_budget(with_tasks(spec, tasks), dense_params=amount, **_arguments(recipe))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": width})})
    return case_of(recipe, variant, ref, dataset, budget)


def case_of(recipe: Recipe, variant: Variant, ref: DatasetRef, dataset: Dataset, budget: Budget) -> Case:
    """Build the case of a recipe whose model has its size, under the name of a model and at a budget."""
    spec = dataset.transform.spec
    recipe = resolve(recipe, spec)
    for split in SPLITS:
        check_tasks(dataset, split, tuple(recipe.tasks))
    check_chain(dataset, recipe.model.chain)
    validate_recipe(recipe, spec)
    spec = with_tasks(spec, tuple(recipe.tasks))
    with torch.device("meta"):
        ranker = build_ranker(recipe.model, spec)
    training = recipe.training
    return Case(
        dataset=ref,
        variant=variant.label,
        group=variant.group,
        backbone=variant.backbone,
        options={**variant.options, **variant.recipe},
        budget_kind=budget[0],
        budget=budget[1],
        recipe=recipe,
        arguments={**_defaults(variant.backbone), **ranker.backbone_arguments},
        dense_params=count_dense(ranker),
        table_params=sum(parameter.numel() for parameter in table_parameters(ranker)),
        flops_per_sample=ranker_flops(spec, **_arguments(recipe), width=recipe.model.width),
        train_rows=epoch_rows(dataset, training.max_steps, training.batch_size * training.gradient_accumulation_steps),
        held_out_rows=dataset.summary("validation").rows + dataset.summary("test").rows,
        searches_mixing=recipe.optimizer.mixing_lr is None and bool(mixing_parameters(ranker)),
    )


def _facts(recipe: Recipe) -> dict[str, Any]:
    """Return the parts of a recipe that change results, without newer keys at their defaults."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude=IRRELEVANT_TO_RESULTS)
    defaults = Recipe(name="defaults", dataset="none").model_dump(mode="json")
    for key in NEWER_KEYS:
        *parents, last = key.split(".")
        section, default = values, defaults
        for parent in parents:
            section, default = section[parent], default[parent]
        if section[last] == default[last]:
            del section[last]
    return values


def _arguments(recipe: Recipe) -> dict[str, Any]:
    return recipe.model.model_dump(exclude={"dense_params", "width"})


def _defaults(backbone: str) -> dict[str, Any]:
    options = backbone_class(backbone).options()
    return {name: option.default for name, option in options.items() if option.default is not option.empty}


def _recipe_values(plan: Plan, variant: Variant, ref: DatasetRef) -> dict[str, Any]:
    """Return the recipe of a model as nested values."""
    values: dict[str, Any] = {
        "name": slug(variant.label),
        "dataset": ref.path,
        "tasks": dict(plan.tasks),
        "model": {"backbone": variant.backbone, "options": dict(variant.options)},
    }
    for key, value in {**plan.recipe, **variant.recipe}.items():
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, Mapping):
                raise UnimixerError(f"--set {key}: {parent!r} has no keys below it")
        section[last] = value
    return values


def case_name(label: str, budget: Budget) -> str:
    """Name a model at a budget in words, for example ``rankmixer at 4M parameters``."""
    return f"{label} at {budget_words(*budget)}"


def _rate(rate: float) -> str:
    """Write a rate for a key: ``1e-3`` instead of ``0.001``."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if rate < 0.01 else f"{rate:g}"


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs without repetitions."""
    return list({job.key: job for job in jobs}.values())
