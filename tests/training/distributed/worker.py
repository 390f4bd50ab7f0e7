"""What every process of a launch does: some jobs one after the other, and what came of each as JSON.

The first argument is a file with jobs, the second a folder for ``rank-N.json``. Starting processes and importing
TorchRec costs more than a training run on the small world, so one launch does many jobs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sharded_jobs import do_gradients

from unimixer.errors import UnimixerError
from unimixer.metrics import MetricAccumulator
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.evaluation import as_json, merged_metrics
from unimixer.training.process_group import join_processes
from unimixer.training.step import TrainStep
from unimixer.training.train import resume, train


def work(jobs: Path, folder: Path) -> None:
    """Do the jobs of a file; write what came of them into a folder."""
    results = []
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        try:
            results.append({"done": KINDS[job.pop("kind")](**job)})
        except UnimixerError as error:
            results.append({"error": str(error)})
    path = folder / f"rank-{own_rank()}.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    if "error" in results[-1] and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        sys.exit(2)  # as the command line does, so that torchrun starts all again


def own_rank() -> int:
    return int(os.environ["RANK"])


def do_train(
    values: dict[str, Any], folder: str, start: str | None = None, continued: str | None = None, **acts: Any
) -> str:
    """Train; ``acts`` may send a signal to one rank at a step, or change the recipe of one rank."""
    values = acts.get("values_of_rank", {}).get(str(own_rank()), values)
    with _acting(**acts):
        recipe = parse(Recipe, values, where="job")
        source, before = (None if one is None else Path(one) for one in (start, continued))
        return str(train(recipe, folder=Path(folder), start_from=source, continued=before, quiet=True).folder)


def do_resume(folder: str) -> str:
    return str(resume(folder, quiet=True).folder)


def do_metrics(rows: str) -> dict[str, Any]:
    """Metrics of given predictions, of which every rank has its part."""
    found = np.load(rows)
    with join_processes(60) as processes:
        part = slice(processes.rank, None, processes.size)
        own = MetricAccumulator(("click", "like"))
        own.update(found["logits"][part], found["labels"][part], found["users"][part])
        return as_json(merged_metrics(own, processes))


class _acting:  # noqa: N801
    """Within it, a rank sends itself a signal at the end of a step."""

    def __init__(self, number: int | None = None, rank: int = 0, step: int = 0, **_rest: Any) -> None:
        self.number, self.step, self.mine = number, step, rank == own_rank()
        self.plain = TrainStep.__call__

    def __enter__(self) -> None:
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if self.number is None or not self.mine or again:
            return

        def call(step: TrainStep, group: Any, number: int) -> Any:
            outcome = self.plain(step, group, number)
            if number + 1 == self.step:
                os.kill(os.getpid(), signal.Signals(self.number))
            return outcome

        TrainStep.__call__ = call  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        TrainStep.__call__ = self.plain  # type: ignore[method-assign]


KINDS = {"train": do_train, "resume": do_resume, "metrics": do_metrics, "gradients": do_gradients}

if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
