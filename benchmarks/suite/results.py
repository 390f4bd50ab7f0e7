"""Keep results as rows with a key, so that a rerun replaces its own; every row says where it was measured."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from unimixer.environment import commit, cores, cpu_model, versions
from unimixer.errors import UnimixerError
from unimixer.io import write_text

OK = "ok"
FOLDER = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Machine:
    """Hold the facts that all rows of a process share."""

    machine: str
    cores: int
    device: str
    torch: str
    python: str
    unimixer: str
    commit: str
    date: str


def describe_machine(device: torch.device) -> Machine:
    """Describe this machine and this installation today."""
    installed = versions()
    return Machine(
        machine=cpu_model(),
        cores=cores(),
        device="cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        torch=installed["torch"],
        python=platform.python_version(),
        unimixer=installed["unimixer"],
        commit=os.environ.get("UNIMIXER_BENCH_COMMIT") or commit() or "unknown",
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


@dataclass(frozen=True)
class Row:
    """Hold the numbers of one implementation at one size on one machine; a number that was not measured is empty."""

    benchmark: str
    case: str
    implementation: str
    status: str
    """``ok``, or why there is no time."""
    machine: str
    cores: int
    threads: int
    device: str
    torch: str
    python: str
    unimixer: str
    commit: str
    date: str
    repeats: int = 0
    seconds: float | None = None
    """Median."""
    spread: float | None = None
    """Distance of the quartiles, in seconds."""
    speedup: float | None = None
    """Time of the reference over that of this one, median of the rounds."""
    gflops: float | None = None
    rows_per_second: float | None = None
    sgemm_gflops: float | None = None
    """Rate of the large product, in the same rounds."""
    sgemm_share: float | None = None
    sgemm_share_spread: float | None = None
    products_share: float | None = None
    """Time of the bare products over that of this one."""
    products_share_spread: float | None = None
    bandwidth_gbytes: float | None = None
    bandwidth_share: float | None = None
    bandwidth_share_spread: float | None = None
    peak_mb: float | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Identify the row that a rerun replaces."""
        return (*self.measured_at, self.torch)

    @property
    def measured_at(self) -> tuple[object, ...]:
        """Identify the benchmark and the machine, which two rows must share to be compared."""
        return (*self.subject, self.machine, self.cores, self.threads, self.device)

    @property
    def subject(self) -> tuple[str, str, str]:
        """Name benchmark, case and implementation."""
        return self.benchmark, self.case, self.implementation


COLUMNS = tuple(column.name for column in fields(Row))
_WHOLE = ("cores", "threads", "repeats")
_TEXT = COLUMNS[: COLUMNS.index("repeats")]


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a result file.

    Raises:
        UnimixerError: if the file is missing or no result file.
    """
    if not path.is_file():
        raise UnimixerError(f"{path}: no such file; results are written by: python -m benchmarks.suite run NAME")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UnimixerError(
                f"{path} holds no results of this version: it has no column {missing[0]!r}; move it away"
            )
        return [_parse(values, f"{path}, row {number}") for number, values in enumerate(reader, start=1)]


def _parse(values: dict[str, str], where: str) -> Row:
    cells: dict[str, Any] = {}
    for name in COLUMNS:
        text = values[name]
        try:
            if name in _WHOLE:
                cells[name] = int(text)
            else:
                cells[name] = text if name in _TEXT else float(text) if text else None
        except (TypeError, ValueError):
            raise UnimixerError(f"{where}: {name}={text!r} is not a number") from None
    return Row(**cells)


def merge_rows(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Keep the last row of every key, in the order in which keys were first seen."""
    merged: dict[tuple[object, ...], Row] = {}
    for row in (*old, *new):
        merged[row.key] = row
    return list(merged.values())


def save_rows(folder: Path, benchmark: str, rows: Iterable[Row]) -> Path:
    """Merge rows into ``folder/benchmark.csv``, beside those of other machines and sizes."""
    path = folder / f"{benchmark}.csv"
    merged = merge_rows(read_rows(path) if path.exists() else (), rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in asdict(row).items()} for row in merged)
    write_text(path, text.getvalue())
    return path


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
