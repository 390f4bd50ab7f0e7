"""``unimixer bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimixer.cli.output import Json, emit, markdown, table

if TYPE_CHECKING:
    from unimixer.bench import Comparison, Row

HELP = """List the benchmarks, run some, compare two commits or two result files, or print result files as Markdown.

Every implementation must agree with its reference before it is timed. Examples: unimixer bench · unimixer bench mixing
sinkhorn · unimixer bench 'backbone-*' --cases all --threads 2 · unimixer bench compare main mixing · unimixer bench
compare COMMIT COMMIT mixing · unimixer bench compare before.csv after.csv · unimixer bench table results.csv"""


def bench(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...] | compare BASE [NEW] [NAME...] | table FILE...",
            help="Benchmarks (also patterns, 'all'); or 'compare' and commits (NEW: the files as they are) or CSVs.",
            show_default=False,
        ),
    ] = None,
    cases: Annotated[str, typer.Option("--cases", help="small, all, or a pattern of names of cases.")] = "small",
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", help="Rounds of a case (default 7); of a comparison: processes a side (5)."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads of torch (default: torch's choice).")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the results (default: benchmarks/results of a checkout, or bench-results)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """See :data:`HELP`."""
    from unimixer.errors import check_positive

    given = {"repeats": repeats, "threads": threads}
    check_positive(**{name: value for name, value in given.items() if value is not None})
    if not words:
        _list(as_json)
    elif words[0] == "compare":
        options = {"cases": cases, "threads": threads, "device": device}
        _compare(words[1:], options | ({} if repeats is None else {"rounds": repeats}), as_json)
    elif words[0] == "table":
        _tables(words[1:], as_json)
    else:
        options = {"cases": cases, "threads": threads, "device": device}
        _run(words, out, options | ({} if repeats is None else {"repeats": repeats}), as_json)


def _list(as_json: bool) -> None:
    from unimixer.bench import NAMES, benchmark

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


def _run(names: list[str], out: Path | None, options: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from unimixer.bench import run_benchmarks, select
    from unimixer.bench.machine import results_folder

    folder = out or results_folder()
    rows = run_benchmarks(select(names), out=folder, **options)

    def show() -> None:
        for name in dict.fromkeys(row.benchmark for row in rows):
            _show(name, [row for row in rows if row.benchmark == name])
            print(_place([row for row in rows if row.benchmark == name]))
        print(f"rows are in {folder}")

    emit({"folder": str(folder), "rows": [asdict(row) for row in rows]}, as_json, show)


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
"""Columns of a table; one that is empty in all rows is left out."""


def _show(name: str, rows: list[Row]) -> None:
    titles, body = grid([row for row in rows if row.seconds is not None])
    table(name, titles, body, left=2)
    for row in rows:
        if row.seconds is None:
            print(f"no time for {row.implementation} at {row.case}: {row.status}")


def grid(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table of rows with times."""
    columns = {title: [cell(row) for row in rows] for title, cell in MEASURED.items()}
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    body = [
        [row.case, row.implementation, *(cells[number] for cells in shown.values())] for number, row in enumerate(rows)
    ]
    return ["case", "implementation", *shown], body


def _tables(files: list[str], as_json: bool) -> None:
    """Print result files as Markdown, a table for every benchmark and place it was measured at."""
    from dataclasses import asdict

    from unimixer.bench import read_rows
    from unimixer.errors import UnimixerError

    if not files:
        raise UnimixerError("which results? unimixer bench table FILE.csv...")
    found = [row for file in files for row in read_rows(Path(file))]
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in found:
        where = (row.benchmark, row.machine, row.cores, row.threads, row.device, row.torch)
        groups.setdefault(where, []).append(row)

    def show() -> None:
        for rows in groups.values():
            print(_place(rows), end="\n\n")
            timed = [row for row in rows if row.seconds is not None]
            print(markdown(*grid(timed), left=2), end="\n\n")

    emit({"rows": [asdict(row) for row in found]}, as_json, show)


def _place(rows: list[Row]) -> str:
    """Where rows were measured, and what their ceilings were."""
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


def _compare(words: list[str], options: dict[str, Any], as_json: bool) -> None:
    from dataclasses import asdict

    from unimixer.bench import compare_rows, read_rows
    from unimixer.bench.registry import is_benchmark
    from unimixer.errors import UnimixerError

    if not words:
        raise UnimixerError("compare what? unimixer bench compare BASE [NEW] NAME..., with commits or result files")
    new = words[1] if len(words) > 1 and not is_benchmark(words[1]) else None
    names = words[1:] if new is None else words[2:]
    if words[0].endswith(".csv"):
        if new is None or not new.endswith(".csv"):
            raise UnimixerError(f"compare {words[0]} with what? give a second result file")
        rows = compare_rows(read_rows(Path(words[0])), read_rows(Path(new)))
        found = [row for row in rows if not names or row.benchmark in names]
    else:
        from unimixer.bench.commits import compare_commits

        if not names:
            odd = "" if new is None else f"; {new!r} is taken for a commit, since no benchmark has that name"
            raise UnimixerError(f"name the benchmarks: unimixer bench compare BASE [NEW] NAME...{odd}")
        found = compare_commits(words[0], new, names, **options)

    def show() -> None:
        columns = ["benchmark", "case", "implementation", "base", "new", "new / base", "95% interval", "verdict"]
        table("time of the new one over that of the base", columns, [_compared(row) for row in found], left=3)

    emit({"rows": [asdict(row) for row in found]}, as_json, show)


def _compared(row: Comparison) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    times = [seconds(row.base_seconds), seconds(row.new_seconds)]
    return [row.benchmark, row.case, row.implementation, *times, _number(row.ratio, ".3f"), interval, row.verdict]


def seconds(value: float | None) -> str:
    """A time in the unit that suits it.

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
