"""``unimixer scale count``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.experiment import Common, recipe_keys
from unimixer.cli.output import Json, emit, table, takes

if TYPE_CHECKING:
    from unimixer.experiments.models import Variant
    from unimixer.profiling.breakdown import Cost
    from unimixer.profiling.memory import Memory

COLUMNS = (
    *("group", "dense parameters", "FLOPs, an example", "FLOPs, training on it"),
    *("FLOPs, a batch", "FLOPs, a training step"),
)


@dataclass(frozen=True)
class CountOptions:
    """Options of ``unimixer scale count``."""

    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="BACKBONE[:OPTION=VALUE]...", show_default=False)
    ]
    params: Annotated[str | None, typer.Option("--params", help="Dense parameters, met within 2%: 1M.")] = None
    width: Annotated[float | None, typer.Option("--width", help="The width, instead of a number of parameters.")] = None
    data: Annotated[str | None, typer.Option("--data", help="Prepared dataset, for a whole ranker.")] = None
    num_tokens: Annotated[
        int | None, typer.Option("--num-tokens", min=1, help="Tokens of a backbone alone (default: 16).")
    ] = None
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows of a batch.")] = 512
    settings: Common = None
    as_json: Json = False


@takes(CountOptions)
def count(options: CountOptions) -> None:
    """Count the cost of models by group: dense parameters, FLOPs, memory of a training step. Nothing is trained.

    FLOPs are two for every multiply-add of a product: of scoring an example, and of training on it, forward and
    backward. With a dataset the whole ranker is counted, else the backbone alone. Examples: unimixer scale count
    rankmixer unimixer --params 1M --data DATASET · unimixer scale count unimixer-lite:num_blocks=4 --params 8M
    --num-tokens 16
    """
    from unimixer.errors import UnimixerError
    from unimixer.experiments.models import Variant, parse_variant, split_models
    from unimixer.experiments.sizes import parse_sizes
    from unimixer.settings import parse

    budgets = [] if options.params is None else parse_sizes(options.params)
    if len(budgets) > 1:
        raise UnimixerError(f"--params {options.params!r}: one number here; sizes in a row are for unimixer scale run")
    if budgets and options.width is not None:
        raise UnimixerError("give --params or --width, not both: the number of parameters chooses the width")
    if options.data is None and options.settings:
        raise UnimixerError("--set changes a recipe, which a backbone alone has not; give --data DATASET as well")
    if options.data is not None and options.num_tokens is not None:
        raise UnimixerError("--num-tokens is of a backbone alone; with --data give --set model.num_tokens=N")
    budget, num_tokens = budgets[0] if budgets else None, options.num_tokens or 16
    counts: dict[str, dict[str, Any]] = {}
    for text in (name for one in options.models for name in split_models(one)):
        variant = parse(Variant, parse_variant(text), where="model")
        if options.data is None:
            cost, memory = _backbone(variant, budget, options.width, num_tokens), None
        else:
            cost, memory = _ranker(variant, budget, options, options.data)
        if variant.label in counts:
            raise UnimixerError(f"model {variant.label!r} is given twice; name every model once")
        counts[variant.label] = _values(cost, memory, options.batch_size)
    emit(
        {"batch_size": options.batch_size, "models": counts},
        options.as_json,
        lambda: _show(counts, options.batch_size),
    )


def _backbone(variant: Variant, budget: int | None, size: float | None, num_tokens: int) -> Cost:
    """Count a backbone alone."""
    import torch

    from unimixer.backbones import build_backbone, fit_budget
    from unimixer.backbones.budget import width_arguments
    from unimixer.profiling.breakdown import count_backbone

    options = dict(variant.options)
    with torch.device("meta"):
        if budget is not None:
            return count_backbone(fit_budget(variant.backbone, params=budget, num_tokens=num_tokens, **options))
        if size is not None:
            width = options.pop("token_dim", None)
            options = width_arguments(variant.backbone, size, num_tokens=num_tokens, token_dim=width, **options)
        else:
            options.setdefault("token_dim", 64)
        return count_backbone(build_backbone(variant.backbone, **{"num_tokens": num_tokens, **options}))


def _ranker(variant: Variant, budget: int | None, options: CountOptions, data: str) -> tuple[Cost, Memory]:
    """Count a whole ranker on a dataset."""
    import torch

    from unimixer.data.dataset import open_dataset
    from unimixer.data.loader import Loader
    from unimixer.profiling.breakdown import count_ranker
    from unimixer.profiling.memory import estimate_memory
    from unimixer.ranker import dense_parameters
    from unimixer.settings import Change, override, parse
    from unimixer.training.config import Recipe
    from unimixer.training.model import build_ranker, resolve, with_tasks

    changes = {**recipe_keys(options.settings), **variant.recipe}
    model = {"backbone": variant.backbone, "options": variant.options, "dense_params": budget, "width": options.width}
    values = {"name": "count", "dataset": data, "model": {k: v for k, v in model.items() if v is not None}}
    recipe = parse(
        Recipe,
        override(values, [Change(key, value, f"--set {key}={value}") for key, value in changes.items()]),
        where="recipe",
    )
    dataset = open_dataset(data)
    recipe = resolve(recipe, dataset.transform.spec)
    spec = with_tasks(dataset.transform.spec, tuple(recipe.tasks))
    reads = recipe.model.sequences != "pooled"  # such a model looks at numbers, so it needs memory
    with torch.device("cpu" if reads else "meta"):
        ranker = build_ranker(recipe.model, spec)
    assert dense_parameters(ranker)
    batch = next(iter(Loader(dataset, "train", batch_size=options.batch_size, num_workers=0).batches()))
    memory = estimate_memory(ranker, batch, recipe.optimizer, precision=recipe.training.precision)
    return count_ranker(ranker), memory


def _values(cost: Cost, memory: Memory | None, batch_size: int) -> dict[str, Any]:
    return {
        "groups": {name: asdict(group) for name, group in cost.groups.items()},
        "dense_parameters": cost.parameters,
        "table_parameters": cost.table_parameters,
        "flops_forward": cost.forward,
        "flops_training": cost.training,
        "flops_forward_batch": cost.forward_batch(batch_size),
        "flops_training_batch": cost.training_batch(batch_size),
        "memory_bytes": None if memory is None else {**asdict(memory), "total": memory.total},
    }


def _show(counts: dict[str, dict[str, Any]], batch_size: int) -> None:
    for label, values in counts.items():
        rows = []
        for name, group in values["groups"].items():
            forward, training = group["forward"], group["training"]
            cells = (
                group["parameters"],
                forward,
                training,
                forward * batch_size,
                training * batch_size + group["step"],
            )
            rows.append([name, *(f"{cell:,}" for cell in cells)])
        totals = ("dense_parameters", "flops_forward", "flops_training", "flops_forward_batch", "flops_training_batch")
        rows.append(["all", *(f"{values[name]:,}" for name in totals)])
        table(f"{label}, batches of {batch_size:,}", COLUMNS, rows)
        if values["memory_bytes"] is not None:
            parts = {name: f"{size / 2**20:,.1f} MB" for name, size in values["memory_bytes"].items()}
            print(
                f"memory of a training step: {parts.pop('total')}: parameters {parts['parameters']} "
                f"({values['table_parameters']:,} numbers in tables), gradients {parts['gradients']}, "
                f"optimizer {parts['optimizer']}, activations {parts['activations']}"
            )
