"""What a request costs: the scorer alone, beside eager PyTorch, and the server around it; and a soak.

python benchmarks/serving.py --params 1M 5M --seconds 20 --soak 18000
python benchmarks/serving.py --source kuairand-pure --raw KuaiRand-Pure

Trains for some steps (weights do not change the time), exports, builds the feature store, then for every size:
  scorer    the same encoded requests through the bundle and through the eager model, in turns as in scoring.py
  server    unimixer serve and a load generator, two processes, at a fixed rate; overhead is a request's time at the
            client less the time of the scorer inside that very request
The soak asks as fast as it is answered: sizes from 1 to --candidates, unknown users and items, inline features, one
body in twenty malformed; in the middle a bundle is swapped and rows and events are written. Then SIGTERM, and every
answer is looked for in the score log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scoring import compare
from scoring import measure as take_turns

from unimixer.cli.output import markdown
from unimixer.data.prepare import prepare
from unimixer.data.raw.adapters import open_raw
from unimixer.data.schema import Schema
from unimixer.environment import commit, cores, cpu_model, versions
from unimixer.export import ExportOptions, export_run, open_bundle
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.prediction_log.writer import read_log
from unimixer.serving.stores import sqlite as sqlite_store
from unimixer.serving.stores.build import fill
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train

ADMIN_KEY = "benchmark-admin-key"
HERE = Path(__file__).parent
SHARE = 0.7
"""Share of the scorer's time that a load may fill."""


class Work:
    """Everything that the measurements need, below one folder."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        options = {"rows": arguments.rows, "seed": 0} if arguments.source == "synthetic" else {}
        tables = open_raw(arguments.source, arguments.raw, **options)
        self.prepared, self.features = folder / "prepared", folder / "features.sqlite"
        if not self.prepared.exists():
            prepare(tables, self.prepared)
        if not self.features.exists():
            sqlite_store.create(self.features)
            store = sqlite_store.SQLiteStore(self.features)
            with store.filling(overwrite=False):
                fill(store, tables)
            store.close()
        self.store = sqlite_store.SQLiteStore(self.features)
        connection = self.store._connection()
        self.users, self.items = (
            [key for (key,) in connection.execute(f"SELECT key FROM {kind}")] for kind in ("users", "items")
        )

    def bundle(self, params: str, steps: int = 20) -> tuple[Path, Path]:
        """Run folder and bundle of a size."""
        run, bundle = self.folder / f"run-{params}-{steps}", self.folder / f"bundle-{params}-{steps}"
        recipe = {
            "name": "serving",
            "store": str(self.prepared),
            "model": {"backbone": self.arguments.backbone, "dense_params": params},
            "training": {"max_steps": steps, "batch_size": 512, "evaluate_every": 10**9, "threads": 2},
        }
        if not run.exists():
            train(parse(Recipe, recipe, where="benchmark"), folder=run, quiet=True)
        if not bundle.exists():
            export_run(run, bundle, ExportOptions(auc_rows=2_000))
        return run, bundle

    def context(self, schema: Schema, rng: random.Random) -> dict[str, Any]:
        """A context of plain values: what the features of the log read, apart from the time."""
        found: dict[str, Any] = {}
        for feature in schema.features:
            if feature.origin == "impressions" and feature.column != schema.keys.time:
                found[feature.column] = [] if feature.kind == "sequence" else rng.randrange(3)
        return found


def calls(work: Work, schema: Schema, count: int, candidates: int) -> list[RankCall]:
    rng = random.Random(0)
    now = int(time.time() * 1000)
    return [
        RankCall(rng.choice(work.users), rng.sample(work.items, candidates), work.context(schema, rng), now=now)
        for _ in range(count)
    ]


def scorer(work: Work, run: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Eager and exported scoring of the same requests, and their encoding, by turns: p50 and p99 in ms."""
    torch.set_num_threads(arguments.threads)
    bundle, model = open_bundle(folder, threads=arguments.threads), load_ranker(RunFolder(run))
    encoder = RequestEncoder(bundle.transform, bundle.layout, work.store)
    asked = calls(work, bundle.transform.schema, 40, arguments.candidates)
    requests = [encoder.encode(call).request for call in asked]

    def eager(batch: Any) -> Any:
        with torch.inference_mode():
            return model(batch).sigmoid().numpy()

    ways: dict[str, list[Any]] = {
        "eager PyTorch": [partial(eager, request.batch()) for request in requests],
        "bundle": [partial(bundle.score, request) for request in requests],
    }
    compare(ways)
    times = take_turns({**ways, "encode": [partial(encoder.encode, call) for call in asked]}, arguments.repeat, 20)
    return {name: tuple(np.percentile(found, [50, 99]).tolist()) for name, found in times.items()}


