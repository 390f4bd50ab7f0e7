"""Measure the latency of a request on this machine: a model over its candidates, as trained and with frozen mixings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import torch

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.environment import cpu_model, states_kept
from unimixer.errors import UnimixerError, check_positive
from unimixer.features.batch import Batch
from unimixer.io import read_json, write_text
from unimixer.mixing import freeze
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, pick_device, with_tasks

LATENCY = "latency.json"
SECONDS = 0.6
"""Least time of measuring one form of one model."""
FEWEST, MOST = 7, 200
"""Least and largest number of measured requests."""


class SizedModel(Protocol):
    """A model of a study at one size."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of a run."""
        ...

    @property
    def cost_key(self) -> str:
        """The name of everything that decides the cost of the model."""
        ...


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a request, medians over many: ``eager`` as trained, ``frozen`` with constant mixing matrices."""

    eager: float
    frozen: float
    candidates: int
    threads: int

    @property
    def best(self) -> float:
        """The quicker of both."""
        return min(self.eager, self.frozen)


@states_kept()
def measure_latency(case: SizedModel, *, candidates: int, threads: int = 1) -> Latency:
    """Measure the time of one request: embedding lookup and dense part, from encoded features to logits.

    The model has fresh weights, whose values do not matter to the time, and tables of full size, whose size does.

    Args:
        case: the model, sized.
        candidates: rows of a request.
        threads: of torch.
    """
    check_positive(candidates=candidates, threads=threads)
    dataset, tasks = Dataset(case.recipe.dataset), tuple(case.recipe.tasks)
    device = pick_device(case.recipe.training.device)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_ranker(case.recipe.model, with_tasks(dataset.transform.spec, tasks)).to(device).eval()
    batch = request(dataset, candidates).to(device)
    forms = {"eager": model, "frozen": freeze(model)}
    with torch.no_grad():
        times = _interleaved({name: _scoring(form, batch, device) for name, form in forms.items()})
    return Latency(times["eager"], times["frozen"], candidates, threads)


def check_candidates(dataset: Dataset, candidates: int) -> None:
    """Raise if a request of so many rows cannot be made of the test part."""
    rows = dataset.summary("test").rows
    if candidates > rows:
        raise UnimixerError(
            f"candidates={candidates:,}: the test part of {dataset.folder} has {rows:,} rows; take {rows:,} or fewer"
        )


def request(dataset: Dataset, candidates: int) -> Batch:
    """Take the first rows of the test part."""
    check_candidates(dataset, candidates)
    return next(iter(Loader(dataset, "test", batch_size=candidates, num_workers=0).batches()))


def _scoring(model: torch.nn.Module, batch: Batch, device: torch.device) -> Callable[[], object]:
    def score() -> object:
        logits = model(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return logits

    return score


def _interleaved(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Measure the median milliseconds of each, by turns, so that a slow moment of the machine meets all."""
    for run in runs.values():
        run()
        run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    while len(samples[next(iter(runs))]) < MOST:
        for name, run in runs.items():
            since = time.perf_counter()
            run()
            samples[name].append(1e3 * (time.perf_counter() - since))
        if len(samples[next(iter(runs))]) >= FEWEST and time.perf_counter() - begin > SECONDS * len(runs):
            break
    return {name: round(median(times), 4) for name, times in samples.items()}


def latencies(cases: Sequence[SizedModel], folder: Path, *, candidates: int, threads: int = 1) -> list[Latency]:
    """Measure every case once a machine; the folder keeps the results."""
    path = folder / LATENCY
    known = read_json(path, way_out="remove the file, and it is measured again") if path.exists() else {}
    results = []
    for case in cases:
        name = f"{case.cost_key} c{candidates} t{threads} {cpu_model()}"
        if name not in known:
            known[name] = asdict(measure_latency(case, candidates=candidates, threads=threads))
            write_text(path, json.dumps(known, indent=1) + "\n")
        results.append(Latency(**known[name]))
    return results
