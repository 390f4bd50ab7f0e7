"""Measure the learned mixings of a trained model at several temperatures, and their change from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unimixer.inspection.matrices import (
    STILL,
    LearnedMixing,
    Sharpness,
    distance,
    evenly_spaced,
    moved_share,
    relative_change,
    sharpness,
)
from unimixer.progress import progress_bar

SHOWN_LOCALS = 3
"""Local matrices of a layer that are kept for pictures, evenly spaced over the blocks."""


@dataclass(frozen=True)
class AtTemperature:
    """The matrices of one mixing, solved at one temperature."""

    temperature: float | None
    """None for matrices that have no temperature."""
    trained: bool
    """Whether this is the temperature that the weights were saved with."""
    between: Sharpness
    inside: Sharpness | None
    global_matrix: Tensor
    """``(N, N)``"""
    local_matrices: Tensor | None
    """``(k, b, b)``, of the blocks ``MixingReport.shown_blocks``."""

    @property
    def words(self) -> str:
        """Name the temperature, for headings."""
        if self.temperature is None:
            return "no temperature"
        return f"temperature {self.temperature:g}{' (trained)' if self.trained else ''}"

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the matrices."""
        inside = None if self.inside is None else asdict(self.inside)
        numbers = {"temperature": self.temperature, "trained": self.trained}
        return {**numbers, "between": asdict(self.between), "inside": inside}


@dataclass(frozen=True)
class MixingReport:
    """A learned mixing at several temperatures, largest first."""

    place: str
    num_blocks: int
    block_size: int
    temperature: float | None
    moved: float | None
    """Share of the weights between blocks that moved, see :func:`~unimixer.inspection.matrices.moved_share`."""
    change: float | None
    """Distance of the global matrix from its start, both at the trained temperature, divided by sqrt(N)."""
    raw_change: float | None
    """Distance of the learned numbers behind the global matrix from their start, divided by the norm of the start."""
    local_change: float | None
    shown_blocks: list[int]
    at: list[AtTemperature]

    @property
    def trained(self) -> AtTemperature:
        """Return the matrices as the model uses them."""
        return next(at for at in self.at if at.trained)

    @property
    def still(self) -> bool:
        """Whether the global matrix equals its start."""
        return self.moved is not None and self.moved < STILL

    def sentence(self, layer: int) -> str:
        """Say how far the matrix went and on how many blocks an output block draws.

        Args:
            layer: number of the layer, from 1.
        """
        between = self.trained.between
        moved = (
            f"{self.moved:.{0 if self.moved >= 0.1 else 2}%} of the weights between blocks moved"
            if self.moved is not None
            else "the start is unknown, so how far the matrix moved is unknown too"
        )
        if between.row_entropy is None:
            return f"layer {layer}: {moved}; the matrix has weights below zero or rows that do not sum to one"
        blocks = between.size**between.row_entropy
        return f"layer {layer}: {moved}; an output block draws on about {blocks:.1f} of {between.size} blocks"

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the matrices."""
        names = ("place", "num_blocks", "block_size", "temperature", "moved", "change", "raw_change", "local_change")
        numbers = {name: getattr(self, name) for name in (*names, "shown_blocks")}
        return {**numbers, "at": [at.as_json() for at in self.at]}


@torch.no_grad()
def measure_mixings(
    learned: Sequence[LearnedMixing], starts: Sequence[LearnedMixing], temperatures: Sequence[float]
) -> list[MixingReport]:
    """Solve and measure every learned mixing at every temperature.

    Args:
        learned: mixings of the trained model.
        starts: the same mixings before training, or none.
        temperatures: temperatures beside the trained one.
    """
    before = {start.place: start for start in starts}
    with progress_bar("solving", len(learned) * (len(temperatures) + 1), unit="matrices") as advance:
        reports = []
        for layer in learned:
            trained_tau = None if layer.temperature is None else float(f"{layer.temperature:.6g}")
            taus: list[float | None] = [None]
            if trained_tau is not None:
                taus = [*sorted({*temperatures, trained_tau}, reverse=True)]
            at = []
            for tau in taus:
                at.append(_at(layer, tau, trained=tau == trained_tau))
                advance(1)
            reports.append(_mixing_report(layer, before.get(layer.place), trained_tau, at))
    return reports


def _at(layer: LearnedMixing, tau: float | None, *, trained: bool) -> AtTemperature:
    between, inside = layer.between(tau), layer.inside(tau)
    return AtTemperature(
        temperature=tau,
        trained=trained,
        between=sharpness(between),
        inside=None if inside is None else sharpness(inside),
        global_matrix=between,
        local_matrices=None if inside is None else inside[evenly_spaced(len(inside), SHOWN_LOCALS)],
    )


def _mixing_report(
    layer: LearnedMixing, start: LearnedMixing | None, trained_tau: float | None, at: list[AtTemperature]
) -> MixingReport:
    inside, before = layer.inside(trained_tau), None if start is None else start.inside(trained_tau)
    now, first = layer.between(trained_tau), None if start is None else start.between(trained_tau)
    return MixingReport(
        place=layer.place,
        num_blocks=len(now),
        block_size=layer.block_size,
        temperature=trained_tau,
        moved=None if first is None else moved_share(first, now),
        change=None if first is None else distance(now, first),
        raw_change=None if start is None else relative_change(layer.raw(), start.raw()),
        local_change=None if inside is None or before is None else distance(inside, before),
        shown_blocks=[] if inside is None else evenly_spaced(len(inside), SHOWN_LOCALS),
        at=at,
    )


def warning(mixings: Sequence[MixingReport]) -> str | None:
    """Warn of matrices that did not move, in one sentence; None if all of them moved."""
    still = [str(number) for number, mixing in enumerate(mixings, start=1) if mixing.still]
    if not still:
        return None
    which = f"layer {still[0]}" if len(still) == 1 else f"layers {', '.join(still[:-1])} and {still[-1]}"
    return (
        f"warning: the mixing matrix of {which} equals its start to {STILL:g}, so its FLOPs buy nothing over a fixed "
        "rule; to let it learn, set model.options.init=random, temperature.end=0.6 and optimizer.mixing_lr=0.1, "
        "or use backbone rankmixer"
    )
