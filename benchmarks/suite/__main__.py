"""``python -m benchmarks.suite``: list the benchmarks, run some, compare two versions, print results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.suite.commits import ROUNDS, compare_commits
from benchmarks.suite.compare import Comparison, compare_rows
from benchmarks.suite.registry import NAMES, benchmark, is_benchmark, select
from benchmarks.suite.results import FOLDER, Row, read_rows
from benchmarks.suite.run import REPEATS, run_benchmarks
from unimixer.cli import main as run_program
from unimixer.cli import script
from unimixer.cli.output import Json, emit, markdown, table, takes
from unimixer.errors import UnimixerError

PROGRAM = "python -m benchmarks.suite"
Cases = Annotated[str, typer.Option("--cases", help="small, all, or a pattern of names of cases.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of torch (default: torch's choice).")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")]

app = typer.Typer(
    help="Measure the cost of the parts on this machine; an implementation must agree with its reference to be timed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command of the suite."""
    run_program(arguments, program=app, name=PROGRAM)


@app.command("list")
def list_benchmarks(as_json: Json = False) -> None:
    """List the benchmarks with their implementations and cases.

    Example: python -m benchmarks.suite list
    """
    entries = [benchmark(name) for name in NAMES]
    values = [
        {
            "name": entry.name,
            "measures": entry.measures,
            "implementations": list(entry.implementations),
            "cases": {case.name: "small" if case.small else "all" for case in entry.cases},
        }
        for entry in entries
    ]
    rows = [
        [
            entry.name,
            entry.measures,
            ", ".join(entry.implementations),
            sum(c.small for c in entry.cases),
            len(entry.cases),
        ]
        for entry in entries
    ]
    columns = ["benchmark", "measures", "implementations", "small cases", "all cases"]
    emit({"benchmarks": values}, as_json, lambda: table(None, columns, rows, left=3))


@dataclass(frozen=True)
class RunOptions:
    """Choose the benchmarks to run and the way to run them."""

    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Benchmarks, patterns of names, or all.")]
    cases: Cases = "small"
    repeats: Annotated[int, typer.Option("--repeats", help="Rounds of a case.")] = REPEATS
    threads: Threads = None
    device: Device = "cpu"
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.", show_default=False)] = FOLDER
    as_json: Json = False


@app.command("run")
@takes(RunOptions)
def run(options: RunOptions) -> None:
    """Run benchmarks and keep their rows; a rerun replaces its own.

    Examples: python -m benchmarks.suite run mixing sinkhorn · python -m benchmarks.suite run 'backbone-*' --cases all
    --threads 2
    """
    rows = run_benchmarks(
        select(options.names),
        cases=options.cases,
        repeats=options.repeats,
        threads=options.threads,
        device=options.device,
        out=options.out,
    )

    def show() -> None:
        for name in dict.fromkeys(row.benchmark for row in rows):
            _show(name, [row for row in rows if row.benchmark == name])
            print(_place([row for row in rows if row.benchmark == name]))
        print(f"rows are in {options.out}")

    emit({"folder": str(options.out), "rows": [asdict(row) for row in rows]}, options.as_json, show)


MEASURED: dict[str, Callable[[Row], str]] = {
    "median": lambda row: seconds(row.seconds),
    "IQR": lambda row: seconds(row.spread),
    "speed-up": lambda row: _number(row.speedup, ".2f"),
    "GFLOP/s": lambda row: _number(row.gflops, ".1f"),
    "rows/s": lambda row: _number(row.rows_per_second, ",.0f"),
    "of sgemm": lambda row: _number(row.sgemm_share, ".0%"),
    "of products": lambda row: _number(row.products_share, ".0%"),
    "of bandwidth": lambda row: _number(row.bandwidth_share, ".0%"),
    "peak MB": lambda row: _number(row.peak_mb, ",.0f"),
}
"""Columns of a table; a column that is empty in all rows is left out."""


def _show(name: str, rows: list[Row]) -> None:
    titles, body = grid([row for row in rows if row.seconds is not None])
    table(name, titles, body, left=2)
    for row in rows:
        if row.seconds is None:
            print(f"no time for {row.implementation} at {row.case}: {row.status}")


