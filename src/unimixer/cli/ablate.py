"""``unimixer ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unimixer.cli.studies import (
    BatchSize,
    Common,
    DryRun,
    Flops,
    Jobs,
    Json,
    KeepRuns,
    MaxSteps,
    Params,
    Ray,
    ReportOnly,
    Seeds,
    SparseRates,
    Threads,
    carry_out,
    common_recipe,
    given_values,
    machine,
)
from unimixer.cli.studies import report_only as only_report

HELP = """Train a model and its ablations at equal budgets: what one change costs or gains.

Groups: paper (its ablations by name, start, tau_end, block size), basis, rank, depth, tokenizer, readout. The base is
the paper's stack or the default of this program (--from). A study like any other: unimixer compare FOLDER goes on with
it. Examples: unimixer ablate --data STORE --model unimixer --params 1M --out FOLDER · unimixer ablate --data STORE
--model unimixer-lite --from default --groups basis,rank,depth --params 1M --out FOLDER --dry-run"""

RATE = "1e-3"
"""One rate for all, as in the paper: a search multiplies dozens of variants."""


def ablate(
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Prepared store; may be given several times.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="BACKBONE[:OPTION=VALUE]... to take apart.")] = "unimixer",
    groups: Annotated[
        str | None, typer.Option("--groups", help="paper,basis,rank,depth,tokenizer,readout (default: what it has).")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", help="paper: SiameseNorm, warm-up, random start; default: this program's.")
    ] = "paper",
    grow: Annotated[
        bool, typer.Option("--grow", help="Basis, rank and depth at the base's width: their cost grows.")
    ] = False,
    params: Params = None,
    flops: Flops = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; one that exists is continued.")
    ] = None,
    lr_grid: Annotated[
        str, typer.Option("--lr-grid", help="Dense learning rates; with more than one each variant gets its own.")
    ] = RATE,
    sparse_lr: SparseRates = None,
    batch_size: BatchSize = None,
    max_steps: MaxSteps = None,
    settings: Common = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    ray: Ray = None,
    dry_run: DryRun = False,
    report_only: ReportOnly = False,
    keep_runs: KeepRuns = False,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.errors import UnimixerError
    from unimixer.experiments import Study
    from unimixer.experiments.ablations import ablations
    from unimixer.settings import parse

    if report_only:
        only_report(out, None, as_json=as_json)
        return
    if not data or out is None:
        raise UnimixerError(
            "an ablation needs --data STORE and --out FOLDER; to go on with one: unimixer compare FOLDER"
        )
    names = [name.strip() for name in (groups or "").split(",") if name.strip()]
    variants, left_out = ablations(model, groups=names, start=start, grow=grow)
    values = {
        "models": [variant.model_dump() for variant in variants],
        "recipe": common_recipe(settings, batch_size, max_steps),
        "lenient": True,
        **given_values(data=data, params=params, flops=flops, seeds=seeds, rates=lr_grid, sparse_lr=sparse_lr),
    }
    notes = {f"group {group}": reason for group, reason in left_out.items()}
    carry_out(
        parse(Study, values, where="study"),
        out,
        machine(jobs, threads),
        notes=notes,
        ray=ray,
        dry_run=dry_run,
        keep_runs=keep_runs,
        as_json=as_json,
    )
