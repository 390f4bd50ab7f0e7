"""Compare two commits on one machine, by turns, each in processes of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import unimixer
from benchmarks.suite.compare import Comparison, compare_rounds
from benchmarks.suite.registry import select
from benchmarks.suite.results import Row
from benchmarks.suite.run import run_benchmarks
from unimixer.errors import UnimixerError, check_positive
from unimixer.progress import progress_bar

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
WITHIN = 3
"""Rounds inside a process; the processes are repeated."""
_START = "from benchmarks.suite.commits import work; work()"


class Tree(NamedTuple):
    """Point to the sources of one side."""

    source: Path
    """The folder that goes to PYTHONPATH."""
    label: str


def compare_commits(
    base: str,
    new: str | None,
    names: Sequence[str],
    *,
    rounds: int = ROUNDS,
    root: Path | None = None,
    **options: Any,
) -> list[Comparison]:
    """Run benchmarks at two commits by turns: base, new; new, base; ...

    The benchmarks are those of this checkout on both sides, so that only the code that they measure differs. Copies of
    the sources are taken with ``git archive``: the repository is read and never changed, and an interrupted comparison
    leaves nothing in it.

    Args:
        base: a commit, branch or tag.
        new: likewise; None is the working tree.
        names: of benchmarks.
        rounds: processes a side.
        root: of the checkout (default: the one that the benchmarks are in).
        options: ``cases``, ``threads`` and ``device`` of :func:`~benchmarks.suite.run.run_benchmarks`.

    Raises:
        UnimixerError: outside a checkout; an unknown commit; a process that fails.
    """
    check_positive(rounds=rounds)
    select(names)
    root = root or ROOT
    if not (root / ".git").exists():
        raise UnimixerError(
            f"comparing commits needs a git checkout of unimixer, and {root} is none; clone it with git "
            "(two result files can be compared anywhere)"
        )
    options["names"] = list(names)
    measured: list[tuple[list[Row], list[Row]]] = []
    with TemporaryDirectory(prefix="unimixer-compare-") as folder:
        sides = [_copy(root, base, Path(folder) / "base"), _new_side(root, new, Path(folder) / "new")]
        with progress_bar("comparing", 2 * rounds, unit="processes") as advance:
            for number in range(rounds):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                rows: dict[int, list[Row]] = {}
                for side in order:
                    advance(0, sides[side].label)
                    rows[side] = _measure(sides[side], options)
                    advance(1)
                measured.append((rows[0], rows[1]))
    return compare_rounds(measured)


def _new_side(root: Path, new: str | None, folder: Path) -> Tree:
    return Tree(root / "src", "working tree") if new is None else _copy(root, new, folder)


def _copy(root: Path, commit: str, folder: Path) -> Tree:
    """Extract the sources of a commit."""
    parsed = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if parsed.returncode:
        raise UnimixerError(f"{commit!r} is no commit, branch or tag of {root}, and no benchmark's name")
    sha = parsed.stdout.decode().strip()
    archive = _git(root, "archive", "--format=tar", sha, "src")
    if archive.returncode:
        raise UnimixerError(f"commit {commit!r} of {root} has no folder src")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return Tree(folder / "src", sha[:12])


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except OSError as error:
        raise UnimixerError(f"comparing commits needs git: {error}") from error


def _measure(tree: Tree, options: dict[str, Any]) -> list[Row]:
    """Measure the rows of one process."""
    path = os.pathsep.join((str(tree.source), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "UNIMIXER_BENCH_COMMIT": tree.label}
    done = subprocess.run(
        [sys.executable, "-c", _START, json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UnimixerError(f"{tree.label}: the benchmark ended with an error: {lines[-1]}")
    values = json.loads(done.stdout.splitlines()[-1])
    if not Path(values["package"]).is_relative_to(tree.source.resolve()):
        raise UnimixerError(f"{tree.label}: unimixer was imported from {values['package']}, not from {tree.source}")
    return [Row(**row) for row in values["rows"]]


def work() -> None:
    """Run the benchmarks of a process and print their rows as JSON."""
    options = json.loads(sys.argv[1])
    benchmarks = select(options.pop("names"))
    rows = run_benchmarks(benchmarks, repeats=WITHIN, **options)
    print(json.dumps({"package": str(Path(unimixer.__file__).resolve()), "rows": [asdict(row) for row in rows]}))
