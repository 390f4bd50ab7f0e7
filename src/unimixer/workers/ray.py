"""The executor of many machines: every place in a Ray cluster is a small pool of one process, driven from here."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic

from unimixer.workers.cluster import cluster, ray_package
from unimixer.workers.local import MakeExecutor, Pool, Reply, Task

TASK = "training on a Ray cluster"


def on_ray(address: str, *, gpus: float = 0.0) -> MakeExecutor:
    """Make executors on a Ray cluster.

    A worker is an actor that holds one training process, the same as without Ray, so that what holds of those holds
    here: a killed one is recorded and its row tried again, a stopped one writes a checkpoint. Ray places and watches;
    it moves no files. The folder of the sweep and the stores must have the same paths on every machine.

    Args:
        address: ``local`` begins a cluster on this machine, ``auto`` joins the one that it belongs to, anything else
            is the address of a head.
        gpus: of each worker.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    ray_package(TASK)

    def make(*, workers: int, threads: int, log: Path) -> RayPool[Any]:
        return RayPool(address, workers=workers, threads=threads, log=log, gpus=gpus)

    return make


class RayPool(Generic[Task]):
    """Workers on a cluster, with the interface of :class:`~unimixer.workers.local.Executor`.

    Args:
        address: see :func:`on_ray`.
        workers: at most; a cluster with fewer places makes the others wait.
        threads: of each, for which the cluster keeps as many cores.
        log: file for what the processes print, on a file system that all machines share.
        gpus: of each.
    """

    def __init__(self, address: str, *, workers: int, threads: int, log: Path, gpus: float = 0.0) -> None:
        self.address, self.workers, self.threads, self.log, self.gpus = address, workers, threads, log.resolve(), gpus
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Task]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> RayPool[Task]:
        cores, gpus = self.workers * self.threads, round(self.gpus * self.workers)
        self._stack.enter_context(cluster(self.address, TASK, cores=cores, gpus=gpus))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        ray = ray_package(TASK)

        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            with suppress(Exception):  # of a machine that is gone there is nothing left to end
                ray.get(worker.end.remote(), timeout=10)
            ray.kill(worker)
        self._idle, self._busy = [], {}
        self._stack.close()

    @property
    def running(self) -> list[Task]:
        """Tasks under way, or waiting for a place in the cluster."""
        return [task for _, task in self._busy.values()]

    @property
    def free(self) -> int:
        """Tasks that could start now."""
        return self.workers - len(self._busy)

    def submit(self, task: Task, message: dict[str, Any]) -> None:
        """Give a task to a worker."""
        worker = self._idle.pop() if self._idle else self._start()
        self._busy[worker.run.remote(message)] = worker, task

    def wait(self, timeout: float) -> Reply[Task] | None:
        """The next reply, or None when there is none in time."""
        ray = ray_package(TASK)

        if not self._busy:
            return None
        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=timeout)
        if not done:
            return None
        worker, task = self._busy.pop(done[0])
        try:
            values, died = ray.get(done[0])
        except ray.exceptions.RayActorError as error:
            return Reply(task, {"failed": f"its machine or worker was lost: {_first_line(error)}"}, died=True)
        except ray.exceptions.RayError as error:
            ray.kill(worker)
            return Reply(task, {"failed": f"Ray: {_first_line(error)}"}, died=True)
        self._idle.append(worker)
        return Reply(task, values, died)

    def stop(self) -> None:
        """Ask running tasks to write a checkpoint and end."""
        for worker, _ in self._busy.values():
            worker.stop.remote()

    def _start(self) -> Any:
        ray = ray_package(TASK)

        remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_concurrency=2)(_Worker)
        return remote.remote(self.threads, str(self.log))


class _Worker:
    """One training process on whatever machine Ray chose; :meth:`stop` is called while :meth:`run` waits."""

    def __init__(self, threads: int, log: str) -> None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        self._pool: Pool[str] = Pool(workers=1, threads=threads, log=Path(log))

    def run(self, message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Do one task; what came of it, and whether its process died."""
        self._pool.submit("task", message)
        while True:
            reply = self._pool.wait(1.0)
            if reply is not None:
                return reply.values, reply.died

    def stop(self) -> None:
        """Pass the request on."""
        self._pool.stop()

    def end(self) -> None:
        """End the process."""
        self._pool.kill()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
