"""Processes of tests that start at once: copies of a server that has imported the program and computed nothing.

They have numbers, signals, streams and exit codes of their own, as a start of Python has, which takes seconds.
"""

from __future__ import annotations

import atexit
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import IO, Any

import torch

_context = multiprocessing.get_context("forkserver")


class OwnProcess:
    """A function of a module in a process of its own, with the methods of :class:`subprocess.Popen` that tests need.

    Args:
        work: the function.
        arguments: for it.
        env: all variables (default: those of this process).
        stderr: descriptor for its errors (default: a pipe to :attr:`stderr`).
    """

    def __init__(
        self, work: Callable[..., Any], *arguments: Any, env: Mapping[str, str] | None = None, stderr: int | None = None
    ) -> None:
        ends: list[IO[str]] = []
        streams: list[Connection] = []
        for descriptor in (None, stderr):
            reader, writer = os.pipe() if descriptor is None else (os.open(os.devnull, os.O_RDONLY), os.dup(descriptor))
            if descriptor is None:
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)  # so much may wait until the process has ended
            ends.append(os.fdopen(reader, encoding="utf-8", errors="replace"))
            streams.append(Connection(writer, readable=False))
        self.stdout, self.stderr = ends
        self._process = _context.Process(target=do, args=(work, arguments, dict(env or os.environ), *streams))
        # the first start makes the server, which signals to stop must not end; a copy lets them in again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.pid = self._process.pid
        for stream in streams:
            stream.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return both streams."""
        self.wait(timeout)
        found = self.stdout.read(), self.stderr.read()
        self.close()
        return found

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self.stdout.close()
        self.stderr.close()

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait(30)
        self.close()


def environment(**more: str) -> dict[str, str]:
    """Variables of a process on one thread, without those of a launch around this one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def launch(processes: int, work: Callable[..., Any], *arguments: Any, seconds: float = 280, restart: int = 0) -> str:
    """Do what torchrun does, without its imports: start all ranks, and kill the others when one fails.

    Returns:
        what the failed rank has to say; nothing if none fails.
    """
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    group["TORCHELASTIC_RESTART_COUNT"] = str(restart)
    end = time.monotonic() + seconds
    with ExitStack() as started:
        ranks = []
        for rank in range(processes):
            variables = environment(**group, RANK=str(rank), LOCAL_RANK=str(rank))
            ranks.append(started.enter_context(OwnProcess(work, *arguments, env=variables)))
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < end, f"no end after {seconds} s"
            time.sleep(0.02)
        failed = next((rank for rank in ranks if rank.poll()), None)
        return "" if failed is None else f"exit code {failed.returncode}: " + "".join(failed.communicate())


def unimixer(*words: object, **more: Any) -> OwnProcess:
    """``python -m unimixer`` with these words."""
    return OwnProcess(run_program, [str(word) for word in words], **more)


def run_program(words: list[str]) -> None:
    """``python -m unimixer`` in this process."""
    from unimixer.cli import main

    sys.argv = ["unimixer", *words]
    main(words)


def script(code: str, *words: object, **more: Any) -> OwnProcess:
    """``python -c`` with these words."""
    return OwnProcess(_script, code, [str(word) for word in words], **more)


def _script(code: str, words: list[str]) -> None:
    sys.argv = ["-c", *words]
    exec(code, {"__name__": "__main__"})


def do(work: Callable[..., Any], arguments: tuple[Any, ...], variables: dict[str, str], *streams: Connection) -> None:
    """Do the work in this process, with these variables and streams."""
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    # those of the server have its files
    encoding = variables.get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", 1)))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the server starts with blocked signals
    try:
        work(*arguments)
    finally:
        atexit._run_exitfuncs()
        try:
            sys.stderr.flush()
        except OSError:  # the exit code stays that of the program
            sys.stderr = None
