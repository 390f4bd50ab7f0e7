"""What a request costs: the scorer alone, beside eager PyTorch, and the server around it.

python benchmarks/serving.py --params 1M 5M --seconds 20
python benchmarks/serving.py --source kuairand-pure --raw KuaiRand-Pure

Trains for some steps (weights do not change the time), exports, builds the feature store, then for every size:
  scorer    the same encoded requests through the bundle and through the eager model, in turns as in scoring.py
  server    unimixer serve and a load generator, two processes, at a fixed rate; overhead is a request's time at the
            client less the time of the scorer inside that very request
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scoring import compare
from scoring import measure as take_turns
from serving_parts import Server, Work

from unimixer.bundles import open_bundle
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.environment import commit, cores, cpu_model, versions
from unimixer.serving.encoding.request import RankCall, RequestEncoder
from unimixer.serving.stores.sqlite import SQLiteStore
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder

SHARE = 0.7
"""Share of the scorer's time that a load may fill."""


def calls(bodies: Path, count: int) -> list[RankCall]:
    now = int(time.time() * 1000)
    calls = [json.loads(line) for line in bodies.read_text().splitlines()[:count]]
    return [RankCall(body["user"], body["items"], body["context"], now=now) for body in calls]


def scorer(
    work: Work, run: Path, folder: Path, bodies: Path, arguments: argparse.Namespace
) -> dict[str, tuple[float, float]]:
    """Eager and exported scoring of the same requests, and their encoding, by turns: p50 and p99 in ms."""
    torch.set_num_threads(arguments.threads)
    bundle, model = open_bundle(folder, threads=arguments.threads), load_ranker(RunFolder(run))
    encoder = RequestEncoder(bundle.transform, bundle.layout, SQLiteStore(work.features))
    asked = calls(bodies, 40)
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
    return {name: tuple(np.percentile(seconds, [50, 99]).tolist()) for name, seconds in times.items()}


def server(work: Work, bundle: Path, bodies: Path, arguments: argparse.Namespace, rate: float) -> dict[str, Any]:
    options = ["--threads", str(arguments.threads), "--concurrency", str(arguments.concurrency), "--queue", "64"]
    with tempfile.TemporaryDirectory() as log:
        options += ["--timeout", "10", "--prediction-log", log]
        with Server(work, bundle, options) as running:
            running.ask(bodies, count=400)  # every user and item once: caches are warm, as after some minutes
            count = int(rate * arguments.seconds)
            summary = running.ask(bodies, count=count, rate=rate, warm=min(50, count // 4))
            summary["code"] = running.stop()
    return summary


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
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps runs and bundles between calls")
    arguments = parser.parse_args()
    print(f"{cpu_model()}, {cores()} cores, commit {commit()}, {versions()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        options = {name: getattr(arguments, name) for name in ("source", "raw", "rows", "backbone")}
        measure(Work(folder, **options), arguments)


def measure(work: Work, arguments: argparse.Namespace) -> None:
    rows = []
    for params in arguments.params:
        run, bundle = work.bundle(params)
        bodies = work.bodies(bundle, work.folder / "bodies.jsonl", candidates=arguments.candidates)
        alone = scorer(work, run, bundle, bodies, arguments)
        eager, exported = alone["eager PyTorch"], alone["bundle"]
        # beyond what the cores can score, requests only queue and nothing is learned of the server
        possible = SHARE * 1e3 * arguments.concurrency / exported[0]
        rate = min(arguments.rate, possible)
        if rate < arguments.rate:
            print(f"{params}: the scorer alone takes {exported[0]:.1f} ms, so {arguments.rate:g}/s is more than "
                  f"{SHARE:.0%} of what it can do; asked for {rate:.1f}/s instead")  # fmt: skip
        around = server(work, bundle, bodies, arguments, rate)
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


if __name__ == "__main__":
    script(main)
