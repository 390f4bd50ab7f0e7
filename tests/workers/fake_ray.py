"""The part of Ray that executors call, inside one process: an actor is an object whose methods run in threads."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent import futures
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

LOST = "The actor died.\nIts node was lost."


class RayError(Exception):
    """What Ray raises for a lost actor."""


class _Actor:
    def __init__(self, kind: type, *arguments: Any, max_concurrency: int) -> None:
        self._object = kind(*arguments)
        self._threads = futures.ThreadPoolExecutor(max_concurrency)
        self._calls: list[futures.Future[Any]] = []
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=partial(self._call, getattr(self._object, name)))

    def _call(self, method: Any, *arguments: Any) -> futures.Future[Any]:
        answer: futures.Future[Any] = futures.Future()
        self._calls.append(answer)
        if self._lost:
            answer.set_exception(RayError(LOST))
            return answer

        def run() -> None:
            try:
                result = method(*arguments)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self._threads.submit(run)
        return answer

    def lose(self) -> None:
        self._lost = True
        self._object.end()
        for answer in self._calls:
            if not answer.done():
                answer.set_exception(RayError(LOST))
        self._threads.shutdown(wait=False)


class FakeRay(ModuleType):
    """Stands in for the module ``ray``."""

    def __init__(self, cores: int) -> None:
        super().__init__("ray")
        self.cores, self.actors, self.options = cores, list[_Actor](), dict[str, Any]()
        self.exceptions = SimpleNamespace(RayError=RayError)

    def init(self, **options: Any) -> None:
        self.options = options

    def is_initialized(self) -> bool:
        return False

    def shutdown(self) -> None:
        assert not self.actors, "an actor was left"

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def remote(self, *, num_cpus: int, num_gpus: float, max_concurrency: int) -> Any:
        def actor(kind: type) -> Any:
            def start(*arguments: Any) -> _Actor:
                self.actors.append(_Actor(kind, *arguments, max_concurrency=max_concurrency))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return actor

    def wait(self, answers: Iterable[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        done, waiting = futures.wait(answers, timeout, futures.FIRST_COMPLETED)
        return list(done)[:num_returns], [*list(done)[num_returns:], *waiting]

    def get(self, answer: futures.Future[Any], timeout: float | None = None) -> Any:
        return answer.result(timeout)

    def kill(self, actor: _Actor) -> None:
        if actor in self.actors:
            self.actors.remove(actor)
            actor.lose()
