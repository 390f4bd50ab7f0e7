"""Load on a server from a process of its own: bodies of a file, at a rate or as fast as they are answered.

python benchmarks/serving_load.py --port 8080 --bodies bodies.jsonl --count 1000 --rate 50

Latency counts from the moment at which a request was due, so that a server that falls behind cannot hide it. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop


async def ask(port: int, queue: asyncio.Queue[Any], found: list[dict[str, Any]], bodies: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    while True:
        task = await queue.get()
        if task is None:
            break
        number, due = task
        body = bodies[number % len(bodies)]
        head = (
            f"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: load-{number}\r\nContent-Length: {len(body)}"
        )
        sent = time.perf_counter()
        writer.write(head.encode() + b"\r\n\r\n" + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        answer = await reader.readexactly(int(headers["content-length"]))
        ended = time.perf_counter()
        timing = dict(part.split(";dur=") for part in headers.get("server-timing", "").split(", ") if part)
        found.append(
            {
                "number": number,
                "status": int(lines[0].split()[1]),
                "due": (ended - (due or sent)) * 1e3,
                "ms": (ended - sent) * 1e3,
                "score": float(timing.get("score", "nan")),
                "encode": float(timing.get("encode", "nan")),
                "version": json.loads(answer)["model"]["version"] if lines[0].split()[1] == "200" else "",
            }
        )
    writer.close()


async def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    bodies = Path(arguments.bodies).read_bytes().splitlines()
    queue: asyncio.Queue[Any] = asyncio.Queue(0 if arguments.rate else arguments.connections)
    found: list[dict[str, Any]] = []
    clients = [asyncio.create_task(ask(arguments.port, queue, found, bodies)) for _ in range(arguments.connections)]
    started = time.perf_counter()
    for number in range(arguments.count):
        due = started + number / arguments.rate if arguments.rate else None
        if due is not None:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await queue.put((number, due))
    for _ in clients:
        await queue.put(None)
    async with asyncio.timeout(arguments.limit):
        await asyncio.gather(*clients)
    return found


def summary(found: list[dict[str, Any]], warm: int) -> dict[str, Any]:
    """Percentiles of what was answered with scores, without the first ``warm`` requests."""
    good = [row for row in found if row["status"] == 200 and row["number"] >= warm]
    statuses: dict[str, int] = {}
    for row in found:
        statuses[str(row["status"])] = statuses.get(str(row["status"]), 0) + 1
    times = {name: np.asarray([row[name] for row in good]) for name in ("due", "ms", "score", "encode")}
    times["overhead"] = times["ms"] - times["score"]
    cut = {f"{n}_{q}": round(float(np.percentile(v, q)), 3) for n, v in times.items() if len(v) for q in (50, 99)}
    versions = sorted({row["version"] for row in good})
    ids = [f"load-{row['number']}" for row in found if row["status"] == 200]
    return {"answers": len(found), "statuses": statuses, "versions": versions, **cut, "ids": ids}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bodies", required=True, help="one JSON body a line")
    parser.add_argument("--count", type=int, default=1_000, help="requests in all")
    parser.add_argument("--rate", type=float, default=None, help="requests a second (default: as fast as answered)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--warm", type=int, default=0, help="first requests that are not counted")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which it gives up")
    arguments = parser.parse_args()
    print(json.dumps(summary(uvloop.run(run(arguments)), arguments.warm)))


if __name__ == "__main__":
    main()
