"""Run a command of a calendar and kill it, with the calendar: ``python killing.py COMMAND...`` in its folder.

The first call of a command and a day is killed in the middle of its work, as soon as a file of the day is half written.
The second is killed after its work, before the calendar knows of it. Later calls run to their end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def half_written() -> bool:
    """Whether a command of this folder is in the middle of its work."""
    day = Path("shipped").read_text().strip()
    training = [path for path in Path("runs").glob("*/metrics.jsonl") if path.parent.name > day]
    return bool(training) or next(Path().glob("**/.*.tmp"), None) is not None


def killed(command: list[str]) -> int:
    """Run a command of the calendar: the first call is killed in its middle, the second at its end."""
    name = "-".join(word for word in command if word.isalpha())[:40] + Path("shipped").read_text().strip()
    marks = [Path("kills") / f"{name}-{when}" for when in ("middle", "end")]
    mark = next((mark for mark in marks if not mark.exists()), None)
    process = subprocess.Popen(command)
    if mark is None:
        return process.wait()
    mark.touch()
    if mark is marks[1]:
        process.wait()
    while process.poll() is None and not half_written():
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(killed(sys.argv[1:]))
