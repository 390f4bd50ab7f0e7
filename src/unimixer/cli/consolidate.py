"""``unimixer consolidate``."""

from __future__ import annotations

from unimixer.cli.output import Json, Run, emit
from unimixer.training.consolidate import consolidate_run
from unimixer.training.run import RunFolder


def consolidate(
    run: Run,
    as_json: Json = False,
) -> None:
    """Consolidate the weights of an interrupted run on several processes, for evaluate and predict.

    A run that finishes does this by itself.

    Example: unimixer consolidate runs/big
    """
    folder = RunFolder(run)
    source = consolidate_run(folder)
    values = {"run": str(run), "source": str(source), "weights": str(folder.best_weights)}
    emit(values, as_json, lambda: print(f"{folder.best_weights} holds the weights of {source}"))
