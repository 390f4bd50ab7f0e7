"""A real PostgreSQL in a process of its own, and a wire to it that can be cut."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from ports import free_port

USER, PASSWORD = "tester", "s3cr:t/@?#word"


def binaries() -> Path | None:
    """Folder of the newest PostgreSQL; Debian keeps it off the PATH."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(installed, key=lambda path: int(path.parts[-3]))
    found = newest[-1] if newest else shutil.which("initdb")
    return Path(found).parent if found else None


class Database:
    """PostgreSQL on one port, with a password, in a folder that ends with it; it runs as another user than root."""

    def __init__(self, programs: Path, port: int) -> None:
        self.programs, self.port = programs, port
        self.folder = Path(tempfile.mkdtemp(prefix="unimixer-pg-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # initdb refuses root
            account = pwd.getpwnam("postgres")
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["-D", str(self.folder / "data"), "-U", USER, "-E", "UTF8", "--locale=C", "-N"]
        command = [str(programs / "initdb"), *options, "--auth=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._as)
        self.start()

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", "", "-h", "127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)
        for _ in range(200):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.address()).close()
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """At once, as a machine that fails: clients lose their connections."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def address(self, table: str = "", *, port: int | None = None, password: str = PASSWORD) -> str:
        name = f"{USER}:{quote(password, safe='')}" if password else USER
        base = f"postgresql://{name}@127.0.0.1:{port or self.port}/postgres"
        return f"{base}?table={table}" if table else base

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address(), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []


def started() -> Iterator[Database]:
    """Start a database and remove it at the end; skip the test where PostgreSQL is not installed."""
    programs = binaries()
    if programs is None:
        pytest.skip("postgresql is not installed")
    database = Database(programs, free_port())
    yield database
    database.remove()


class Wire:
    """A way to a port that hands bytes on, and that is cut at the next COMMIT, before or after the other end has it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut = ""
        """``before`` or ``after``; nothing once it has happened."""
        self.commits = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Any, *sockets: socket.socket) -> None:
        self._sockets.extend(sockets)
        self._threads.append(threading.Thread(target=work, args=sockets, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._start(self._forward, near, far)
                self._start(self._back, far, near)

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65_536):
                if b"COMMIT" in data:
                    self.commits += 1
                    if self.cut:
                        self._end(data, near, far)
                        return
                far.sendall(data)
        _shut(near, far)

    def _end(self, data: bytes, near: socket.socket, far: socket.socket) -> None:
        cut, self.cut = self.cut, ""
        near.shutdown(socket.SHUT_RDWR)  # the answer to the COMMIT never arrives
        if cut == "after":
            far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            time.sleep(0.3)
        _shut(near, far)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65_536):
                near.sendall(data)
        _shut(near)

    def close(self) -> None:
        _shut(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
