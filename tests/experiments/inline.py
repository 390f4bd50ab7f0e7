"""An executor that does its tasks in the test's own process, one after the other."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from unimixer.experiments import executor
from unimixer.workers.executor import Executor, Reply


class InlineExecutor(Executor[Any]):
    """Does a task when it is waited for."""

    def wait(self, timeout: float) -> Reply[Any] | None:
        if not self._busy:
            return None
        handle, running = next(iter(self._busy.items()))
        reply = Reply(running.task, self.work(pickle.loads(handle[1]), lambda report: None))
        del self._busy[handle]
        return reply

    def stop(self) -> None:
        pass

    def _send(self, message: bytes) -> tuple[Any, Any]:
        return None, (len(self._busy), message)

    def _end(self, worker: Any) -> None:
        pass


def use_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let experiments train in this process."""
    monkeypatch.setattr(executor, "executor_on", lambda ray: InlineExecutor)
