"""Let workers do tasks one after the other, where the reply to one may lead to the next, until there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from unimixer.experiments.worker import failure
from unimixer.training.signals import stop_signals
from unimixer.workers.executor import Executor, Reply

STOP_SECONDS = 120.0
"""Longest wait for checkpoints after a request to stop."""
TICK = 0.2


class Engine(Protocol):
    """Tasks for workers, each of which may depend on the replies before it."""

    def next(self) -> Any | None:
        """Return a task to start; None while there is none."""

    def message(self, task: Any) -> dict[str, Any]:
        """Return the message of a task to its worker."""

    def take(self, reply: Reply[Any]) -> None:
        """Record the end of a task."""

    def tick(self, running: Sequence[Any]) -> None:
        """Show the progress of the running tasks."""

    def stopped(self) -> str:
        """Return the sentence of a request to stop."""


def drive(engine: Engine, executor: Executor[Any]) -> None:
    """Let workers do the tasks of an engine until it has none.

    Raises:
        StoppedError: by Ctrl-C or SIGTERM; runs have checkpoints.
    """
    with stop_signals() as stopped, executor as pool:
        while True:
            while pool.free and not stopped.is_set() and (task := engine.next()) is not None:
                pool.submit(task, engine.message(task))
            if not pool.running and not stopped.is_set():
                return
            reply = pool.wait(TICK)
            if reply is not None:
                engine.take(reply)
            if stopped.is_set():
                _drain(pool, engine)
                raise stopped.error(engine.stopped())
            engine.tick(pool.running)


def _drain(pool: Executor[Any], engine: Engine) -> None:
    """Let running tasks write their checkpoints; record a task that finishes meanwhile."""
    pool.stop()
    waited = 0.0
    while pool.running and waited < STOP_SECONDS:
        reply = pool.wait(TICK)
        if reply is None:
            waited += TICK
        elif failure(reply) is None:
            engine.take(reply)
