"""Run the tests part by part and print the branches of the library that no test takes.

``python tests/branches/measure.py [FOLDERS...]``: a part is a folder of ``tests`` that is named, else some folders
whose tests take minutes together; ``tests`` itself stands for the files beside the folders. A part that passed is kept
in ``.branches`` until the library, its tests or the helpers of all tests change, so a stopped run goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import places

TESTS = places.ROOT / "tests"
KEPT = places.ROOT / ".branches"
TOGETHER = (("data",), ("bundles", "serving"), ("experiments", "training"), ("benchmarks", "cli", "examples"))
"""Folders of a part each; all others are one more part. A start of the tests takes seconds, so parts are few."""


def main(names: Sequence[str]) -> None:
    """Measure the parts that are not measured yet, then print what all of them take together."""
    if sys.version_info < (3, 12):
        raise SystemExit(
            "branches are measured with Python 3.12 or later (before, tracing slows torch down), not "
            f"{sys.version_info.major}.{sys.version_info.minor}: make clean && make coverage PYTHON=python3.13"
        )
    files = _files()
    asked = [_name(Path(name).resolve()) for name in names]
    if unknown := [name for name in asked if name not in files]:
        raise SystemExit(f"{unknown[0]} is no folder of tests; the folders are {', '.join(files)}")
    others = [name for name in files if not any(name in part for part in TOGETHER)]
    parts = {name: [name] for name in asked} or {"-".join(part): list(part) for part in TOGETHER} | {"others": others}
    failed = [name for name, part in parts.items() if not _measure(name, [file for one in part for file in files[one]])]
    _report([KEPT / name for name in parts])
    if failed:
        raise SystemExit(f"tests did not pass and run again the next time: {', '.join(failed)}")


def _name(folder: Path) -> str:
    return folder.name if folder.parent in (TESTS, places.ROOT) else str(folder)


def _files() -> dict[str, list[Path]]:
    """Map the folders of tests to their files; the files beside the folders belong to ``tests``."""
    files = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        files[path.relative_to(places.ROOT).parts[:2][-1] if path.parent != TESTS else TESTS.name].append(path)
    return dict(sorted(files.items()))


def _measure(name: str, files: Sequence[Path]) -> bool:
    """Run a part, unless it is measured; tell whether it passes."""
    folder, passed = KEPT / name, KEPT / f"{name}.passed"
    state = _state(files)
    if passed.is_file() and passed.read_text() == state:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    passed.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    print(f"{name}:", flush=True)
    path = os.pathsep.join([str(Path(__file__).parent), str(places.SOURCES), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, places.VARIABLE: str(folder)}
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *map(str, files)]
    if subprocess.call(pytest, cwd=places.ROOT, env=variables):
        return False
    passed.write_text(state)
    return True


def _state(files: Sequence[Path]) -> str:
    """Return a number that changes with the library, the files beside the tests of a part and the helpers of all."""
    beside = {path for file in files for path in file.parent.glob("*.py")}
    checksum = 0
    for path in sorted([*places.SOURCES.rglob("*"), *(beside | set(TESTS.glob("*.py")))]):
        if path.is_file() and "__pycache__" not in path.parts:
            checksum = zlib.crc32(path.read_bytes(), zlib.crc32(str(path.relative_to(places.ROOT)).encode(), checksum))
    return f"{checksum:08x}"


def _report(folders: Sequence[Path]) -> None:
    """Print each file's branches that no part takes, the file with most of them first, and the totals last."""
    rows: list[tuple[int, str, str]] = []
    branches = lines = missed_branches = missed_lines = 0
    for source in sorted(places.SOURCES.rglob("*.py")):
        _, positions, name = places.marked(source, KEPT / "code")
        parts = [(folder / name).read_bytes() for folder in folders if (folder / name).is_file()]
        missed = [line for line, position in positions.items() if not any(part[position] for part in parts)]
        ways = [places.branch(line) for line in missed if places.is_branch(line)]
        count = sum(map(places.is_branch, positions))
        branches, missed_branches = branches + count, missed_branches + len(ways)
        lines, missed_lines = lines + len(positions) - count, missed_lines + len(missed) - len(ways)
        if ways:
            named = ", ".join(f"{begin}->{end or 'exit'}" for begin, end in ways)
            rows.append((-len(ways), str(source.relative_to(places.ROOT)), named))
    for count, file, named in sorted(rows):
        print(f"{-count:4} {file}: {named}")
    for what, count, missed_count in (("lines", lines, missed_lines), ("branches", branches, missed_branches)):
        print(f"{what} taken: {count - missed_count} of {count}, {1 - missed_count / count:.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
