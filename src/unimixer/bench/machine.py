"""Where a row was measured: hardware, versions, commit, day, and the places of results."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from unimixer.environment import cores, cpu_model
from unimixer.training.run import commit, versions


@dataclass(frozen=True)
class Machine:
    """What every row of a process has in common."""

    machine: str
    cores: int
    device: str
    torch: str
    python: str
    unimixer: str
    commit: str
    date: str


def describe_machine(device: torch.device) -> Machine:
    """This machine, this installation, today."""
    found = versions()
    return Machine(
        machine=cpu_model(),
        cores=cores(),
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        torch=found["torch"],
        python=platform.python_version(),
        unimixer=found["unimixer"],
        commit=os.environ.get("UNIMIXER_BENCH_COMMIT") or commit() or "unknown",
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def checkout() -> Path | None:
    """Root of the source tree that this package is imported from; None where it is installed."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / ".git").exists() and (root / "benchmarks").is_dir() else None


def results_folder() -> Path:
    """Where results are kept: ``benchmarks/results`` of a checkout, else ``bench-results`` here."""
    root = checkout()
    return Path("bench-results") if root is None else root / "benchmarks" / "results"
