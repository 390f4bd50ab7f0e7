"""A case is one model at one budget on one store, sized and ready to train; a job is a case with a seed and rates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import torch

from unimixer.backbones.registry import backbone_class
from unimixer.data.dataset import Store, find_store
from unimixer.data.schema import SPLITS
from unimixer.errors import UnimixerError
from unimixer.experiments.budgets import ranker_flops, width_for_flops
from unimixer.experiments.study_config import StoreRef, Study, Variant
from unimixer.ranker import count_dense, table_parameters, width_for_budget
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.evaluation import check_tasks
from unimixer.training.model import build_ranker, resolve, validate_recipe, with_tasks

INDIFFERENT: dict[str, Any] = {
    "training": {
        *("device", "num_workers", "threads", "log_every", "checkpoint_every", "keep_checkpoints"),
        "checkpoint_activations",
    },
    "name": True,
    "store": True,
}
"""Parts of a recipe that do not decide what a run learns."""


@dataclass(frozen=True)
class Case:
    """One model at one budget on one store; what a run of it costs is known, its seed and rates are open."""

    store: StoreRef
    variant: str
    """Label shown to people."""
    group: str
    backbone: str
    options: dict[str, Any]
    budget_kind: str
    budget: int
    recipe: Recipe
    """Resolved, with a size; a job puts seed and rates in."""
    arguments: dict[str, Any]
    """All arguments of the backbone's constructor, defaults too: a row does not outlive a change of them."""
    dense_params: int
    table_params: int
    flops_per_sample: int
    train_rows: int
    held_out_rows: int
    """Rows of validation, and of test."""

    @property
    def name(self) -> str:
        """For people: model and budget."""
        return f"{self.variant} at {short(self.budget)} {'parameters' if self.budget_kind == 'params' else 'FLOPs'}"

    @property
    def steps(self) -> int:
        """Optimizer steps of a run, of one stage."""
        config = self.recipe.training
        per_epoch = ceil(ceil(self.train_rows / config.batch_size) / config.accumulate)
        return min(config.max_steps or per_epoch * config.epochs, per_epoch * config.epochs)

    @property
    def stages(self) -> int:
        """Two where a warm-up run comes first."""
        return 2 if self.recipe.temperature.schedule == "two-stage" else 1

    @property
    def samples(self) -> int:
        """Impressions that a run is trained on, over all epochs and stages."""
        config = self.recipe.training
        rows = min(self.steps * config.batch_size * config.accumulate, self.train_rows * config.epochs)
        return rows * self.stages

    def job(self, seed: int, dense_lr: float, sparse_lr: float) -> Job:
        """A run of this case."""
        optimizer = self.recipe.optimizer.model_copy(update={"dense_lr": dense_lr, "sparse_lr": sparse_lr})
        training = self.recipe.training.model_copy(update={"seed": seed})
        return Job(self, self.recipe.model_copy(update={"optimizer": optimizer, "training": training}))


