"""``unimixer demo``."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from unimixer.api import prepare, train
from unimixer.cli.output import Json, emit, markdown, table
from unimixer.data.dataset import Dataset
from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.io import write_text
from unimixer.models import width_for_budget
from unimixer.report.inspection_figures import draw_runs
from unimixer.settings import parse
from unimixer.training.config import ModelConfig

MODELS = ("unimixer-lite", "rankmixer", "mlp")
SHAPES = [{"num_tokens": tokens, "embedding_dim": width} for width in (16, 8, 4) for tokens in (16, 8, 4)]
"""Shapes to try for all models until they meet the budget; the first is the default."""
ROUND = [digit * 10**zeros for zeros in range(3, 9) for digit in (1, 2, 5)]
"""Budgets to propose."""
MADE = {"dataset", "runs", "demo.png", "demo.md"}
"""Files of a demo; a folder with any other file in it is not replaced."""
COLUMNS = ("model", "dense parameters", "click AUC", "click UAUC", "share of the reachable", "samples/s")


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("demo"),
    rows: Annotated[int, typer.Option("--rows", min=1, help="Impressions of the world.")] = 200_000,
    params: Annotated[str, typer.Option("--params", help="Dense parameters of every model.")] = "300K",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the world and of the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    as_json: Json = False,
) -> None:
    """Make a synthetic world, train UniMixing-Lite, RankMixer and an MLP on it, and draw the results.

    Example: unimixer demo --out demo
    """
    budget = parse(ModelConfig, {"dense_params": params}, where="--params").dense_params
    assert budget is not None
    if out.exists():
        if not overwrite:
            raise UnimixerError(f"{out} exists; choose another --out, or pass --overwrite to replace it")
        strangers = {path.name for path in out.iterdir()} - MADE if out.is_dir() else {out.name}
        if strangers:
            raise UnimixerError(f"{out} holds {min(strangers)!r}, which no demo made; choose another --out")
        shutil.rmtree(out)
    print(f"1/3  a synthetic world of {rows:,} impressions", file=sys.stderr)
    dataset = prepare("synthetic", out / "dataset", rows=rows, seed=seed)
    try:
        shape = _shape(dataset, budget)
    except UnimixerError:
        shutil.rmtree(out)
        raise
    print("2/3  training, one pass over the log each", file=sys.stderr)
    runs = {}
    for model in MODELS:
        print(f"     {model}", file=sys.stderr)
        recipe = {
            "name": f"demo-{model}",
            "dataset": str(out / "dataset"),
            "model": {"backbone": model, "dense_params": budget, **shape},
            # a short log: small batches and quick tables
            "optimizer": {"embedding_lr": 0.005},
            "training": {"seed": seed, "batch_size": 256},
        }
        runs[model] = train(recipe, folder=out / "runs" / model)
    print("3/3  drawing", file=sys.stderr)
    picture: Path | None = out / "demo.png"
    caption = None
    try:
        caption = draw_runs(runs, out / "demo.png", task="click", matrices_of="unimixer-lite")
    except MissingExtraError as error:
        picture = None
        print(f"     no picture: {error}", file=sys.stderr)
    results = {model: run.result or {} for model, run in runs.items()}
    table_rows = [_row(model, result) for model, result in results.items()]
    write_text(out / "demo.md", markdown(COLUMNS, table_rows) + "\n")
    reachable = next(iter(results.values()))["best_reachable_auc"]["test"]["click"]
    title = f"{dataset.manifest['name']} world, test part: no model can rank better than AUC {reachable:.4f}"

    def show() -> None:
        table(title, COLUMNS, table_rows)
        if caption is not None:
            print(f"the picture shows {caption}")
        print(f"picture: {picture or 'none'}   table: {out / 'demo.md'}   runs: {out / 'runs'}")

    emit({"out": str(out), "best_reachable_auc": reachable, "models": results, "picture": caption}, as_json, show)


def _shape(dataset: Dataset, budget: int) -> dict[str, int]:
    """Choose the first shape with which all models meet the budget; say so unless it is the default."""
    shape = _fitting(dataset, budget)
    if shape is None:
        larger = next((round_one for round_one in ROUND if round_one > budget and _fitting(dataset, round_one)), None)
        way_out = "" if larger is None else f"; the next round budget that they do is --params {larger}"
        raise UnimixerError(f"--params {budget}: the models of the demo cannot all meet it within 2%{way_out}")
    if shape != SHAPES[0]:
        taken = ", ".join(f"{name}={value}" for name, value in shape.items())
        print(f"     {taken}, with which every model meets {budget:,} parameters", file=sys.stderr)
    return shape


def _fitting(dataset: Dataset, budget: int) -> dict[str, int] | None:
    """Return the first shape with which all models meet a budget."""
    for shape in SHAPES:
        with suppress(UnimixerError):
            for model in reversed(MODELS):  # the quickest answer first
                arguments: dict[str, Any] = {"backbone": model, **shape}
                width_for_budget(dataset.transform.spec, dense_params=budget, advise=False, **arguments)
            return shape
    return None


def _row(model: str, result: dict[str, object]) -> list[str]:
    test, reachable = result["test"], result["best_reachable_auc"]
    assert isinstance(test, dict)
    assert isinstance(reachable, dict)
    click = test["click"]
    share = (click["auc"] - 0.5) / (reachable["test"]["click"] - 0.5)
    speed, parameters = result["samples_per_second"], result["dense_parameters"]
    return [model, f"{parameters:,}", f"{click['auc']:.4f}", f"{click['uauc']:.4f}", f"{share:.1%}", f"{speed:,.0f}"]
