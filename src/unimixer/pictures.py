"""Pictures of runs: learning curves and learned mixing matrices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unimixer.errors import MissingExtraError
from unimixer.files import atomic_file
from unimixer.mixing import MatrixMixing
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder


def draw_runs(runs: Mapping[str, RunFolder], path: Path, *, task: str, matrices_of: str) -> None:
    """Draw validation AUC against samples for every run, and the mixing matrices of one of them, as a PNG.

    Args:
        runs: finished runs by the name to show.
        path: file to write.
        task: label whose AUC is drawn.
        matrices_of: run whose mixing matrices are drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing", "report") from None
    matrices = mixing_matrices(runs[matrices_of])
    figure = Figure(figsize=(5.2 + 4 * len(matrices), 4.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(matrices), width_ratios=[1.3, *[1.0] * len(matrices)], squeeze=False)[0]
    _draw_curves(axes[0], runs, task)
    for axis, (name, matrix) in zip(axes[1:], matrices.items(), strict=True):
        image = axis.imshow(matrix.numpy(), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=f"{matrices_of}: global mixing, {name}", xlabel="from block", ylabel="to block")
        figure.colorbar(image, ax=axis, shrink=0.7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def mixing_matrices(run: RunFolder) -> dict[str, torch.Tensor]:
    """The learned matrices between blocks of a trained run, by the name of the layer."""
    model = load_ranker(run)
    found = [module for module in model.backbone.modules() if isinstance(module, MatrixMixing)]
    with torch.no_grad():
        return {f"layer {number}": mixing.weights()[0] for number, mixing in enumerate(found, start=1)}


def _draw_curves(axis: Any, runs: Mapping[str, RunFolder], task: str) -> None:
    reachable = None
    for name, run in runs.items():
        batch = run.recipe.training.batch_size * run.recipe.training.accumulate
        lines = [line for line in run.history() if line["kind"] == "validation" and line["task"] == task]
        axis.plot([line["step"] * batch for line in lines], [line["auc"] for line in lines], marker="o", label=name)
        best = (run.result or {}).get("best_reachable_auc")
        reachable = best["validation"][task] if best else reachable
    if reachable is not None:
        axis.axhline(reachable, color="grey", linestyle="--", label=f"best reachable, {reachable:.4f}")
    axis.set(title=f"validation AUC of {task!r}", xlabel="training samples", ylabel="AUC")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")
