"""``unimixer ablate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from unimixer.cli.compare import StudyOptions, carry_out, report_only
from unimixer.cli.experiment import split
from unimixer.cli.output import takes


@dataclass(frozen=True)
class AblateOptions(StudyOptions):
    """Options of ``unimixer ablate``."""

    model: Annotated[str, typer.Option("--model", help="BACKBONE[:OPTION=VALUE]... to take apart.")] = "unimixer"
    groups: Annotated[
        str | None, typer.Option("--groups", help="Groups, comma-separated (default: all that the model has).")
    ] = None
    start: Annotated[
        str, typer.Option("--from", help="paper: SiameseNorm, warm-up, random start; default: this program's.")
    ] = "paper"
    grow: Annotated[
        bool, typer.Option("--grow", help="Basis, rank and depth at the base's width: their cost grows.")
    ] = False
    without: Annotated[
        str | None,
        typer.Option("--without", help="Features, histories or domains to train without, one at a time: item_id,user."),
    ] = None
    lr_grid: Annotated[
        str | None, typer.Option("--lr-grid", help="Dense learning rates; with several each variant gets its own.")
    ] = "1e-3"
    """One rate for all by default, as in the paper: a search multiplies dozens of variants."""


@takes(AblateOptions)
def ablate(options: AblateOptions) -> None:
    """Train a model and its ablations at equal budgets, and report the effect of each change.

    Groups: paper (its ablations by name, start, tau_end, block size), basis, rank, depth, residual, expansion, tokens,
    tokenizer, pooling, recipe (optimizers, averages of weights, dropout, logits), and where it is named tasks (MMoE,
    PLE, learned weights of losses). The base is the paper's stack or the default of this program (--from). --without
    trains without parts of the input. An ablation is a study: unimixer compare FOLDER continues it.

    Examples: unimixer ablate --data DATASET --model unimixer --params 1M --out FOLDER · unimixer ablate --data DATASET
    --model unimixer-lite --from default --groups basis,rank,depth --params 1M --out FOLDER --dry-run
    """
    from unimixer.errors import UnimixerError
    from unimixer.experiments import Study
    from unimixer.experiments.ablations import ablations
    from unimixer.settings import parse

    if options.report_only:
        report_only(options.out, None, as_json=options.as_json)
        return
    if not options.data or options.out is None:
        raise UnimixerError(
            "an ablation needs --data DATASET and --out FOLDER; to go on with one: unimixer compare FOLDER"
        )
    groups, without = ([] if text is None else split(text) for text in (options.groups, options.without))
    recipe = options.recipe()
    variants, left_out = ablations(
        options.model, groups=groups, start=options.start, grow=options.grow, without=without, recipe=recipe
    )
    values = {
        "models": [variant.model_dump() for variant in variants],
        "recipe": recipe,
        "lenient": True,
        **options.values(),
    }
    notes = {f"group {group}": reason for group, reason in left_out.items()}
    carry_out(parse(Study, values, where="study"), options.out, options, notes)
