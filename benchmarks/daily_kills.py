"""The calendar of ``examples/daily``, killed with SIGKILL at every step of every day, ends as one without kills.

    python -m benchmarks.daily_kills --rows 200000 --users 100000 --items 20000 --days 10

Two folders begin alike. In the second one every command is killed twice (``killing.py``), and the calendar called
again. At the end the datasets have one hash, and weights, deltas and bundles are equal byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.daily_world import FIRST, begin

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "daily" / "daily.sh"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def calendar(place: Path, days: int) -> list[int]:
    """Call the calendar until it is done; returns the exit codes."""
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        last = FIRST + timedelta(days=days)
        command = ["bash", str(SCRIPT), str(place), str(last)]
        codes.append(subprocess.run(command, env=ENVIRONMENT, process_group=0).returncode)
    return codes


def state(place: Path) -> dict[str, str]:
    """What must be equal: the hash of the dataset, and the checksum of every file of weights, deltas and bundles."""
    facts = {"data": json.loads((place / "data" / "manifest.json").read_text())["hash"]}
    facts |= {"current": str((place / "current").readlink()), "shipped": (place / "shipped").read_text()}
    files = [path for name in ("deltas", "bundles") for path in (place / name).rglob("*") if path.is_file()]
    for path in sorted([*files, *(place / "runs").rglob("*.safetensors")]):
        facts[str(path.relative_to(place))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


def compare(folder: Path, *, rows: int, users: int, items: int, days: int, unimixer: str = "") -> int:
    """Run both calendars, with a command for the program, and compare them; returns the number of kills."""
    whole, broken = folder / "whole", folder / "killed"
    begin(whole, rows=rows, users=users, items=items, unimixer=unimixer)
    shutil.copytree(whole, broken, symlinks=True)
    (broken / "kills").mkdir()
    with (broken / "settings.sh").open("a") as file:
        wrapper = f"{sys.executable} {Path(__file__).with_name('killing.py').resolve()}"
        file.write(f'UNIMIXER="{wrapper} $UNIMIXER"\nFETCH="{wrapper} $FETCH"\nRELOAD="{wrapper} true"\n')
    assert calendar(whole, days) == [0]
    codes = calendar(broken, days)
    assert codes[-1] == 0, f"the calendar ended with {codes[-1]}; see {broken / 'logs'}"
    differences = {name for name, value in state(whole).items() if state(broken).get(name) != value}
    assert state(whole).keys() == state(broken).keys(), state(whole).keys() ^ state(broken).keys()
    assert not differences, differences
    return len(codes) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=10)
    arguments = vars(parser.parse_args())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kills = compare(Path(folder), **arguments)
    print(f"{kills} kills, the end is the same to the last bit, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
