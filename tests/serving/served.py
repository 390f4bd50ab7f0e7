"""A real server process on a free port, and a client for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from own_process import unimixer
from ports import free_port

API_KEY, ADMIN_KEY = "callers-key-0123456789", "admins-key-0123456789"
CONTEXT = {"tab": "home", "position": 3, "words": "red|blue"}


class Answer:
    """Status, headers and body of one answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal, which has one shape."""
        assert set(self.json) == {"error", "request_id"}, self.body
        assert self.json["request_id"] == self.headers["X-Request-ID"]
        sentence: str = self.json["error"]
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        return sentence


def next_answer(raw: socket.socket) -> Answer:
    """The next answer of a connection, whole: its head and its body may arrive apart."""
    response = http.client.HTTPResponse(raw)
    response.begin()
    return Answer(response)


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {})
        return Answer(self.connection.getresponse())

    def rank(self, user: Any = "u3", items: Any = ("i1", "i2", "i3"), **body: Any) -> Answer:
        return self.ask("POST", "/v1/rank", {"user": user, "context": CONTEXT, "items": items, **body})

    def close(self) -> None:
        self.connection.close()


class Served:
    """``unimixer serve`` in a process of its own."""

    def __init__(
        self, bundle: Path, store: str | Path, *options: str, keys: bool = False, stderr: int | None = None
    ) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNIMIXER_ADMIN_KEY": ADMIN_KEY}
        if keys:
            environment["UNIMIXER_API_KEY"] = API_KEY
        # a server whose lines cannot be read cannot tell its port
        self._port = None if stderr is None else free_port()
        words = ("serve", bundle, "--store", store, "--port", self._port or 0, *options)
        self.process = unimixer(*words, env=environment, stderr=stderr)
        self.lines: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process.stdout, self.process.stderr as lines:
            for line in lines:
                try:
                    self.lines.append(json.loads(line))
                except json.JSONDecodeError:
                    self.other.append(line)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event]

    def wait_for(self, event: str, count: int = 1, seconds: float = 60) -> dict[str, Any]:
        self.wait_until(lambda: len(self.logged(event)) >= count, seconds)
        return self.logged(event)[count - 1]

    def wait_until(self, fact: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"it does not come true: {self.lines} {self.other}")
            time.sleep(0.02)

    @property
    def port(self) -> int:
        return self._port or int(self.wait_for("listening")["port"])

    def ready(self) -> Served:
        if self._port is None:
            self.wait_for("ready")
        else:
            self.wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            return self.get("/health/ready").status == 200
        except OSError:
            return False

    def get(self, path: str) -> Answer:
        client = self.client()
        try:
            return client.ask("GET", path)
        finally:
            client.close()

    def client(self) -> Client:
        return Client(self.port)

    def rank(self) -> Answer:
        client = self.client()
        try:
            return client.rank()
        finally:
            client.close()

    def admin(self, path: str, body: Any = None) -> Answer:
        client = self.client()
        try:
            return client.ask("POST", f"/admin/{path}", body, {"X-API-Key": ADMIN_KEY})
        finally:
            client.close()

    def metrics(self) -> dict[str, float]:
        client = self.client()
        text = client.ask("GET", "/metrics").body.decode()
        client.close()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(10)
        return code

    def __enter__(self) -> Served:
        return self.ready()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(10)
