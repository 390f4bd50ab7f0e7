"""Training in a process of its own that is killed at a place which the test chooses.

The place is a call of the code under test: the process sends itself SIGKILL in the middle of its n-th call, which is
what a kill from outside does, at a moment that does not depend on the machine's speed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimixer.settings import parse
from unimixer.training import checkpoint, loop, step
from unimixer.training.checkpoint import Checkpointer
from unimixer.training.config import Recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import resume, train

PLACES: dict[str, tuple[Any, str]] = {
    "step": (step.TrainStep, "__call__"),
    "evaluation": (loop, "evaluate_model"),
    "best weights": (Checkpointer, "save_best"),
    "checkpoint": (checkpoint, "save_tensors"),
    "checkpoint's end": (Checkpointer, "save_checkpoint"),
    "log": (RunFolder, "log"),
    "final weights": (Checkpointer, "load_best"),
    "result": (RunFolder, "write_json"),
}
"""Function or method by the name of the place."""

_context = multiprocessing.get_context("forkserver")


def train_killed(
    values: dict[str, Any],
    folder: Path,
    place: str,
    call: int,
    start_from: Path | None = None,
    continued: Path | None = None,
) -> None:
    """Train until call number ``call`` of ``place``, or go on with a run that was killed before."""
    process = _context.Process(target=_child, args=(values, folder, place, call, start_from, continued))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL, f"the process ended by itself with {process.exitcode}"


def _child(
    values: dict[str, Any], folder: Path, place: str, call: int, start_from: Path | None, continued: Path | None
) -> None:
    owner, name = PLACES[place]
    setattr(owner, name, _deadly(getattr(owner, name), call, place))
    if folder.exists():
        resume(folder, quiet=True)
    else:
        recipe = parse(Recipe, values, where="recipe")
        train(recipe, folder=folder, start_from=start_from, continued=continued, quiet=True)


def _deadly(function: Callable[..., Any], call: int, place: str) -> Callable[..., Any]:
    """The function, which kills the process at the end of a call; of ``log`` and ``result`` at its beginning."""
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call and place == "log":
            with (args[0].folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write('{"kind": "train", "st')
        if count < call or place not in ("log", "result"):
            result = function(*args, **kwargs)
        if count == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped
