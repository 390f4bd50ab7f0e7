"""Build the Ranker of a recipe, and load the one of a run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from unimixer.blocks import chain_links, recompute_activations
from unimixer.environment import bfloat16_pays
from unimixer.errors import UnimixerError, unknown
from unimixer.features.spec import FeatureSpec
from unimixer.metrics import conditional_name
from unimixer.mixing import Constrained
from unimixer.models import width_for_budget
from unimixer.ranker import Ranker
from unimixer.training.config import ModelConfig, Recipe, TrainingConfig
from unimixer.training.eviction import check_managed
from unimixer.training.optimizers import dense_groups
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import load_weights


def build_ranker(config: ModelConfig, spec: FeatureSpec, *, table_device: str | None = None) -> Ranker:
    """Build a freshly initialized model; the caller seeds torch and replaces tables on ``meta``."""
    return Ranker(spec, **config.model_dump(exclude={"dense_params"}), table_device=table_device)


def hollow_ranker(recipe: Recipe, spec: FeatureSpec) -> Ranker:
    """Build the model of a resolved recipe on ``meta``: layout and shapes without numbers."""
    with torch.device("meta"):
        return build_ranker(recipe.model, with_tasks(spec, tuple(recipe.tasks)))


def resolve(recipe: Recipe, spec: FeatureSpec) -> Recipe:
    """Turn a budget into a size, name the tasks and choose the precision: a run folder says exactly what it trained."""
    for task in recipe.tasks:
        if task not in spec.labels:
            raise unknown("task", task, spec.labels)
    tasks = recipe.tasks or dict.fromkeys(default_tasks(spec), 1.0)
    chain_links(recipe.model.chain, tuple(tasks), spec.soft_labels)  # refuses a chain that is none
    for task, soft in recipe.soft_labels.items():
        if task not in tasks:
            raise unknown("task of soft_labels", task, tasks)
        if soft.label not in spec.soft_labels:
            raise unknown(f"soft_labels.{task}", soft.label, spec.soft_labels or ("none",))
    model = recipe.model
    if model.dense_params is not None:
        arguments = model.model_dump(exclude={"dense_params"})
        shapes, budget = with_tasks(spec, tuple(tasks)), model.dense_params
        size = width_for_budget(shapes, dense_params=budget, what="model.dense_params", **arguments)
        model = model.model_copy(update={"width": size, "dense_params": None})
    training = recipe.training
    if training.precision == "auto":
        chosen = "bfloat16" if bfloat16_pays(pick_device(training.device)) else "float32"
        training = training.model_copy(update={"precision": chosen})
    resolved = recipe.model_copy(update={"tasks": tasks, "model": model, "training": training})
    monitor(resolved)
    _check_loss_weighting(resolved)
    return resolved


def _check_loss_weighting(recipe: Recipe) -> None:
    """Raise where weights of losses would be learned without effect."""
    kind = recipe.loss_weighting.kind
    if kind != "fixed" and len(recipe.tasks) == 1:
        raise UnimixerError(
            f"loss_weighting.kind={kind} weighs the losses of several tasks, and {next(iter(recipe.tasks))!r} is the "
            "only one; leave loss_weighting out"
        )


def monitor(recipe: Recipe) -> tuple[str, str]:
    """Return the task and the metric that choose the best weights."""
    name = recipe.training.monitor or f"{next(iter(recipe.tasks))}.auc"
    task, _, metric = name.rpartition(".")
    usual = ("auc", "uauc", "gauc", "log_loss", "excess_log_loss")
    conditional = [conditional_name(*link) for link in recipe.model.chain.items()]
    if taken := next((task for task in recipe.tasks if task in conditional), None):
        raise UnimixerError(f"task {taken!r} has the name of a probability of model.chain; give the label another name")
    known = [f"{t}.{m}" for t in (*recipe.tasks, *conditional) for m in (*usual, *recipe.metrics)]
    if name not in known:
        raise unknown("training.monitor", name, known)
    return task, metric


def with_tasks(spec: FeatureSpec, tasks: tuple[str, ...]) -> FeatureSpec:
    """Return the same inputs with only some of the labels."""
    return replace(spec, labels=tasks, soft_labels=tuple(name for name in spec.soft_labels if name in tasks))


def default_tasks(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the labels that a recipe without tasks learns: those of 0 and 1, else the soft ones."""
    return tuple(name for name in spec.labels if name not in spec.soft_labels) or spec.labels


def load_ranker(run: RunFolder, *, device: torch.device | str = "cpu") -> Ranker:
    """Load the best weights of a run into a model that is ready to score."""
    recipe, weights = run.recipe, best_weights(run)
    model = build_ranker(recipe.model, with_tasks(run.transform.spec, tuple(recipe.tasks)))
    load_weights(weights, model)
    return model.to(device).eval()


def best_weights(run: RunFolder) -> Path:
    """Return the file of the best weights.

    Raises:
        UnimixerError: if the run has not been evaluated yet.
    """
    if not run.best_weights.exists():
        if run.sharded_best.exists():
            raise UnimixerError(
                f"{run.folder} was stopped before its weights were consolidated into one file; do it with: "
                f"unimixer consolidate {run.folder}"
            )
        if run.result is not None:
            raise UnimixerError(f"{run.best_weights}: missing, and the run is finished; train it again")
        raise UnimixerError(
            f"{run.folder} has no best weights yet; continue it with: unimixer train --resume {run.folder}"
        )
    return run.best_weights


def validate_recipe(recipe: Recipe, spec: FeatureSpec) -> Ranker:
    """Build the model without memory, so that a recipe that cannot train is refused before a run folder is made.

    Raises:
        UnimixerError: unknown backbone, option or device, sizes that do not fit, no compiler, no blocks to checkpoint,
            a rate for mixings in a model that has none.
    """
    device = pick_device(recipe.training.device)
    if recipe.training.compile and device.type == "cpu" and compiler() is None:
        raise UnimixerError(
            "training.compile needs a C++ compiler on this device and none was found; install g++ or leave compile out"
        )
    model = hollow_ranker(recipe, spec)
    check_managed(recipe, spec)
    for table in recipe.distributed.tables:
        if table not in spec.tables:
            raise unknown("table of distributed.tables", table, spec.tables)
    set_activation_checkpointing(model, recipe)
    dense_groups(model, recipe.optimizer)
    return model


def settings_without_effect(recipe: Recipe, model: Ranker) -> list[str]:
    """Say which settings of a recipe do nothing in its model or on its data.

    They are no mistakes: a packaged recipe trains on any data, and one recipe serves several backbones.
    """
    backbone = f"backbone {recipe.model.backbone!r}"
    learned = any(isinstance(part, Constrained) for part in model.modules())
    reasons = {
        "model.sequence_encoder": not model.embedding.encoder_of
        and "the vector E has no history or list that is compared with the candidate",
        "model.sequence_tokens": recipe.model.sequences != "tokens" and "it is for model.sequences=tokens",
        "optimizer.weight_decay": recipe.optimizer.dense not in ("adamw", "muon")
        and "it is for optimizer.dense=adamw and muon",
        "temperature.start": recipe.temperature.schedule == "constant" and "a constant schedule has temperature.end",
        "temperature.end": not learned and f"{backbone} has no learned mixing",
        "training.aux_loss_weight": not model.backbone.num_auxiliary
        and f"{backbone} has no losses on intermediate tokens",
    }
    lines = []
    for key, why in reasons.items():
        section, _, name = key.partition(".")
        settings = getattr(recipe, section)
        value = getattr(settings, name)
        if why and value != type(settings).model_fields[name].default:
            lines.append(f"note: {key}={value} has no effect: {why}")
    return lines


def numbers_without_effect(config: TrainingConfig, steps: int, rows: int) -> list[str]:
    """Say which numbers are larger than the training part, of so many rows, or the training, of so many steps."""
    length = f"{steps:,} step{'s' if steps > 1 else ''}"
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    reasons = {
        "max_steps": (config.max_steps or 0) > steps
        and f"the training part has {length} in {epochs}; raise training.epochs to train longer",
        "eval_interval": (config.eval_interval or 0) > steps
        and f"training has {length} and is measured at its end only",
        "batch_size": config.batch_size > rows and f"the training part has {rows:,} rows, which are one batch",
    }
    return [f"note: training.{k}={getattr(config, k)} has no effect: {why}" for k, why in reasons.items() if why]


def set_activation_checkpointing(model: Ranker, recipe: Recipe) -> None:
    """Let the backbone recompute its blocks in backward if the recipe says so.

    Raises:
        UnimixerError: if the backbone has no blocks, so that nothing would be saved.
    """
    recompute = recipe.training.activation_checkpointing
    if not recompute_activations(model.backbone, recompute) and recompute:
        raise UnimixerError(
            f"training.activation_checkpointing=true: backbone {recipe.model.backbone!r} has no blocks that could be "
            f"computed again in backward; leave activation_checkpointing out"
        )


def compiler() -> str | None:
    """Find the C++ compiler that torch.compile would use for a CPU."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else ["g++", "c++", "clang++"])), None)


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """Choose the device of a run; ``auto`` takes CUDA if there is any, and each of several processes takes its own."""
    if local_rank is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UnimixerError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnimixerError(f"device {name!r}: this machine or this build of torch has no CUDA; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnimixerError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0")
    return device
