"""The work of a process that trains rows: a row, or a speed, for each task.

A row whose process was killed is continued from its newest checkpoint.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.environment import commit, states_kept, versions
from unimixer.errors import UnimixerError, explain
from unimixer.experiments.results import (
    OK,
    Row,
    result_columns,
    scores_path,
    test_logits,
    write_array,
    write_row,
)
from unimixer.inspection import moved_shares
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.evaluation import EVALUATION_BATCH, soft_columns, task_columns
from unimixer.training.model import build_ranker, pick_device, with_tasks
from unimixer.training.observer import Observer
from unimixer.training.run import RunFolder
from unimixer.training.step import TrainStep
from unimixer.training.train import WARM_UP, resume, train
from unimixer.workers.executor import Reply, Report

MEASURED_SECONDS = 1.0
"""Shortest time over which a speed is measured."""
WARM_STEPS, LEAST_STEPS, MOST_STEPS = 2, 4, 40


def train_row(task: dict[str, Any]) -> Row:
    """Train one row, or continue its run; write its scores, then the row."""
    folder, columns = Path(task["folder"]), task["columns"]
    key, recipe = str(columns["key"]), parse(Recipe, task["recipe"], where="recipe")
    run_folder = folder / "runs" / key
    dataset, scores = Dataset(recipe.dataset), scores_path(folder, key)
    if (
        run_folder.exists()
        and not scores.exists()
        and RunFolder(run_folder).result
        and not RunFolder(run_folder).best_weights.exists()
    ):
        shutil.rmtree(run_folder)  # its weights were removed, and so were its scores: nothing to go on with
    logits: list[torch.Tensor] = []
    observer = Observer(tested=logits.append)
    run = (
        resume(run_folder, dataset=dataset.folder, quiet=True, observer=observer)
        if run_folder.exists()
        else train(recipe, folder=run_folder, quiet=True, observer=observer)
    )
    result = run.result or {}
    if run.best_weights.exists():  # nothing is heard of a run that was finished before its scores were written
        write_array(scores, torch.cat(logits).numpy() if logits else test_logits(run, dataset))
    row = {
        **columns,
        "status": OK,
        "error": None,
        "steps": result["steps"],
        "best_step": result["best_step"],
        **_effort(run, result),
        "moved": _moved(run),
        **_place(task),
        **result_columns(result),
    }
    write_row(folder, row)
    return row


def _effort(run: RunFolder, result: dict[str, Any]) -> Row:
    """Return the samples and seconds of all stages."""
    results = [result]
    if (run.folder / WARM_UP).exists():
        results.append(RunFolder(run.folder / WARM_UP).result or {})
    samples, seconds = sum(r["samples"] for r in results), sum(r["seconds"] for r in results)
    return {
        "samples": samples,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 1) if seconds else None,
    }


def _moved(run: RunFolder) -> float | None:
    """Return the share of the learned matrices that moved, a mean over layers; None without learned mixing."""
    shares = moved_shares(run.folder) if run.best_weights.exists() else {}
    return sum(shares.values()) / len(shares) if shares else None


def _place(task: dict[str, Any]) -> Row:
    """Return the machine and the versions that compute the row."""
    installed = versions()
    return {
        "threads": torch.get_num_threads(),
        "processes": task["processes"],
        "commit": commit(),
        "versions": f"torch {installed['torch']}, python {sys.version.split()[0]}, unimixer {installed['unimixer']}",
        "machine": task["machine"],
    }


@states_kept()
def measure(task: dict[str, Any]) -> dict[str, float]:
    """Measure the samples per second of a case in training and in evaluation, over about a second each."""
    recipe = parse(Recipe, task["recipe"], where="recipe")
    dataset = Dataset(recipe.dataset)
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    tasks, device = tuple(recipe.tasks), pick_device(recipe.training.device)
    torch.manual_seed(0)
    model = build_ranker(recipe.model, with_tasks(dataset.transform.spec, tasks)).to(device).train()
    step = TrainStep(
        model,
        recipe,
        task_columns(dataset, tasks),
        soft_columns=soft_columns(dataset, recipe),
        total_steps=MOST_STEPS,
        checkpoints=Path(),
    )
    loader = Loader(dataset, "train", batch_size=recipe.training.batch_size, shuffle=True)
    warm = min(WARM_STEPS, len(loader) - 1)  # a small dataset has no steps to spare
    rows, since = 0, time.perf_counter()
    for number, batch in enumerate(loader.batches()):
        step([batch], number)
        _wait(device)
        if number < warm:
            since = time.perf_counter()
            continue
        rows += len(batch)
        spent = time.perf_counter() - since
        if number + 1 >= MOST_STEPS or (number >= warm + LEAST_STEPS and spent > MEASURED_SECONDS):
            break
    trained = rows / max(time.perf_counter() - since, 1e-9)
    return {"training": trained, "evaluation": _evaluation_speed(model, dataset, device)}


def _evaluation_speed(model: torch.nn.Module, dataset: Dataset, device: torch.device) -> float:
    model.eval()
    rows, since = 0, time.perf_counter()
    with torch.no_grad():
        for number, batch in enumerate(Loader(dataset, "validation", batch_size=EVALUATION_BATCH).batches()):
            model(batch.to(device))
            _wait(device)
            rows += len(batch)
            if number >= 1 and time.perf_counter() - since > MEASURED_SECONDS / 2:
                break
    return rows / max(time.perf_counter() - since, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def handle(task: dict[str, Any], report: Report) -> dict[str, Any]:
    """Do one task in a worker of an executor; there are no reports."""
    return answer(lambda: {"row": train_row(task)} if task["do"] == "train" else {"speed": measure(task)})


def answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do some work; an error becomes one line, which :func:`failure` reads."""
    try:
        return work()
    except UnimixerError as error:
        return {"failed": " ".join(str(error).split())}
    except Exception as error:
        refused = explain(error)
        if refused is not None:
            return {"failed": refused}
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def failure(reply: Reply[Any]) -> str | None:
    """Return the error of a task, in one line, or None if it succeeded."""
    if reply.died is not None:
        return f"its process {reply.died}"
    error: str | None = reply.value.get("failed")
    return error


def remove_weights(run: Path) -> None:
    """Remove the files that a finished run no longer needs: weights, checkpoints, a copy of the transform."""
    for name in ("checkpoints", "best", "transform"):
        for folder in list(run.rglob(name)):
            shutil.rmtree(folder, ignore_errors=True)
    for file in list(run.rglob("events.*")):
        file.unlink(missing_ok=True)