@dataclass(frozen=True)
class Job:
    """One row to compute."""

    case: Case
    recipe: Recipe

    @cached_property
    def key(self) -> str:
        """Names the row: readable, and other for every other recipe or content of the store."""
        case, optimizer = self.case, self.recipe.optimizer
        facts = {
            "recipe": self.recipe.model_dump(mode="json", exclude=INDIFFERENT),
            "backbone": case.arguments,
            "store": case.store.hash,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
        budget = short(case.budget) + ("" if case.budget_kind == "params" else "flop")
        rates = f"lr{_rate(optimizer.dense_lr)}"
        if optimizer.sparse_lr != 1e-3:
            rates += f"-sparse{_rate(optimizer.sparse_lr)}"
        words = (case.store.name, slug(case.variant), budget, rates, f"s{self.recipe.training.seed}", digest)
        return "-".join(words)

    def columns(self) -> dict[str, Any]:
        """What is known of the row before it is computed."""
        case, recipe = self.case, self.recipe
        return {
            "key": self.key,
            "store": case.store.name,
            "store_hash": case.store.hash,
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
            "sparse_lr": recipe.optimizer.sparse_lr,
            "tasks": json.dumps(list(recipe.tasks)),
            "train_rows": case.train_rows,
            "batch_size": recipe.training.batch_size,
            "stages": case.stages,
        }


def open_stores(study: Study) -> Study:
    """The study with name and hash of every store; two stores of one name are told apart by it."""
    stores: list[StoreRef] = []
    for given in study.data:
        folder = find_store(given.path).resolve()
        store = Store(folder)
        if given.hash and store.hash != given.hash:
            raise UnimixerError(f"{folder} has content {store.hash}, the study began with {given.hash}")
        name = slug(str(store.manifest.get("name") or folder.name))
        if any(other.name == name for other in stores):
            name = f"{name}-{store.hash[:4]}"
        stores.append(StoreRef(path=str(folder), name=given.name or name, hash=store.hash))
    return study.model_copy(update={"data": tuple(stores)})


def build_cases(study: Study) -> tuple[list[Case], dict[str, str]]:
    """All cases of an opened study, and where it is lenient the reasons why some cannot be built."""
    cases: list[Case] = []
    left_out: dict[str, str] = {}
    for ref in study.data:
        store = Store(ref.path)
        sized: dict[tuple[str, str, int], float] = {}
        # a model that gets the dial of another one comes after it
        for variant in sorted(study.models, key=lambda v: v.size_of is not None):
            for kind, budget in study.budgets:
                try:
                    size = None
                    if variant.size_of is not None:
                        size = sized.get((variant.size_of, kind, budget))
                        if size is None:
                            raise UnimixerError(f"{variant.size_of!r}, whose dial it gets, cannot be built")
                    case = build_case(study, variant, store, ref, kind, budget, size=size)
                except UnimixerError as error:
                    place = f"{variant.label} at {short(budget)} {kind}"
                    if not study.lenient:
                        raise UnimixerError(f"{place}: {error}") from None
                    left_out[place] = str(error)
                    continue
                assert case.recipe.model.width is not None
                sized[variant.label, kind, budget] = case.recipe.model.width
                cases.append(case)
    order = {variant.label: number for number, variant in enumerate(study.models)}
    stores = [ref.hash for ref in study.data]
    cases.sort(key=lambda case: (stores.index(case.store.hash), order[case.variant]))
    return cases, left_out


def build_case(
    study: Study, variant: Variant, store: Store, ref: StoreRef, kind: str, budget: int, *, size: float | None = None
) -> Case:
    """One model, sized to a budget or to a dial that is given."""
    spec = store.transform.spec
    recipe = parse(Recipe, _values(study, variant, ref), where="recipe of the study (--set)")
    if size is None and kind == "flops":
        size = width_for_flops(with_tasks(spec, tuple(recipe.tasks) or spec.labels), flops=budget, **_arguments(recipe))
    elif size is None:
        size = width_for_budget(
            with_tasks(spec, tuple(recipe.tasks) or spec.labels), dense_params=budget, **_arguments(recipe)
        )
    recipe = resolve(recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": size})}), spec)
    for split in SPLITS:
        check_tasks(store, split, tuple(recipe.tasks))
    validate_recipe(recipe, spec)
    spec = with_tasks(spec, tuple(recipe.tasks))
    with torch.device("meta"):
        ranker = build_ranker(recipe.model, spec)
    return Case(
        store=ref,
        variant=variant.label,
        group=variant.group,
        backbone=variant.backbone,
        options={**variant.options, **variant.recipe},
        budget_kind=kind,
        budget=budget,
        recipe=recipe,
        arguments={**_defaults(variant.backbone), **ranker.backbone_arguments},
        dense_params=count_dense(ranker),
        table_params=sum(parameter.numel() for parameter in table_parameters(ranker)),
        flops_per_sample=ranker_flops(spec, **_arguments(recipe), width=size),
        train_rows=store.summary("train").rows,
        held_out_rows=store.summary("validation").rows + store.summary("test").rows,
    )


def _arguments(recipe: Recipe) -> dict[str, Any]:
    return recipe.model.model_dump(exclude={"dense_params", "width"})


def _defaults(backbone: str) -> dict[str, Any]:
    options = backbone_class(backbone).options()
    return {name: option.default for name, option in options.items() if option.default is not option.empty}


def _values(study: Study, variant: Variant, ref: StoreRef) -> dict[str, Any]:
    """A recipe as nested values."""
    values: dict[str, Any] = {
        "name": slug(variant.label),
        "store": ref.path,
        "tasks": dict(study.tasks),
        "model": {"backbone": variant.backbone, "options": dict(variant.options)},
    }
    for key, value in {**study.recipe, **variant.recipe}.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, Mapping):
                raise UnimixerError(f"--set {key}: {parent!r} has no keys below it")
        place[last] = value
    return values


def slug(text: str) -> str:
    """A name that files and shells take as it is.

    Example:
        >>> slug("unimixer-lite, 4 blocks")
        'unimixer-lite-4-blocks'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[:80].strip("-.") or "model"


def short(count: int) -> str:
    """A budget as people write it.

    Example:
        >>> short(4_000_000), short(1_500), short(999)
        ('4M', '1.5K', '999')
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.6g}{name}"
    return str(count)


def _rate(rate: float) -> str:
    """``1e-3`` rather than ``0.001``."""
    return f"{rate:e}".replace(".000000", "").replace("e-0", "e-") if rate < 0.01 else f"{rate:g}"


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Jobs without repetitions."""
    return list({job.key: job for job in jobs}.values())
