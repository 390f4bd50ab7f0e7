"""The executor of many machines: every worker is a place in a Ray cluster with one process, driven from here."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unimixer.errors import MissingExtraError, UnimixerError
from unimixer.workers.executor import Executor, MakeExecutor, Reply, Task, Work
from unimixer.workers.local import LocalExecutor

LOCAL = "local"
REPORT_SECONDS = 0.5
"""Seconds between two messages with the reports of a worker."""
CALLS = 3
"""Calls that a worker answers at a time: run, reports, stop."""


def executor_on(
    ray: str | None, purpose: str = "training on a Ray cluster", *, gpus: float = 0.0, imports_main: bool = False
) -> MakeExecutor:
    """Choose where tasks run: on this machine, or on a Ray cluster.

    Ray places workers and watches them; it moves no files. Folders, data sets and raw files must have the same paths
    on every machine.

    Args:
        ray: None for this machine; ``local`` begins a cluster on this machine, ``auto`` joins the one that it belongs
            to, anything else is the address of a head.
        purpose: what the cluster does, for the message.
        gpus: of each worker in a cluster.
        imports_main: see :class:`~unimixer.workers.local.LocalExecutor`.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if ray is None:
        return partial(LocalExecutor, imports_main=imports_main)
    _ray_package(purpose)
    return partial(RayExecutor, cluster=Cluster(ray, purpose, gpus))


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: its address, what it is used for, and the GPUs of each worker; see :func:`executor_on`."""

    address: str
    purpose: str
    gpus: float = 0.0


class RayExecutor(Executor[Task]):
    """Places in a Ray cluster; a cluster with fewer places than ``workers`` does fewer tasks at a time.

    Args:
        work: see :class:`~unimixer.workers.executor.Executor`, as ``workers``.
        workers: places at most.
        threads: of each, for which the cluster keeps as many cores.
        log: file for what the processes print, on a file system that all machines share.
        cluster: where.
    """

    def __init__(self, work: Work, *, workers: int, threads: int, log: Path | None, cluster: Cluster) -> None:
        super().__init__(work, workers=workers, threads=threads, log=log and log.resolve())
        self.cluster = cluster
        self._stack = ExitStack()
        self._ray: Any = None
        self._reports: dict[Any, Any] = {}

    def __enter__(self) -> Self:
        cores, gpus = self.workers * self.threads, round(self.cluster.gpus * self.workers)
        self._ray = self._stack.enter_context(_join(self.cluster, cores=cores, gpus=gpus))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._stack:
            super().__exit__(kind, error, at)

    @property
    def cores(self) -> int:
        """Cores of the cluster."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    @property
    def free(self) -> int:
        """Number of tasks that can start now; one at least waits in the cluster, which may grow."""
        return min(self.workers, max(1, self.cores // self.threads)) - len(self._busy)

    def wait(self, timeout: float) -> Reply[Task] | None:
        """Return the next reply, or None if there is none within ``timeout`` seconds."""
        if not self._busy:
            return None
        for running in self._busy.values():
            if running.on_report is not None and running.worker not in self._reports.values():
                self._reports[running.worker.reports.remote()] = running.worker
        done, _ = self._ray.wait([*self._busy, *self._reports], num_returns=1, timeout=timeout)
        for handle in done:
            if handle in self._busy:
                return self._reply(handle)
            self._pass_on(handle)
        return None

    def _pass_on(self, handle: Any) -> None:
        """Pass the reports of a worker to its task."""
        place = self._reports.pop(handle)
        with suppress(self._ray.exceptions.RayError):  # the worker was lost, as the reply will say
            reports = pickle.loads(self._ray.get(handle))
            for running in self._busy.values():
                if running.worker is place:
                    running.hear(reports)

    def _reply(self, handle: Any) -> Reply[Task]:
        running = self._busy.pop(handle)
        try:
            value, died, reports = pickle.loads(self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            self._end(running.worker)
            # the last line says why, those before it where
            reason = next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
            return Reply(running.task, died=f"or its machine was lost (Ray: {reason.strip().rstrip('.')})")
        running.hear(reports)
        self._idle.append(running.worker)
        return Reply(running.task, value, died)

    def stop(self) -> None:
        """Send SIGTERM to the processes of running tasks, which then write a checkpoint and end."""
        for running in self._busy.values():
            running.worker.stop.remote()

    def _send(self, message: bytes) -> tuple[Any, Any]:
        place = self._idle.pop() if self._idle else self._start()
        return place, place.run.remote(message)

    def _start(self) -> Any:
        remote = self._ray.remote(num_cpus=self.threads, num_gpus=self.cluster.gpus, max_concurrency=CALLS)(_Place)
        return remote.remote(self.work, self.threads, self.log, str(Path.cwd()))

    def _end(self, worker: Any) -> None:
        with suppress(Exception):  # on a machine that is lost there is nothing left to end
            self._ray.get(worker.end.remote(), timeout=10)
        with suppress(Exception):
            self._ray.kill(worker)


class _Place:
    """One process on whatever machine Ray chose; the other calls come while :meth:`run` waits."""

    def __init__(self, work: Work, threads: int, log: Path | None, folder: str) -> None:
        with suppress(OSError):  # relative paths begin there, where the machine has it
            os.chdir(folder)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        self._executor: LocalExecutor[None] = LocalExecutor(work, workers=1, threads=threads, log=log)
        self._reports: list[Any] = []

    def run(self, message: bytes) -> bytes:
        """Do one task; return its value, how the process died, and the last reports."""
        self._executor.submit(None, pickle.loads(message), self._reports.append)
        while (reply := self._executor.wait(1.0)) is None:
            pass
        return pickle.dumps((reply.value, reply.died, self._taken()))

    def reports(self) -> bytes:
        """Return the reports of the last :data:`REPORT_SECONDS`."""
        time.sleep(REPORT_SECONDS)
        return pickle.dumps(self._taken())

    def _taken(self) -> list[Any]:
        taken = self._reports[:]
        del self._reports[: len(taken)]
        return taken

    def stop(self) -> None:
        """Pass the request on."""
        self._executor.stop()

    def end(self) -> None:
        """End the process."""
        self._executor.__exit__(None, None, None)


def _ray_package(purpose: str) -> Any:
    """Import Ray on demand."""
    try:
        return import_module("ray")
    except ImportError:
        raise MissingExtraError(purpose, "sweep") from None


@contextmanager
def _join(cluster: Cluster, *, cores: int, gpus: int) -> Iterator[Any]:
    """Join a cluster, or begin one with these cores and GPUs; a cluster that was joined before stays joined."""
    ray, address = _ray_package(cluster.purpose), cluster.address
    if ray.is_initialized():
        yield ray
        return
    try:
        if address == LOCAL:
            quiet = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
            ray.init(num_cpus=cores, num_gpus=gpus or None, **quiet)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    # besides ConnectionError, RuntimeError, ValueError and RayError, ray.init raises a plain Exception where its
    # processes do not start in time; its message is the reason in each case
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if address == LOCAL:
            raise UnimixerError(
                f"--ray local: no cluster began on this machine ({reason}); try again on a machine that is less busy, "
                "or leave --ray out"
            ) from None
        raise UnimixerError(
            f"--ray {address}: no cluster answers ({reason}); start one with: ray start --head, or use --ray local; "
            "to join one that asks for a token, set RAY_AUTH_MODE=token"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
