"""Clients that ask until they are told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from served import Client, Served


class Load:
    """Some clients in threads; every answer is kept as status, model version and request id."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self.answers: list[tuple[int, str, str]] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(served.port, n)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, number: int) -> None:
        client = Client(port)
        while not self._stop.is_set():
            try:
                answer = client.rank(f"u{number}", [f"i{n}" for n in range(20)])
            except Exception as error:
                self.failures.append(error)
                break
            version = answer.json["model"]["version"] if answer.status == 200 else ""
            self.answers.append((answer.status, version, answer.headers["X-Request-ID"]))
            time.sleep(0.002)
        client.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, fact: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not fact():
            assert time.monotonic() < end
            time.sleep(0.01)
