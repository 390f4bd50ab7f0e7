"""The cost of an experiment before it starts: measured samples per second, and the seconds that its rows will take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Case
from unimixer.experiments.executor import Machine, measure, recipe_values
from unimixer.experiments.plan_file import LOG, SPEEDS
from unimixer.experiments.size_series import SizeSeries
from unimixer.experiments.sizes import budget_words
from unimixer.experiments.worker import failure
from unimixer.io import read_json, write_text
from unimixer.progress import progress_bar
from unimixer.workers.executor import Reply

MEASURED = 3
"""Number of sizes of a model whose speed is measured; the speeds of the others are interpolated."""
EVALUATIONS = 4
"""Evaluations on validation in a run, unless the recipe says otherwise."""
AROUND_A_RUN = 1.5
"""Seconds to build a model, verify files and write weights, rows and scores."""

Speed = Mapping[str, float]
"""Samples per second in ``training`` and in ``evaluation``."""


@dataclass(frozen=True)
class Estimate:
    """One case, and the time that its runs are expected to take."""

    case: Case
    runs: int
    """Rows that are missing."""
    rows: int
    """Rows of the whole case."""
    samples_per_second: float | None
    """None if nothing is missing, so that nothing was measured."""
    seconds: float
    """Expected seconds of one run."""

    @property
    def total_seconds(self) -> float:
        """Expected seconds of all missing runs, one after the other."""
        return self.runs * self.seconds

    def columns(self) -> dict[str, Any]:
        """Return the estimate as columns of the printed plan."""
        case = self.case
        return {
            "data": case.dataset.name,
            "model": case.variant,
            "budget": budget_words(case.budget_kind, case.budget),
            "dense parameters": case.dense_params,
            "FLOPs/sample": case.flops_per_sample,
            "blocks": case.blocks,
            "width": round(case.width, 1),
            "rows": self.rows,
            "to compute": self.runs,
            "samples/s": self.samples_per_second and round(self.samples_per_second),
            "seconds a row": round(self.seconds, 1),
            "seconds": round(self.total_seconds, 1),
        }


def estimate_series(
    series: Sequence[SizeSeries], folder: Path, speeds_folder: Path, machine: Machine
) -> list[Estimate]:
    """Estimate the time of every case.

    Args:
        series: models at their sizes.
        folder: folder of the rows that are computed already.
        speeds_folder: folder that keeps measured speeds.
        machine: processes and threads.
    """
    missing = [one.missing(folder) for one in series]
    measured = [evenly(one.cases, MEASURED) for one in series]
    to_measure = [case for cases, counts in zip(measured, missing, strict=True) if any(counts) for case in cases]
    speeds = measure_speeds(to_measure, speeds_folder, machine)
    estimates = []
    for one, cases, counts in zip(series, measured, missing, strict=True):
        known = [(case, speeds[key]) for case in cases if (key := speed_key(case, machine)) in speeds]
        for case, runs in zip(one.cases, counts, strict=True):
            speed = _interpolate(known, case) if known else None
            pace, seconds = (None, 0.0) if speed is None else (speed["training"], expected_seconds(case, speed))
            estimates.append(Estimate(case, runs, one.rows_of(case), pace, seconds))
    return estimates


def evenly(cases: Sequence[Case], count: int) -> list[Case]:
    """Choose the first case, the last one, and those evenly between them."""
    indices = np.linspace(0, len(cases) - 1, min(count, len(cases)))
    return [cases[index] for index in sorted({round(float(index)) for index in indices})]


def _interpolate(known: Sequence[tuple[Case, Speed]], case: Case) -> Speed:
    """Interpolate the speed of a case over the FLOPs of measured ones, linearly in logarithms."""
    flops = [np.log(max(one.flops_per_sample, 1)) for one, _ in known]
    at = np.log(max(case.flops_per_sample, 1))
    kinds = ("training", "evaluation")
    return {kind: float(np.exp(np.interp(at, flops, np.log([speed[kind] for _, speed in known])))) for kind in kinds}


def expected_seconds(case: Case, speed: Speed) -> float:
    """Estimate the seconds of a run: training, evaluations, the final pass over validation and two over test."""
    training = case.recipe.training
    evaluations = EVALUATIONS if training.eval_interval is None else case.steps // training.eval_interval + 1
    held_out = (evaluations / 2 + 1.5) * case.held_out_rows  # the two parts are about as long
    one = AROUND_A_RUN + case.samples / case.stages / speed["training"] + held_out / speed["evaluation"]
    return one * case.stages


def measure_speeds(cases: Sequence[Case], folder: Path, machine: Machine) -> dict[str, Speed]:
    """Measure the samples per second of every case, side by side as the rows will run; measured speeds are kept.

    Args:
        cases: cases to measure.
        folder: folder that keeps the speeds.
        machine: processes and threads.

    Returns:
        All speeds that the folder has, by :func:`speed_key`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SPEEDS
    speeds: dict[str, Speed] = (
        read_json(path, way_out="remove the file, and speeds are measured again") if path.exists() else {}
    )
    waiting = {key: case for case in cases if (key := speed_key(case, machine)) not in speeds}
    if not waiting:
        return speeds
    with progress_bar("measuring speeds", len(waiting), unit="models") as advance:

        def keep(reply: Reply[str]) -> None:
            if (error := failure(reply)) is not None:
                raise UnimixerError(f"{waiting[reply.task].name} cannot be trained: {error}")
            speeds[reply.task] = reply.value["speed"]
            advance(1)

        recipes = {key: recipe_values(case.any_job(), machine) for key, case in waiting.items()}
        measure(recipes, machine, folder / LOG, keep)
    write_text(path, json.dumps(speeds, indent=1) + "\n")
    return speeds


def speed_key(case: Case, machine: Machine) -> str:
    """Name a measured speed; it depends on the processes beside it, but not on rates and seed."""
    return f"{case.cost_key} x{machine.workers} t{machine.threads}"
