"""Draw learning curves, mixing matrices, attention and effective ranks as PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimixer import ops
from unimixer.inspection.activations import AttentionReport
from unimixer.inspection.effective_rank import RankStatistics
from unimixer.inspection.gates import GateReport
from unimixer.inspection.inspect import Inspection
from unimixer.inspection.interactions import Interactions
from unimixer.inspection.matrices import max_pooled
from unimixer.inspection.mixings import MixingReport
from unimixer.inspection.start import Movement, measure_movement
from unimixer.io import atomic_file
from unimixer.progress import progress_bar
from unimixer.report.figures import new_figure, png_bytes, wrapped
from unimixer.training.run import RunFolder

PANEL = 128
"""Entries along one side of a drawn matrix, so that each has two pixels; a larger one shows strongest entries."""
SHOWN_HEADS = 4


def draw_runs(runs: Mapping[str, RunFolder], path: Path, *, task: str, matrices_of: str) -> str:
    """Draw validation AUC against samples for every run, and the rule beside the mixing matrices of one, as a PNG.

    Args:
        runs: finished runs by the name to show.
        path: file to write.
        task: label whose AUC is drawn.
        matrices_of: run whose mixing matrices are drawn.

    Returns:
        The caption, which calls a matrix learned only if it moved from its start.
    """
    layers = measure_movement(runs[matrices_of])
    tokens = runs[matrices_of].recipe.model.num_tokens
    rule = ops.permutation_matrix(ops.token_mixing_permutation(tokens, tokens, tokens))
    shown = [(f"the rule: {tokens} heads of {tokens} tokens", rule)]
    shown += [(f"layer {number}: {_words(layer)}", layer.trained) for number, layer in enumerate(layers, start=1)]
    figure = new_figure(5.2 + 4 * len(shown), 4.7)
    axes = figure.subplots(1, 1 + len(shown), width_ratios=[1.3, *[1.0] * len(shown)], squeeze=False)[0]
    _draw_curves(axes[0], runs, task)
    for axis, (title, matrix) in zip(axes[1:], shown, strict=True):
        draw_matrix(axis, matrix, title=title, largest=1.0, bar=True)
        axis.set(xlabel="from block", ylabel="to block")
    caption = movement_caption(matrices_of, layers)
    figure.suptitle(caption, fontsize="small")
    with atomic_file(path) as temporary:
        temporary.write_bytes(png_bytes(figure))
    return caption


def movement_caption(name: str, layers: Sequence[Movement]) -> str:
    """Say which of the matrices of a model are learned: those that moved from their start."""
    if not layers:
        return f"{name} has no learned mixing matrices"
    moved = [layer for layer in layers if not layer.still]
    if not moved:
        return f"the rule, and the mixing matrices of {name}: training did not move them from their start"
    least, most = (f"{share:.0%}" for share in (min(x.moved for x in moved), max(x.moved for x in moved)))
    share = least if least == most else f"{least} to {most}"
    which = "the mixing matrices" if len(moved) == len(layers) else f"{len(moved)} of {len(layers)} mixing matrices"
    return f"the rule, and {which} that {name} learned: training moved {share} of their weights"


def _words(layer: Movement) -> str:
    return "did not move from its start" if layer.still else f"learned, {layer.moved:.0%} moved"


def draw_inspection(inspection: Inspection) -> dict[str, bytes]:
    """Draw the pictures that an inspection has data for, and return PNG files by their names."""
    figures: dict[str, Callable[[], Any]] = {}
    if inspection.mixings:
        figures["global.png"] = lambda: _global_figure(inspection.mixings)
    if any(at.local_matrices is not None for mixing in inspection.mixings for at in mixing.at):
        figures["local.png"] = lambda: _local_figure(inspection.mixings)
    if inspection.interactions is not None:
        interactions = inspection.interactions
        figures["interactions.png"] = lambda: _interaction_figure(interactions)
    if inspection.attention:
        figures["attention.png"] = lambda: _attention_figure(inspection.attention)
    if inspection.gates:
        figures["gates.png"] = lambda: _gate_figure(inspection.gates)
    figures["effective-rank.png"] = lambda: _rank_figure(inspection.ranks)
    if inspection.temperatures and any(mixing.temperature is not None for mixing in inspection.mixings):
        figures["temperature.png"] = lambda: _temperature_figure(inspection)
    pictures = {}
    with progress_bar("drawing", len(figures), unit="pictures") as advance:
        for name, draw in figures.items():
            pictures[name] = png_bytes(draw())
            advance(1)
    return pictures


def draw_matrix(axis: Any, matrix: Tensor, *, title: str, largest: float | None = None, bar: bool = False) -> None:
    """Draw one matrix on an axis, from dark 0 to bright ``largest``, or in red and blue if entries may be negative.

    Args:
        axis: axis to draw on.
        matrix: ``(M, N)``.
        title: heading of the picture.
        largest: brightest value (default: the largest entry).
        bar: draw a color bar.
    """
    shown = max_pooled(matrix.detach().float(), PANEL)
    signed = bool(shown.min() < -1e-6)
    top = (float(shown.abs().max()) if largest is None or signed else largest) or 1.0
    image = axis.imshow(
        shown.numpy(),
        cmap="RdBu_r" if signed else "magma",
        vmin=-top if signed else 0,
        vmax=top,
        interpolation="nearest",
        extent=(-0.5, matrix.shape[1] - 0.5, matrix.shape[0] - 0.5, -0.5),
    )
    axis.set_title(title, fontsize="small")
    if bar:
        axis.figure.colorbar(image, ax=axis, shrink=0.7)


def _global_figure(mixings: list[MixingReport]) -> Any:
    """Draw the figure of the paper: rows are temperatures, columns are layers."""
    columns = [
        [(f"layer {n}, {at.words}\nrow maximum {at.between.row_maximum:.2g}", at.global_matrix) for at in mixing.at]
        for n, mixing in enumerate(mixings, start=1)
    ]
    figure = _matrix_grid(columns, width=3.1, height=3.1, bar=True)
    figure.supxlabel("from block", fontsize="small")
    figure.supylabel("to block", fontsize="small")
    return figure


def _local_figure(mixings: list[MixingReport]) -> Any:
    """Draw some local matrices of every layer; rows are temperatures."""
    columns = [
        [
            (f"layer {n}, block {block}\n{at.words}", at.local_matrices[index])
            for at in mixing.at
            if at.local_matrices is not None
        ]
        for n, mixing in enumerate(mixings, start=1)
        for index, block in enumerate(mixing.shown_blocks)
    ]
    figure = _matrix_grid(columns, width=1.9, height=2.1, largest=1.0)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    return figure


def _attention_figure(layers: list[AttentionReport]) -> Any:
    """Draw mean attention weights: rows are heads, columns are layers."""
    columns = [
        [
            (f"{layer.place}\nhead {head}, mean of {layer.rows:,} rows", matrix)
            for head, matrix in enumerate(layer.mean[:SHOWN_HEADS])
        ]
        for layer in layers
    ]
    return _matrix_grid(columns, width=3.1, height=2.9, bar=True)


def _matrix_grid(columns: list[list[tuple[str, Tensor]]], *, width: float, height: float, **options: Any) -> Any:
    """Draw columns of matrices with their titles; a shorter column ends with empty places.

    Args:
        columns: titles and matrices.
        width: inches of one matrix.
        height: inches of one matrix.
        options: options of :func:`draw_matrix`.
    """
    rows = max(map(len, columns))
    figure = new_figure(0.6 + width * len(columns), height * rows)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, matrices in enumerate(columns):
        for row, (title, matrix) in enumerate(matrices):
            draw_matrix(axes[row, column], matrix, title=title, **options)
        for axis in axes[len(matrices) :, column]:
            axis.axis("off")
    return figure


def _interaction_figure(interactions: Interactions) -> Any:
    """Draw the strengths of all pairs: in the model, and beside it in the learned matrices if there are any."""
    strengths = [(f"in the model: root of the strength for {interactions.task!r}", interactions.model.sqrt())]
    if interactions.matrices is not None:
        matrices = interactions.matrices.clone().fill_diagonal_(
            float(interactions.matrices.min())
        )  # a part and itself are no pair
        strengths.append(("in the learned matrices, flat = 1", matrices))
    count = len(interactions.parts)
    side = min(12.0, 2.6 + 0.24 * count)
    figure = new_figure(side * len(strengths) + 1.0, side)
    axes = figure.subplots(1, len(strengths), squeeze=False, sharey=True)[0]
    names = [wrapped(f"{part.name[:26]}…" if len(part.name) > 27 else part.name) for part in interactions.parts]
    for axis, (title, matrix) in zip(axes, strengths, strict=True):
        draw_matrix(axis, matrix, title=title, bar=True)
        if count <= PANEL // 2:  # more names would cover each other
            axis.set_xticks(range(count), names, rotation=90, fontsize="x-small")
            axis.set_yticks(range(count), names, fontsize="x-small")
    return figure


def _rank_figure(ranks: list[RankStatistics]) -> Any:
    """Draw effective and stable rank at every place, in the order of the network."""
    figure = new_figure(max(6.0, 1.5 + 0.42 * len(ranks)), 4.6)
    axis = figure.subplots()
    places = list(range(len(ranks)))
    most = [min(rank.num_tokens, rank.token_dim) for rank in ranks]
    axis.step(places, most, where="mid", color="grey", linestyle="--", label="min(T, D)")
    for label, means, deviations in (
        ("effective rank (entropy)", [r.mean for r in ranks], [r.deviation for r in ranks]),
        ("stable rank", [r.stable_mean for r in ranks], [r.stable_deviation for r in ranks]),
    ):
        axis.errorbar(places, means, deviations, marker="o", capsize=3, label=label)
    axis.set_xticks(places, [f"{rank.place}\n{rank.kind}" for rank in ranks], rotation=90, fontsize="x-small")
    axis.set(title="rank of the tokens of a sample: mean and standard deviation", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    return figure


def _gate_figure(gates: list[GateReport]) -> Any:
    """Draw the mean weights of experts: rows are gates, columns are experts."""
    experts = list(dict.fromkeys(name for gate in gates for name in gate.weights))
    matrix = torch.tensor([[gate.weights.get(name, 0.0) for name in experts] for gate in gates])
    figure = new_figure(2.4 + 0.5 * len(experts), 1.8 + 0.4 * len(gates))
    axis = figure.subplots()
    draw_matrix(axis, matrix, title="mean weight of every expert", bar=True)
    axis.set_xticks(range(len(experts)), experts, rotation=90, fontsize="x-small")
    axis.set_yticks(range(len(gates)), [f"level {g.level}: {g.reader}" for g in gates], fontsize="x-small")
    return figure


def _temperature_figure(inspection: Inspection) -> Any:
    figure = new_figure(6.0, 3.2)
    axis = figure.subplots()
    axis.plot([step for step, _ in inspection.temperatures], [tau for _, tau in inspection.temperatures], marker=".")
    axis.set(title="temperature of the run", xlabel="step", ylabel="temperature", ylim=(0, None))
    axis.grid(alpha=0.3)
    return figure


def _draw_curves(axis: Any, runs: Mapping[str, RunFolder], task: str) -> None:
    reachable = None
    for name, run in runs.items():
        batch = run.recipe.training.batch_size * run.recipe.training.gradient_accumulation_steps
        lines = [line for line in run.history() if line["kind"] == "validation" and line["task"] == task]
        steps, values = [line["step"] * batch for line in lines], [line["auc"] for line in lines]
        axis.plot(steps, values, marker="o", label=wrapped(name))
        best = (run.result or {}).get("best_reachable_auc")
        reachable = best["validation"][task] if best else reachable
    if reachable is not None:
        axis.axhline(reachable, color="grey", linestyle="--", label=f"best reachable, {reachable:.4f}")
    axis.set(title=wrapped(f"validation AUC of {task!r}", 40), xlabel="training samples", ylabel="AUC")
    axis.grid(alpha=0.3)
    axis.legend(loc="best", fontsize="small")
