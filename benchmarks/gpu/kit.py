"""What the parts of the GPU kit share: times, CUDA graphs, and rows with the machine that they were measured on."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

MACHINE = ("device", "torch", "cuda", "triton", "commit", "date")
"""Last columns of every row."""


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 5, least: float = 0.1) -> list[float]:
    """Seconds a call, of several groups of calls that last a while, after a warm-up."""

    def group(count: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        begin = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3
        return time.perf_counter() - begin

    group(2)
    count = max(1, min(1000, round(least / max(group(1), 1e-6))))
    return [group(count) / count for _ in range(repeats)]


def milliseconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median milliseconds of a call."""
    return median(seconds(call, device, repeats)) * 1e3


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """Replay a call as a CUDA graph; it has run three times before, on the stream that captures it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        call()
    return graph.replay


def machine(device: torch.device) -> dict[str, str]:
    """Hardware, versions, commit, day."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    versions = torch.__version__, torch.version.cuda or "none", triton
    return dict(zip(MACHINE, (name, *versions, commit(), datetime.now(UTC).strftime("%Y-%m-%d")), strict=True))


def commit() -> str:
    """The commit that is measured; the variable names it where the tree was copied without its repository."""
    if "UNIMIXER_BENCH_COMMIT" in os.environ:
        return os.environ["UNIMIXER_BENCH_COMMIT"]
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    command = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Rows:
    """Append rows to a CSV file and print them.

    Args:
        path: the file; its first line names the columns.
        columns: those of the part, the machine's follow.
        device: of the measurements.
    """

    def __init__(self, path: Path, columns: Sequence[str], device: torch.device) -> None:
        self.path, self.columns, self.machine = path, (*columns, *MACHINE), machine(device)

    def begin(self) -> None:
        """Write the first line, in place of whatever the file held."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(self.columns)
        print(",".join(self.columns[: -len(MACHINE)]), flush=True)

    def add(self, **values: object) -> None:
        """Add one row; floats get four digits."""
        row = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row | self.machine)
        print(*(row.get(name, "") for name in self.columns[: -len(MACHINE)]), sep=",", flush=True)


def reason(error: BaseException) -> str:
    """One line about an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
