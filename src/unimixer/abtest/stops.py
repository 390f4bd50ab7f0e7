"""Know experiments that were stopped: a file beside the specification says so to every later start."""

from __future__ import annotations

import json
from pathlib import Path

from unimixer.abtest.specification import Experiment
from unimixer.errors import UnimixerError

STOPPED = ".stopped"
"""End of the name of the file beside a specification that says that its experiment was stopped."""


def stop_file(path: Path) -> Path:
    """Return the file that says that the experiment of a specification was stopped."""
    return path.with_name(path.name + STOPPED)


def is_stopped(experiment: Experiment, path: Path) -> bool:
    """Return whether a file says that the experiment was stopped; one that cannot be read stops it.

    Raises:
        UnimixerError: the file names another experiment.
    """
    file = stop_file(path)
    if not file.exists():
        return False
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["experiment"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if name != experiment.name:
        raise UnimixerError(
            f"{file}: it says that experiment {name!r} was stopped, but {path} now specifies {experiment.name!r}; "
            f"remove that file to start {experiment.name!r}"
        )
    return True
