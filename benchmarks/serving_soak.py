"""A long run of requests of all kinds, some of them hostile by size: what is answered, what is logged, what it takes.

python benchmarks/serving_soak.py --requests 20000

Sizes from 1 to --candidates, unknown users and items, inline features, one body in twenty cut off; one request in
twenty is as large as a stranger can make it. In the middle a bundle is swapped, and rows and events are written. Then
SIGTERM, and every answer is looked for in the prediction log. Memory is that of the server, in MB, after every
twentieth request.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving_parts import Server, Work

from unimixer.cli import script
from unimixer.serving.prediction_log.writer import read_log

PARTS = 20
HOSTILE = 20
"""One request of so many is hostile."""
MOST_GROWTH = 0.05
"""Of the memory after the first part, at the end."""


def mixed(work: Work, bundle: Path, candidates: int, path: Path) -> Path:
    """Bodies of all kinds."""
    rng, lines = random.Random(1), []
    plain = work.bodies(bundle, path.with_suffix(".plain"), candidates=candidates, count=600)
    for number, line in enumerate(plain.read_text().splitlines()):
        body = json.loads(line)
        items = body["items"][: rng.choice([1, 10, 100, candidates])]
        if number % 7 == 0:
            body["user"] = f"unknown-{number}"
        if number % 5 == 0:
            items[0] = f"unknown-{number}"
        body["items"] = [{"item_id": item} for item in items] if number % 11 == 0 else items
        text = json.dumps(body, separators=(",", ":"))
        lines.append(text[: len(text) // 2] if number % 20 == 19 else text)
    path.write_text("\n".join(lines) + "\n")
    return path


def hostile(body: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Requests of every kind of size, for ever; no two bring the same keys."""
    for number in itertools.count():
        long = [f"{number}-{index}-" + "k" * 380 for index in range(2_000)]
        context = body["context"]
        bodies: dict[str, Any] = {
            "2,000 items of 400 characters": {**body, "items": long},
            "200,000 items": {**body, "items": list(range(200_000))},
            "a key of 900,000 characters": {**body, "items": [f"{number}" + "k" * 900_000]},
            "a user of 1,000 characters": {**body, "user": f"{number:>01000}"},
            "a context of 90,000 characters": {**body, "context": {**context, "tab": f"{number}" + "t" * 90_000}},
            "a list of 100,000 entries": {**body, "context": {**context, "tab": [1] * 100_000}},
            "an integer of 500,000 digits": json.dumps(body)[:-1].encode() + b', "rank_by": ' + b"9" * 500_000 + b"}",
            "200,000 brackets": b"[" * 200_000,
            "a body of 4 MB": b'"' + b"x" * (4 << 20) + b'"',
        }  # fmt: skip
        for kind, value in bodies.items():
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nX-Request-ID: hostile\r\nContent-Length: {len(data)}\r\n\r\n"
            yield kind, head.encode() + data
        yield "a path of 30,000 characters", b"GET /" + b"p" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        yield "a head of 60,000 characters", b"GET / HTTP/1.1\r\nHost: x\r\nX-Much: " + b"h" * 60_000 + b"\r\n\r\n"


def send(port: int, data: bytes) -> int:
    """The status of the answer, 0 where the connection ended without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # the server refused before all of it was sent
            connection.sendall(data)
        try:
            answer = connection.recv(1 << 16)
        except OSError:
            return 0
    return int(answer[9:12]) if answer else 0


def change(work: Work, running: Server, current: Path, bundle: Path) -> None:
    """Rows, events and another bundle, while requests run."""
    fresh = current.with_name("fresh")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(bundle)
    fresh.rename(current)
    running.admin("reload", {})
    items, users = work.keys("items"), work.keys("users")
    for start in range(0, 200, 20):
        running.admin("items", {"rows": [{"item_id": key} for key in items[start : start + 20]]})
        events = [{"user_id": users[start + n], "item_id": items[n], "click": 1} for n in range(20)]
        running.admin("events", {"events": events})


def soak(work: Work, arguments: argparse.Namespace, log: Path) -> dict[str, Any]:
    bundles = [work.bundle(arguments.params, steps)[1] for steps in (20, 30)]
    current = work.folder / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(bundles[0])
    bodies = mixed(work, bundles[0], arguments.candidates, work.folder / "mixed.jsonl")
    first = json.loads(bodies.read_text().splitlines()[1])
    unfriendly, refused = hostile(first), dict[str, Counter[int]]()
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    per = arguments.requests // PARTS
    with Server(work, current, ["--queue", "64", "--timeout", "10", "--prediction-log", str(log)]) as running:
        started = time.perf_counter()
        versions: set[str] = set()

        def strangers() -> None:
            for kind, data in itertools.islice(unfriendly, per // HOSTILE):
                status = send(running.port, data)
                refused.setdefault(kind, Counter())[status] += 1
                statuses[str(status)] += 1

        for part in range(PARTS):
            threads = [threading.Thread(target=strangers)]
            if part == PARTS // 2:
                threads.append(threading.Thread(target=change, args=(work, running, current, bundles[1])))
            for thread in threads:
                thread.start()
            summary = running.ask(bodies, count=per - per // HOSTILE, name=f"part-{part}")
            for thread in threads:
                thread.join()
            statuses.update(summary["statuses"])
            versions.update(summary["versions"])
            memory.append(running.memory)
            print(f"{(part + 1) * per:,} requests: {memory[-1]:.0f} MB", flush=True)
        seconds = time.perf_counter() - started
        code = running.stop()
    return {
        "requests": PARTS * per,
        "seconds": round(seconds, 1),
        "statuses": dict(statuses),
        "hostile": {kind: dict(counts) for kind, counts in refused.items()},
        "failures": running.failures,
        "versions": len(versions),
        "memory_mb": [round(value, 1) for value in memory],
        "growth": round(memory[-1] / memory[0] - 1, 4),
        "answered": statuses["200"],
        "logged": sum(1 for _ in read_log(log)),
        "exit": code,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--backbone", default="rankmixer")
    parser.add_argument("--params", default="300K")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps runs and bundles between calls")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends the servers too
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(arguments.work or Path(temporary), backbone=arguments.backbone)
        summary = soak(work, arguments, Path(tempfile.mkdtemp(dir=temporary)))
    print(json.dumps(summary))
    assert (summary["failures"], summary["exit"], summary["versions"]) == (0, 0, 2)
    assert summary["answered"] == summary["logged"], "the prediction log lost an answer"
    assert set(summary["statuses"]) <= {"200", "400", "413", "414", "422", "431"}, "a request failed"
    assert summary["growth"] <= MOST_GROWTH, "memory grows"


if __name__ == "__main__":
    script(main)
