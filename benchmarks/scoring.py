"""Milliseconds of scoring one request: exported graphs beside eager PyTorch, a Markdown row a way and size.

A synthetic world is prepared, a unimixer-lite of each size is trained for one step and exported in every format. Then
all ways score the same requests in turns of some calls, so that what else the machine does falls on all of them alike.
The first calls of a turn are not counted, for the threads of the way before still wait for work in a busy loop then,
which takes a core each:

- ``eager``: the trained ranker in evaluation mode, with cached mixing matrices, on the plain batch of N rows; making
  that batch out of the request is not counted.
- ``eager once``: the user's part computed once, in PyTorch.
- ``kernels``, ``onnx``, ``pt2``, ``aoti``: ``Bundle.score``, checks of the request included.

Scores of all ways are compared before any time is reported. ``ratio`` is the p50 of ``eager`` over that of the row.
Example:

    python benchmarks/scoring.py --params 1M 5M --candidates 500 --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

WAYS = ("eager", "eager once", "kernels", "onnx", "pt2", "aoti")
TOLERANCE = 1e-5
TURN, UNCOUNTED = 10, 3
"""Calls of one way in a row, and how many of them are not counted."""


def trained(params: str, folder: Path, encoder: str, sequences: str) -> Path:
    """A run of one step."""
    import unimixer

    dataset = folder / "dataset"
    if not dataset.exists():
        unimixer.prepare("synthetic", str(dataset), rows=20_000)
    recipe = {
        "name": "scoring",
        "dataset": str(dataset),
        "model": {
            "backbone": "unimixer-lite",
            "dense_params": params,
            "sequence_encoder": encoder,
            "sequences": sequences,
        },
        "training": {"max_steps": 1, "device": "cpu", "eval_interval": 1},
    }
    run = folder / f"run-{params}"
    unimixer.train(recipe, folder=run, quiet=True)
    return run


def scorers(run: Path, folder: Path, ways: list[str], candidates: int, threads: int) -> dict[str, list]:
    """For every way one function a request, which gives probabilities."""
    from unimixer.bundles import ExportOptions, export_run, open_bundle
    from unimixer.bundles.graph import RequestRanker, feed
    from unimixer.bundles.requests import repeated
    from unimixer.training.model import load_ranker
    from unimixer.training.run import RunFolder

    bundles = {}
    for form in ("onnx", *(way for way in ways if way in ("pt2", "aoti"))):
        export_run(run, folder / f"{run.name}-{form}", ExportOptions(format=form, largest=candidates))
        bundles[form] = open_bundle(folder / f"{run.name}-{form}", threads=threads, kernels=False)
    bundles["kernels"] = open_bundle(folder / f"{run.name}-onnx", threads=threads)
    if bundles["kernels"].scored_by != "kernels" and "kernels" in ways:
        raise SystemExit("this machine builds no kernels, or the model has no steps: leave kernels out of --ways")
    bundle, ranker = bundles["onnx"], load_ranker(RunFolder(run))
    requests = [repeated(request, candidates) for request, _ in bundle.held_out()]
    graph = RequestRanker(ranker, bundle.layout)

    def plain(batch: object) -> np.ndarray:
        with torch.inference_mode():
            return ranker(batch).sigmoid().numpy()

    def once(tensors: tuple) -> np.ndarray:
        with torch.inference_mode():
            return graph(*tensors)[1].numpy()

    calls_of: dict[str, list[Callable[[], np.ndarray]]] = {
        "eager": [partial(plain, request.batch()) for request in requests],
        "eager once": [partial(once, feed(graph.inputs, request)) for request in requests],
    }
    for form, opened in bundles.items():
        calls_of[form] = [partial(opened.score, request) for request in requests]
    return {way: calls_of[way] for way in ways}


def compare(calls_of: dict[str, list]) -> None:
    """Raise where a way gives other scores than the first."""
    first = next(iter(calls_of))
    for way, calls in calls_of.items():
        pairs = zip(calls, calls_of[first], strict=True)
        worst = max(float(np.abs(call() - reference()).max()) for call, reference in pairs)
        if worst > TOLERANCE:
            raise SystemExit(f"{way} differs from {first} by {worst:.1e}: no time is reported for wrong scores")


def measure(calls_of: dict[str, list], repeats: int, warmup: int) -> dict[str, np.ndarray]:
    """Milliseconds of every call that counts, the ways in turns."""
    times: dict[str, list[float]] = {way: [] for way in calls_of}
    counted = TURN - UNCOUNTED
    for turn in range(-(-warmup // TURN) + -(-repeats // counted)):
        for way, calls in calls_of.items():
            for number in range(TURN):
                call = calls[(turn * TURN + number) % len(calls)]
                start = time.perf_counter()
                call()
                if turn * TURN >= warmup and number >= UNCOUNTED:
                    times[way].append((time.perf_counter() - start) * 1e3)
    return {way: np.array(values) for way, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", nargs="+", default=["1M", "5M"], help="dense parameters")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--encoder", default="mean", help="mean, target_attention or transformer")
    parser.add_argument("--sequences", default="pooled", help="pooled, tokens or cross_attention")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ways = ["eager", *(way for way in arguments.ways if way != "eager")]
    print(f"{arguments.candidates} candidates, {arguments.threads} threads, torch {torch.__version__}\n")
    print("| dense parameters | way | p50 ms | p99 ms | ratio |\n| ---: | --- | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for params in arguments.params:
            run = trained(params, Path(name), arguments.encoder, arguments.sequences)
            torch.set_num_threads(arguments.threads)
            calls_of = scorers(run, Path(name), ways, arguments.candidates, arguments.threads)
            compare(calls_of)
            times = measure(calls_of, arguments.repeats, arguments.warmup)
            base = float(np.median(times["eager"]))
            for way, values in times.items():
                middle, tail = np.percentile(values, [50, 99])
                print(f"| {params} | {way} | {middle:.2f} | {tail:.2f} | {base / middle:.2f} |", flush=True)


if __name__ == "__main__":
    main()