class Server:
    """``unimixer serve`` on a free port."""

    def __init__(self, work: Work, bundle: Path, arguments: argparse.Namespace, log: Path) -> None:
        options = ["--threads", str(arguments.threads), "--concurrency", str(arguments.concurrency), "--port", "0"]
        command = [sys.executable, "-m", "unimixer", "serve", str(bundle), "--store", str(work.features)]
        environment = {**os.environ, "UNIMIXER_ADMIN_KEY": ADMIN_KEY, "OMP_NUM_THREADS": str(arguments.threads)}
        self.process = subprocess.Popen(
            [*command, *options, "--queue", "64", "--timeout", "10", "--score-log", str(log)],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.port, self.failures = 0, 0
        ready = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(120):
            raise SystemExit("the server does not get ready")

    def _read(self, ready: threading.Event) -> None:
        for line in self.process.stderr or ():
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:
                print(line, end="", file=sys.stderr)
                continue
            self.port = facts.get("port", self.port)
            self.failures += facts["event"] == "failure"
            if facts["event"] == "ready":
                ready.set()

    def load(self, bodies: Path, count: int, rate: float | None, warm: int = 0, connections: int = 4) -> dict[str, Any]:
        """The load generator, in a process of its own."""
        command = [sys.executable, str(HERE / "serving_load.py"), "--port", str(self.port), "--bodies", str(bodies)]
        command += ["--count", str(count), "--warm", str(warm), "--connections", str(connections)]
        command += [] if rate is None else ["--rate", str(rate)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def admin(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/admin/{path}", data, {"X-API-Key": ADMIN_KEY})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._thread.join()
        return code


def body_of(call: RankCall, **changes: Any) -> str:
    body = {"user": call.user, "context": call.context, "items": list(call.items), **changes}
    return json.dumps(body, separators=(",", ":"))


def server(work: Work, bundle: Path, arguments: argparse.Namespace, rate: float) -> dict[str, Any]:
    schema = open_bundle(bundle).transform.schema
    bodies = work.folder / "bodies.jsonl"
    bodies.write_text("\n".join(body_of(c) for c in calls(work, schema, 400, arguments.candidates)) + "\n")
    with tempfile.TemporaryDirectory() as log:
        running = Server(work, bundle, arguments, Path(log))
        running.load(bodies, 400, None)  # every user and item once: caches are warm, as after some minutes
        count = int(rate * arguments.seconds)
        found = running.load(bodies, count, rate, warm=min(50, count // 4))
        found["code"] = running.stop()
    return found


def mixed(work: Work, schema: Schema, arguments: argparse.Namespace, path: Path) -> None:
    """Bodies of all kinds."""
    rng, lines = random.Random(1), []
    for number, call in enumerate(calls(work, schema, 600, arguments.candidates)):
        size = rng.choice([1, 10, 100, arguments.candidates])
        items: list[Any] = list(call.items)[:size]
        user: Any = call.user if number % 7 else f"unknown-{number}"
        if number % 5 == 0:
            items[0] = f"unknown-{number}"
        if number % 11 == 0 and schema.keys.item:
            items = [{schema.keys.item: item} for item in items]
        line = body_of(call, user=user, items=items)
        lines.append(line[: len(line) // 2] if number % 20 == 19 else line)
    path.write_text("\n".join(lines) + "\n")


def soak(work: Work, bundles: tuple[Path, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    current, bodies = work.folder / "current", work.folder / "mixed.jsonl"
    current.unlink(missing_ok=True)
    current.symlink_to(bundles[0])
    schema = open_bundle(bundles[0]).transform.schema
    mixed(work, schema, arguments, bodies)
    log = Path(tempfile.mkdtemp(dir=work.folder))
    running = Server(work, current, arguments, log)
    running.load(bodies, 1_200, None)
    memory, started = [running.memory], time.perf_counter()
    parts: list[dict[str, Any]] = []
    quarter = max(1, arguments.soak // 4)
    thread: threading.Thread | None = None
    for number in range(4):
        if number == 2:
            thread = threading.Thread(target=_change, args=(work, running, current, bundles[1], schema))
            thread.start()
        parts.append(running.load(bodies, quarter, None))
        memory.append(running.memory)
    if thread is not None:
        thread.join()
    seconds = time.perf_counter() - started
    code = running.stop()
    # ids repeat from part to part: count rows
    answered = sum(part["statuses"].get("200", 0) for part in parts)
    logged = sum(1 for row in read_log(log) if row["request_id"].startswith("load-"))
    statuses: dict[str, int] = {}
    for part in parts:
        for status, count in part["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "requests": sum(part["answers"] for part in parts),
        "seconds": round(seconds, 1),
        "statuses": statuses,
        "failures": running.failures,
        "versions": len({version for part in parts for version in part["versions"]}),
        "memory_mb": [round(value, 1) for value in memory],
        "answered": answered,
        "logged": logged - 1_200 * 19 // 20,
        "exit": code,
    }


def _change(work: Work, running: Server, current: Path, bundle: Path, schema: Schema) -> None:
    """Rows, events and another bundle, while requests run."""
    fresh = current.with_name("fresh")
    fresh.symlink_to(bundle)
    fresh.rename(current)
    running.admin("reload", {})
    assert schema.keys.user is not None
    assert schema.keys.item is not None
    for start in range(0, 200, 20):
        rows = [{schema.keys.item: key} for key in work.items[start : start + 20]]
        running.admin("items", {"rows": rows})
        events = [
            {schema.keys.user: work.users[start + n], schema.keys.item: work.items[n], **_outcomes(schema)}
            for n in range(20)
        ]
        if schema.histories:
            running.admin("events", {"events": events})


def _outcomes(schema: Schema) -> dict[str, int]:
    return {history.event: 1 for history in schema.histories if history.event is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="synthetic")
    parser.add_argument("--raw", type=Path, default=None)
    parser.add_argument("--rows", type=int, default=100_000, help="of the synthetic log")
    parser.add_argument("--backbone", default="unimixer-lite")
    parser.add_argument("--params", nargs="+", default=["1M", "5M"])
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=200, help="requests through every scorer")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--soak", type=int, default=18_000, help="requests: 30 minutes at 10 a second; 0 for none")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps runs and bundles between calls")
    arguments = parser.parse_args()
    print(f"{cpu_model()}, {cores()} cores, commit {commit()}, {versions()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(Work(arguments, folder), arguments)


def measure(work: Work, arguments: argparse.Namespace) -> None:
    rows = []
    for params in arguments.params:
        run, bundle = work.bundle(params)
        alone = scorer(work, run, bundle, arguments)
        eager, exported = alone["eager PyTorch"], alone["bundle"]
        # beyond what the cores can score, requests only queue and nothing is learned of the server
        possible = SHARE * 1e3 * arguments.concurrency / exported[0]
        rate = min(arguments.rate, possible)
        if rate < arguments.rate:
            print(f"{params}: the scorer alone takes {exported[0]:.1f} ms, so {arguments.rate:g}/s is more than "
                  f"{SHARE:.0%} of what it can do; asked for {rate:.1f}/s instead")  # fmt: skip
        around = server(work, bundle, arguments, rate)
        rows += [
            [params, "eager PyTorch", *(f"{x:.2f}" for x in eager), ""],
            [params, "bundle", *(f"{x:.2f}" for x in exported), f"{eager[0] / exported[0]:.2f} times as fast at p50"],
            [params, "encoding, warm", *(f"{x:.2f}" for x in alone["encode"]), ""],
            [
                params,
                f"server, {rate:.3g}/s",
                around["ms_50"],
                around["ms_99"],
                f"statuses {around['statuses']}",
            ],
            [params, "  from when it was due", around["due_50"], around["due_99"], ""],
            [params, "  scorer inside", around["score_50"], around["score_99"], ""],
            [params, "  overhead of the server", around["overhead_50"], around["overhead_99"], "request less scorer"],
        ]
        print(markdown(["dense", "what", "p50 ms", "p99 ms", ""], rows[-7:], left=2), flush=True)
    if arguments.soak:
        _, first = work.bundle(arguments.params[0])
        _, second = work.bundle(arguments.params[0], steps=30)
        found = soak(work, (first, second), arguments)
        print(json.dumps(found))
        assert set(found["statuses"]) <= {"200", "400"}, "a request failed"
        assert found["answered"] == found["logged"], "the score log lost an answer"
        assert (found["failures"], found["exit"], found["versions"]) == (0, 0, 2)


if __name__ == "__main__":
    main()
