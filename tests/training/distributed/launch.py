"""Starts processes that train together, and reads what each of them has to say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worker
from own_process import environment, launch
from safetensors.torch import load_file

from unimixer.settings import dump_yaml
from unimixer.training.run import RunFolder

WORKER = worker.__file__
SECONDS = 280
"""No launch may take longer; one that hangs fails."""


def torchrun(processes: int, *arguments: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a script and its arguments on some processes."""
    options = ["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SECONDS)


def run_jobs(
    processes: int, jobs: Sequence[dict[str, Any]], folder: Path, *, restarts: int = 0, agent: bool = False
) -> list[list[Any]]:
    """What came of every job, by rank.

    Without ``agent``, processes are copies of one that has imported everything; those of torchrun import it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "jobs.json"
    path.write_text(json.dumps(list(jobs)), encoding="utf-8")
    if agent:
        done = torchrun(processes, WORKER, str(path), str(folder), restarts=restarts)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        for restart in range(restarts + 1):
            errors = launch(processes, worker.work, path, folder, seconds=SECONDS, restart=restart)
            if not errors:
                break
        assert not errors, errors
    return [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def change(run: Path, **distributed: Any) -> None:
    """Cut the tables of an interrupted run in another way when it goes on."""
    recipe = RunFolder(run).recipe
    other = recipe.model_copy(update={"distributed": recipe.distributed.model_copy(update=distributed)})
    (run / "config.yaml").write_text(dump_yaml(other), encoding="utf-8")


def said(world: Path, name: str) -> list[list[Any]]:
    """What came of all jobs of a launch, by rank."""
    found: list[list[Any]] = json.loads((world / f"{name}.json").read_text(encoding="utf-8"))
    return found


def losses(run: Path) -> list[float]:
    """Of every step."""
    return [line["loss"] for line in RunFolder(run).history() if line["kind"] == "train"]


def largest_difference(a: Path, b: Path) -> float:
    """Of the best weights of two runs."""
    first, second = (load_file(RunFolder(run).best_weights) for run in (a, b))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first if first[name].numel())
