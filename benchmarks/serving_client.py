"""Asks a server from a process of its own: bodies of a file, at a rate or as fast as they are answered.

python benchmarks/serving_client.py --port 8080 --bodies bodies.jsonl --count 1000 --rate 50

Latency counts from the moment at which a request was due, so that a server that falls behind cannot hide it. The
client takes about 0.1 ms of a core for each request. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

PROBE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Asked:
    """One request and its answer; the status is 0 where the connection ended before the answer."""

    number: int
    due: float
    sent: float = 0.0
    ended: float = 0.0
    status: int = 0
    head: bytes = b""
    version: bytes = b""

    def timing(self, name: bytes) -> float:
        """Milliseconds of a stage, as the server tells them."""
        _, mark, rest = self.head.partition(name + b";dur=")
        return float(rest.split(b"\r\n", 1)[0].split(b",", 1)[0]) if mark else math.nan


class Connection(asyncio.Protocol):
    """One connection that has one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load, self.asked = load, None
        self.transport: Any = None
        self.data, self.missing = b"", 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, asked: Asked, request: bytes) -> None:
        self.asked, self.data, self.missing = asked, b"", -1
        asked.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        asked = self.asked
        if asked is None:
            return
        if self.missing < 0:
            self.data += data
            head, separator, body = self.data.partition(b"\r\n\r\n")
            if not separator:
                return
            asked.status, asked.head = int(head[9:12]), head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            self.missing, data = length - len(body), body
        else:
            self.missing -= len(data)
        if not asked.version and (at := data.find(b'"version":"')) >= 0:
            asked.version = data[at + 11 : at + 27]
        if self.missing <= 0:
            self.asked = None
            self.load.answered(self, asked)

    def connection_lost(self, error: Exception | None) -> None:
        asked, self.asked = self.asked, None
        self.load.lost(self, asked)


class Load:
    """Requests that are due at certain times, and the connections that carry them.

    Args:
        port: of the server.
        most: connections that are open at most; a request that finds none waits for one.
    """

    def __init__(self, port: int, most: int) -> None:
        self.port, self.most, self.open = port, most, 0
        self.idle: list[Connection] = []
        self.waiting: deque[tuple[Asked, bytes]] = deque()
        self.ended: list[Asked] = []
        self.changed = asyncio.Event()

    async def ask(self, asked: Asked, request: bytes) -> None:
        """Send a request now, or as soon as a connection is free."""
        if self.idle:
            self.idle.pop().ask(asked, request)
        elif self.open < self.most:
            self.open += 1
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self.port
            )
            connection.ask(asked, request)
        else:
            self.waiting.append((asked, request))

    def answered(self, connection: Connection, asked: Asked) -> None:
        asked.ended = time.perf_counter()
        self.ended.append(asked)
        if self.waiting:
            connection.ask(*self.waiting.popleft())
        else:
            self.idle.append(connection)
        self.changed.set()

    def lost(self, connection: Connection, asked: Asked | None) -> None:
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if asked is not None:
            asked.ended = time.perf_counter()
            self.ended.append(asked)
        self.changed.set()

    async def until(self, answers: int) -> None:
        """Wait until so many requests have ended."""
        while len(self.ended) < answers:
            self.changed.clear()
            await self.changed.wait()


async def run(arguments: argparse.Namespace) -> tuple[list[Asked], list[Asked], float]:
    bodies = Path(arguments.bodies).read_bytes().splitlines()

    def request(number: int) -> bytes:
        body = bodies[number % len(bodies)]
        head = f"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {arguments.name}-{number}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    load, live = Load(arguments.port, arguments.connections), Load(arguments.port, 1)
    probing = asyncio.create_task(probe(live, arguments.probe)) if arguments.probe else None
    started = time.perf_counter()
    last = started + arguments.seconds
    number = 0
    while number < arguments.count:
        due = started + number / arguments.rate if arguments.rate else time.perf_counter()
        if due >= last:
            break
        if arguments.rate:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        else:
            await load.until(number - arguments.connections + 1)
        await load.ask(Asked(number, due), request(number))
        number += 1
    async with asyncio.timeout(arguments.limit):
        await load.until(number)
    seconds = time.perf_counter() - started
    if probing is not None:
        probing.cancel()
    return load.ended, live.ended, seconds


async def probe(live: Load, every: float) -> None:
    """Ask whether the server lives, every so many seconds, on a connection of its own."""
    started = time.perf_counter()
    for number in range(1 << 30):
        due = started + number * every
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await live.ask(Asked(number, due), PROBE)


def summary(requests: list[Asked], live: list[Asked], seconds: float, warm: int) -> dict[str, Any]:
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
        "client_cpu_ms": round(time.process_time() / max(1, len(requests)) * 1e3, 3),
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
    requests, live, seconds = uvloop.run(run(arguments))
    print(json.dumps(summary(requests, live, seconds, arguments.warm)))


if __name__ == "__main__":
    main()
