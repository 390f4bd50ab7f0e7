"""What a study costs before it starts: runs, samples a second measured in short, seconds expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.experiments.cases import Case
from unimixer.experiments.worker import failure, handle
from unimixer.io import read_json, write_text
from unimixer.progress import progress_bar
from unimixer.training.signals import stop_signals
from unimixer.workers.executor import MakeExecutor
from unimixer.workers.local import LocalExecutor

SPEEDS = "speeds.json"
EVALUATIONS = 4
"""Evaluations on validation in a run, unless the recipe says otherwise."""
AROUND_A_RUN = 1.5
"""Seconds to build a model, verify files and write weights, rows and scores."""


@dataclass(frozen=True)
class Estimate:
    """One case, and what its runs are expected to take."""

    case: Case
    runs: int
    """Rows that are missing."""
    rows: int
    """Rows of the whole case."""
    samples_per_second: float | None
    """None where nothing is missing, and so nothing was measured."""
    seconds: float
    """Of one run."""

    @property
    def total_seconds(self) -> float:
        """Of all missing runs, one after the other."""
        return self.runs * self.seconds


def expected_seconds(case: Case, speed: Mapping[str, float]) -> float:
    """Seconds of a run: its training, its evaluations, the final pass over validation and twice over test."""
    training = case.recipe.training
    evaluations = EVALUATIONS if training.evaluate_every is None else case.steps // training.evaluate_every + 1
    held_out = (evaluations / 2 + 1.5) * case.held_out_rows  # the two parts are about as long
    one = AROUND_A_RUN + case.samples / case.stages / speed["training"] + held_out / speed["evaluation"]
    return one * case.stages


def measure_speeds(
    cases: Sequence[Case],
    folder: Path | None,
    *,
    workers: int,
    threads: int,
    log: Path,
    executor: MakeExecutor = LocalExecutor,
) -> dict[str, dict[str, float]]:
    """Samples a second of every case, by :func:`speed_key`, measured as the rows will run: side by side.

    Args:
        cases: what to measure.
        folder: where earlier measurements are, and new ones are kept.
        workers: processes side by side.
        threads: of each.
        log: file for what the processes print.
        executor: makes what runs them.
    """
    path = None if folder is None else folder / SPEEDS
    known: dict[str, dict[str, float]] = {}
    if path is not None and path.exists():
        known = read_json(path, way_out="remove the file, and speeds are measured again")
    waiting = {speed_key(case, workers, threads): case for case in cases}
    waiting = {key: case for key, case in waiting.items() if key not in known}
    with (
        executor(handle, workers=workers, threads=threads, log=log) as pool,
        stop_signals() as stopped,
        progress_bar("measuring speeds", len(waiting), unit="models") as advance,
    ):
        queued = list(waiting)
        while queued or pool.running:
            if stopped.is_set():
                raise stopped.error("stopped before any row was started; the same call begins again")
            while queued and pool.free:
                key = queued.pop(0)
                recipe = waiting[key].recipe.model_dump(mode="json")
                recipe["training"]["threads"] = threads
                pool.submit(key, {"do": "measure", "recipe": recipe})
            reply = pool.wait(0.2)
            if reply is not None and (error := failure(reply)) is not None:
                raise UnimixerError(f"{waiting[reply.task].name} cannot be trained: {error}")
            if reply is not None:
                known[reply.task] = reply.value["speed"]
                advance(1)
    if path is not None and waiting:
        write_text(path, json.dumps(known, indent=1) + "\n")
    return known


def speed_key(case: Case, workers: int, threads: int) -> str:
    """Names a measured speed: the rates and the seed do not matter, the company does."""
    recipe = case.recipe
    return f"{case.job(0, recipe.optimizer.dense_lr, recipe.optimizer.sparse_lr).key} x{workers} t{threads}"


def estimates(
    cases: Sequence[Case],
    speeds: Mapping[str, Mapping[str, float]],
    *,
    missing: Mapping[int, int],
    rows_a_case: int,
    workers: int,
    threads: int,
) -> list[Estimate]:
    """One estimate a case; ``missing`` has the rows to compute by the case's place."""
    found = []
    for number, case in enumerate(cases):
        speed = speeds.get(speed_key(case, workers, threads))
        pace, seconds = (None, 0.0) if speed is None else (speed["training"], expected_seconds(case, speed))
        found.append(Estimate(case, missing[number], rows_a_case, pace, seconds))
    return found


def table_rows(found: Sequence[Estimate]) -> list[dict[str, Any]]:
    """The plan as plain values, a line a case."""
    return [
        {
            "data": e.case.store.name,
            "model": e.case.variant,
            "budget": f"{e.case.budget:,} {'parameters' if e.case.budget_kind == 'params' else 'FLOPs'}",
            "dense parameters": e.case.dense_params,
            "FLOPs/sample": e.case.flops_per_sample,
            "rows": e.rows,
            "to compute": e.runs,
            "samples/s": e.samples_per_second and round(e.samples_per_second),
            "seconds a row": round(e.seconds, 1),
            "seconds": round(e.total_seconds, 1),
        }
        for e in found
    ]
