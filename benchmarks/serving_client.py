"""Asks a server from a process of its own: bodies of a file, at a rate or as fast as they are answered.

python benchmarks/serving_client.py --port 8080 --bodies bodies.jsonl --count 1000 --rate 50

Latency counts from the moment at which a request was due, so that a server that falls behind cannot hide it. The
client shares the cores with the server, so it does little: one thread, plain sockets, and of an answer it reads the
status and the length. It reads the rest when the load is over. The last line is one JSON object, with the processor
time that the client took.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import select
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROBE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNK = 1 << 18
"""Bytes that are read at once."""
KEPT = 1_024
"""Bytes of an answer that are kept: its head, and the beginning of its body with the version of the model."""


@dataclass(slots=True)
class Asked:
    """One request and its answer; the status is 0 where the connection ended before the answer."""

    number: int
    due: float
    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    answer: bytes = b""

    def timing(self, name: bytes) -> float:
        """Milliseconds of a stage, as the server tells them."""
        _, mark, rest = self.answer.partition(name + b";dur=")
        return float(rest.split(b"\r\n", 1)[0].split(b",", 1)[0]) if mark else math.nan

    @property
    def version(self) -> bytes:
        """Version of the model that answered."""
        return self.answer.partition(b'"version":"')[2][:16]


class Connection:
    """One connection that has one request at a time."""

    def __init__(self, port: int, limit: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.limit = limit
        self.asked: Asked | None = None
        self.begun, self.missing = b"", 0

    def ask(self, asked: Asked, request: tuple[bytes, ...]) -> None:
        self.asked, self.begun, self.missing = asked, b"", -1
        asked.sent = time.perf_counter()
        sent = self.socket.sendmsg(request)
        if sent < sum(map(len, request)):  # the server reads slowly: wait for it
            self.socket.settimeout(self.limit)
            self.socket.sendall(b"".join(request)[sent:])
            self.socket.setblocking(False)

    def read(self) -> bool:
        """Read what came, and return whether the answer has ended."""
        data = self.socket.recv(CHUNK)
        asked = self.asked
        if not data:
            raise ConnectionResetError
        if asked is None:
            return False
        if self.missing >= 0:
            self.missing -= len(data)
            if len(asked.answer) < KEPT:
                asked.answer += data[:KEPT]
        else:
            self.begun = data = self.begun + data
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                return False
            at = data.find(b"ontent-length: ", 0, end)
            at = at if at >= 0 else data.find(b"ontent-Length: ", 0, end)
            asked.status, asked.answer = int(data[9:12]), data[:KEPT]
            self.missing = int(data[at + 15 : data.index(b"\r", at)]) - (len(data) - end)
        return self.missing <= 0


class Load:
    """Requests that are due at certain times, and the connections that carry them.

    Args:
        port: of the server.
        most: connections that are open at most; a request that finds none waits for one.
        limit: seconds that the server may take to read a request.
        poll: tells which connections have something to read.
    """

    def __init__(self, port: int, most: int, limit: float, poll: select.epoll) -> None:
        self.port, self.most, self.limit, self.poll = port, most, limit, poll
        self.open: dict[int, Connection] = {}
        self.idle: list[Connection] = []
        self.waiting: deque[tuple[Asked, tuple[bytes, ...]]] = deque()
        self.ended: list[Asked] = []

    def ask(self, asked: Asked, *request: bytes) -> None:
        """Send a request now, or as soon as a connection is free."""
        if self.idle:
            self._send(self.idle.pop(), asked, request)
        elif len(self.open) < self.most:
            connection = Connection(self.port, self.limit)
            self.open[connection.socket.fileno()] = connection
            self.poll.register(connection.socket, select.EPOLLIN)
            self._send(connection, asked, request)
        else:
            self.waiting.append((asked, request))

    def read(self, file: int) -> bool:
        """Read from one of the connections; False if it is none of them."""
        connection = self.open.get(file)
        if connection is None:
            return False
        try:
            ended = connection.read()
        except OSError:
            self._lost(connection)
            return True
        if ended and connection.asked is not None:
            self._end(connection.asked)
            connection.asked = None
            self.idle.append(connection)
            if self.waiting:
                self.ask(self.waiting[0][0], *self.waiting.popleft()[1])
        return True

    def _send(self, connection: Connection, asked: Asked, request: tuple[bytes, ...]) -> None:
        try:
            connection.ask(asked, request)
        except OSError:
            self._lost(connection)

    def _lost(self, connection: Connection) -> None:
        del self.open[connection.socket.fileno()]
        connection.socket.close()  # it leaves the poll, too
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.asked is not None:
            self._end(connection.asked)
        if self.waiting:
            self.ask(self.waiting[0][0], *self.waiting.popleft()[1])

    def _end(self, asked: Asked) -> None:
        asked.ended = time.perf_counter()
        self.ended.append(asked)


def run(arguments: argparse.Namespace) -> tuple[list[Asked], list[Asked], float]:
    """Send all requests, each when it is due, and wait for their answers."""
    bodies = Path(arguments.bodies).read_bytes().splitlines()
    lengths = [b"\r\nContent-Length: %d\r\n\r\n" % len(body) for body in bodies]
    begin = f"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {arguments.name}-".encode()
    rate, most, every = arguments.rate, arguments.connections, arguments.probe
    poll, clock = select.epoll(), time.perf_counter
    load, live = Load(arguments.port, most, arguments.limit, poll), Load(arguments.port, 1, arguments.limit, poll)
    number = probes = 0
    started = clock()
    last = started + arguments.seconds
    while True:
        now = clock()
        due = started + number / rate if rate else now
        while number < arguments.count and due < last and (due <= now if rate else number - len(load.ended) < most):
            at = number % len(bodies)
            load.ask(Asked(number, due), begin + b"%d" % number + lengths[at], bodies[at])
            number += 1
            due = started + number / rate if rate else now
        sending = number < arguments.count and due < last
        if not sending and len(load.ended) == number:
            return load.ended, live.ended, clock() - started
        if now > last + arguments.limit:
            raise SystemExit(f"{number - len(load.ended)} requests have no answer after {arguments.limit:g} s")
        wakes = [due] if rate and sending else [now + 1.0]
        if every:
            while (probe_due := started + probes * every) <= now:
                live.ask(Asked(probes, probe_due), PROBE)
                probes += 1
            wakes.append(probe_due)
        select.select([poll], [], [], max(0.0, min(wakes) - clock()))  # to the microsecond; the poll's own wait is not
        for file, _ in poll.poll(0):
            _ = load.read(file) or live.read(file)


def summary(
    requests: list[Asked], live: list[Asked], seconds: float, warm: int, processor_s: float = 0.0
) -> dict[str, Any]:
    """Percentiles of what was answered with scores, without the first ``warm`` requests."""
    good = [row for row in requests if row.status == 200 and row.number >= warm]
    times = {
        "due": np.asarray([(row.ended - row.due) * 1e3 for row in good]),
        "ms": np.asarray([(row.ended - row.sent) * 1e3 for row in good]),
        "score": np.asarray([row.timing(b"score") for row in good]),
        "encode": np.asarray([row.timing(b"encode") for row in good]),
        "refused": np.asarray([(row.ended - row.due) * 1e3 for row in requests if row.status == 429]),
        "live": np.asarray([(row.ended - row.due) * 1e3 for row in live if row.status == 200]),
    }
    times["overhead"] = times["ms"] - times["score"]
    cut = {f"{n}_{q}": round(float(np.percentile(v, q)), 3) for n, v in times.items() if len(v) for q in (50, 99)}
    return {
        "answers": len(requests),
        "seconds": round(seconds, 3),
        "accepted_per_s": round(len([row for row in requests if row.status == 200]) / seconds, 2),
        "statuses": dict(Counter(str(row.status) for row in requests)),
        "live_failed": sum(row.status != 200 for row in live),
        "versions": sorted({row.version.decode() for row in good}),
        **cut,
        "client_cpu_ms": round(processor_s / max(1, len(requests)) * 1e3, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bodies", required=True, help="one JSON body a line")
    parser.add_argument("--count", type=int, default=1 << 30, help="requests at most")
    parser.add_argument("--seconds", type=float, default=math.inf, help="seconds in which requests are sent")
    parser.add_argument("--rate", type=float, default=None, help="requests a second (default: as fast as answered)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--probe", type=float, default=0.0, help="seconds between two calls of /health/live")
    parser.add_argument("--name", default="load", help="beginning of the request ids")
    parser.add_argument("--warm", type=int, default=0, help="first requests that are not counted")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for the last answers")
    arguments = parser.parse_args()
    gc.disable()  # nothing of a load is garbage before its end
    before = time.process_time()
    requests, live, seconds = run(arguments)
    print(json.dumps(summary(requests, live, seconds, arguments.warm, time.process_time() - before)))


if __name__ == "__main__":
    main()
