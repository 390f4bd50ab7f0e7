"""Run a ranking server with an experiment, and ask it over HTTP from many connections."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unimixer.errors import UnimixerError
from unimixer.serving.settings import ADMIN_KEY

START_S, STOP_S = 120.0, 60.0
"""Seconds for the start of a server, and for its end with everything written."""
TIMEOUT_S = 30.0
"""Seconds for an answer; a simulation waits rather than loses a request."""
IDLE_S = 3_600.0
"""Seconds that a connection may be silent: users of a day are simulated between two requests."""
CONNECTIONS = 8


class Client:
    """Post JSON to a server over connections that stay open, one a thread."""

    def __init__(self, port: int, admin_key: str) -> None:
        self.port, self._admin_key = port, admin_key
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="client")
        self._local, self._open = threading.local(), list[http.client.HTTPConnection]()

    def post(self, path: str, value: dict[str, Any], request_id: str | None = None) -> Any:
        """Return the answer.

        Raises:
            UnimixerError: the server refuses the request, or does not answer.
        """
        headers = {"Content-Type": "application/json", "X-API-Key": self._admin_key}
        if request_id is not None:
            headers["X-Request-ID"] = request_id
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
            self._local.connection = connection
            self._open.append(connection)
        try:
            connection.request("POST", path, json.dumps(value).encode(), headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise UnimixerError(f"POST {path}: the server on port {self.port} does not answer ({reason})") from None
        if answer.status != 200:
            raise UnimixerError(
                f"POST {path}: the server answers {answer.status}: {body.decode(errors='replace')[:300]}"
            )
        return json.loads(body)

    def post_all(self, path: str, values: Sequence[tuple[dict[str, Any], str | None]]) -> Iterator[Any]:
        """Post requests at once over all connections; return the answers in order."""
        return self._threads.map(lambda one: self.post(path, *one), values)

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown(cancel_futures=True)
        for connection in self._open:
            connection.close()


@contextmanager
def server(arguments: Iterable[str], log: Path) -> Iterator[Client]:
    """Run ``unimixer serve`` on a free port until the block ends, and then until everything is written.

    Args:
        arguments: of the command, without its port and keys.
        log: file for the lines of the server.

    Raises:
        UnimixerError: the server does not start, or does not end in order.
    """
    key = secrets.token_hex(16)
    command = [sys.executable, "-m", "unimixer", "serve", *arguments, "--port", "0", "--timeout", str(TIMEOUT_S)]
    command += ["--idle", str(IDLE_S)]
    with log.open("wb") as lines:
        process = subprocess.Popen(
            command, stdout=lines, stderr=lines, stdin=subprocess.DEVNULL, env={**os.environ, ADMIN_KEY: key}
        )
    try:
        client = Client(_port_when_ready(process, log), key)
        try:
            yield client
        finally:
            client.close()
        process.terminate()
        if process.wait(STOP_S) != 0:
            raise UnimixerError(f"the server ended with exit code {process.returncode}; its lines are in {log}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _port_when_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    """Read the port that the server took, once a bundle is in service."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        events = {line["event"]: line for line in _lines(log)}
        if "ready" in events:
            return int(events["listening"]["port"])
        if "not ready" in events:
            break
        time.sleep(0.05)
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise UnimixerError(f"the server did not start: {last[-1] if last else 'it wrote nothing'}; its lines are in {log}")


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)