def grid(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Make the titles and cells of a table of rows with times."""
    columns = {title: [cell(row) for row in rows] for title, cell in MEASURED.items()}
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    body = [
        [row.case, row.implementation, *(cells[number] for cells in shown.values())] for number, row in enumerate(rows)
    ]
    return ["case", "implementation", *shown], body


@app.command("table")
def print_tables(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files (CSV).")],
    as_json: Json = False,
) -> None:
    """Print result files as Markdown, a table for every benchmark and machine.

    Example: python -m benchmarks.suite table benchmarks/results/mixing.csv
    """
    rows = [row for file in files for row in read_rows(file)]
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        where = (row.benchmark, row.machine, row.cores, row.threads, row.device, row.torch)
        groups.setdefault(where, []).append(row)

    def show() -> None:
        for group in groups.values():
            print(_place(group), end="\n\n")
            timed = [row for row in group if row.seconds is not None]
            print(markdown(*grid(timed), left=2), end="\n\n")

    emit({"rows": [asdict(row) for row in rows]}, as_json, show)


def _place(rows: list[Row]) -> str:
    """Say where rows were measured, and how high their ceilings were."""
    first = rows[0]
    commits = ", ".join(dict.fromkeys(row.commit[:12] + row.commit[40:] for row in rows))  # 40 digits, then "+changes"
    words = [f"{first.benchmark}: {first.machine}, {first.threads} of {first.cores} cores", f"torch {first.torch}"]
    words += [] if first.device == "cpu" else [first.device]
    words.append(f"commit {commits}")
    for label, unit, rates in (
        ("large product", "GFLOP/s", [row.sgemm_gflops for row in rows if row.sgemm_gflops]),
        ("copy", "GB/s", [row.bandwidth_gbytes for row in rows if row.bandwidth_gbytes]),
    ):
        if rates:
            words.append(f"{label} {median(rates):.0f} {unit}")
    return "; ".join(words) + "."


@app.command("compare")
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="BASE [NEW] NAME...",
            help="Two commits (NEW: the files as they are) and benchmarks; or two result files.",
            show_default=False,
        ),
    ],
    cases: Cases = "small",
    rounds: Annotated[int, typer.Option("--repeats", help="Processes a side.")] = ROUNDS,
    threads: Threads = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Compare two commits, measured by turns, or two result files.

    Examples: python -m benchmarks.suite compare main mixing · python -m benchmarks.suite compare COMMIT COMMIT mixing ·
    python -m benchmarks.suite compare before.csv after.csv
    """
    new = words[1] if len(words) > 1 and not is_benchmark(words[1]) else None
    names = words[1:] if new is None else words[2:]
    if words[0].endswith(".csv"):
        if new is None or not new.endswith(".csv"):
            raise UnimixerError(f"compare {words[0]} with what? give a second result file")
        rows = compare_rows(read_rows(Path(words[0])), read_rows(Path(new)))
        compared = [row for row in rows if not names or row.benchmark in names]
    else:
        if not names:
            odd = "" if new is None else f"; {new!r} is taken for a commit, since no benchmark has that name"
            raise UnimixerError(f"name the benchmarks: {PROGRAM} compare BASE [NEW] NAME...{odd}")
        compared = compare_commits(words[0], new, names, cases=cases, rounds=rounds, threads=threads, device=device)

    def show() -> None:
        columns = ["benchmark", "case", "implementation", "base", "new", "new / base", "95% interval", "verdict"]
        table("time of the new one over that of the base", columns, [_compared(row) for row in compared], left=3)

    emit({"rows": [asdict(row) for row in compared]}, as_json, show)


def _compared(row: Comparison) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    times = [seconds(row.base_seconds), seconds(row.new_seconds)]
    return [row.benchmark, row.case, row.implementation, *times, _number(row.ratio, ".3f"), interval, row.verdict]


def seconds(value: float | None) -> str:
    """Format a time in the unit that suits it.

    Example:
        >>> seconds(0.0123), seconds(2.5), seconds(None)
        ('12.3 ms', '2.5 s', '')
    """
    if value is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size or unit == "µs":
            return f"{value / size:.3g} {unit}"
    raise AssertionError("the last unit takes all")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    script(main)
