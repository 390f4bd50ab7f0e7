"""Starts processes that train together, and reads what each of them has to say."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import worker
from own_process import OwnProcess
from safetensors.torch import load_file

from unimixer.settings import dump_yaml
from unimixer.training.run import RunFolder

WORKER = worker.__file__
SECONDS = 280
"""No launch may take longer; one that hangs fails."""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


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
            errors = _launch(processes, path, folder, restart)
            if not errors:
                break
        assert not errors, errors
    return [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def _launch(processes: int, path: Path, folder: Path, restart: int) -> str:
    """Start all ranks; return what the first that fails has to say, after the others were killed."""
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    place["TORCHELASTIC_RESTART_COUNT"] = str(restart)
    end = time.monotonic() + SECONDS
    with ExitStack() as started:
        ranks = []
        for rank in range(processes):
            variables = environment(**place, RANK=str(rank), LOCAL_RANK=str(rank))
            ranks.append(started.enter_context(OwnProcess(worker.work, path, folder, env=variables)))
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < end, f"no end after {SECONDS} s"
            time.sleep(0.02)
        failed = next((rank for rank in ranks if rank.poll()), None)
        return "" if failed is None else f"exit code {failed.returncode}: " + "".join(failed.communicate())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def shared(factory: pytest.TempPathFactory, name: str, *builds: Callable[[Path], None]) -> Path:
    """A folder that is built once a test session, whichever worker of pytest-xdist comes first."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "built").exists():
            folder.mkdir()
            torch.set_num_threads(1)
            for build in builds:
                build(folder)
            (folder / "built").touch()
    return folder


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
