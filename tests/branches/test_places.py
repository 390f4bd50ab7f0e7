"""What ``make coverage`` counts: the branches that a process takes, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import places
import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python measures branches from 3.12 on")
ERRORS = places.SOURCES / "unimixer" / "errors.py"
LINE = next(n for n, line in enumerate(ERRORS.read_text().splitlines(), start=1) if line == "    if close is not None:")


def taken(folder: Path, ending: str) -> set[int]:
    """Take branches of a function in another process; return the lines that those at ``LINE`` led to."""
    code = f"import os, signal; from unimixer.errors import nearest; {ending}"
    path = os.pathsep.join([str(Path(places.__file__).parent), str(places.SOURCES)])
    folder.mkdir(exist_ok=True)
    variables = {**os.environ, "PYTHONPATH": path, places.VARIABLE: str(folder)}
    subprocess.run([sys.executable, "-c", code], check=False, env=variables)
    _, positions, name = places.marked(ERRORS, folder.parent / "code")
    hits = (folder / name).read_bytes()
    ways = [places.branch(line) for line, position in positions.items() if places.is_branch(line) and hits[position]]
    return {end for begin, end in ways if begin == LINE}


def test_a_branch_counts_once_a_process_took_it_also_one_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "part"
    assert taken(folder, "nearest('width', ['widths'])") == {LINE + 1}
    killed = "nearest('a', ['b']); os.kill(os.getpid(), signal.SIGKILL)"
    assert taken(folder, killed) == {LINE + 1, LINE + 2}


def test_a_copy_of_a_process_notes_what_it_takes(tmp_path: Path) -> None:
    copy = "os.fork() or (nearest('a', ['b']), os._exit(0)); os.wait(); nearest('width', ['widths'])"
    assert taken(tmp_path / "part", copy) == {LINE + 1, LINE + 2}
