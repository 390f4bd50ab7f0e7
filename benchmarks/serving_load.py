"""The server under load: this checkout, and another one beside it in the same run.

python benchmarks/serving_load.py --against ../old --params 300K --work /tmp/serving

Both servers run at once and are asked by turns, so that noise of the machine meets both:
  saturated   as many requests at once as --connections: answers a second, processor time of an answer
  steady      --rate a second for three times as long, with the prediction log on: p50 and p99 from the moment at
              which a request was due
  overload    four times the saturated rate for longer than the queue holds: answers a second, time of /health/live
The last run of each is with a clock around its stages, which makes the picture, without a version whose scorer the
clock does not know. The client shares the cores with the
servers; its processor time is printed, too. Everything is bounded: about 150 seconds a side with the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving_parts import HERE, QUEUE, Server, Work

OVERLOAD = 4
STEADY = 3
"""Times as long as the other loads."""
STAGES = (
    "scorer",
    "encoding",
    "JSON",
    "prediction log",
    "server's log",
    "garbage collection",
    "network and routes",
    "rest",
)
MEASURES = {
    "saturated: answers/s": "accepted_per_s",
    "saturated: processor ms an answer": "cpu_ms",
    "steady: share answered": "steady_share",
    "steady: p50 ms": "steady_50",
    "steady: p99 ms": "steady_99",
    "overload: answers/s": "overload_per_s",
    "overload: answers/s of the saturated": "overload_share",
    "overload: /health/live p99 ms": "live_99",
    "overload: p99 ms of a refusal": "refused_99",
    "overload: p99 ms of an answer": "answer_99",
    "overload: processor ms a refusal": "refusal_ms",
    "saturated: client's processor ms a request": "client_ms",
    "overload: client's processor ms a request": "client_over_ms",
}


class Side:
    """One checkout: its model, its store, its server."""

    def __init__(self, name: str, root: Path, folder: Path, arguments: argparse.Namespace) -> None:
        self.name, self.arguments, self.folder = name, arguments, folder
        self.commit = _commit(root)
        self.work = Work(folder, root=root, backbone=arguments.backbone, rows=arguments.rows)
        _, self.bundle = self.work.bundle(arguments.params)
        self.bodies = self.work.bodies(self.bundle, folder / "bodies.jsonl", candidates=arguments.candidates)
        self.rounds: list[dict[str, float]] = []

    def start(self, stages: Path | None = None) -> Server:
        log = tempfile.mkdtemp(dir=self.folder, prefix="log-")
        new = (self.work.root / "src" / "unimixer" / "cli" / "replay.py").exists()  # older versions call it a score log
        flag = "--prediction-log" if new else "--score-log"
        options = ["--concurrency", str(self.arguments.concurrency), "--queue", str(QUEUE), flag, log]
        server = Server(self.work, self.bundle, options, stages=stages)
        server.ask(self.bodies, count=400)  # every user and item is met once, as after some minutes
        return server

    def measure(self, server: Server) -> None:
        """One round."""
        asked, before = self.arguments, server.cpu
        full = server.ask(self.bodies, seconds=asked.seconds, connections=asked.connections)
        _check(full, {"200"})
        used = server.cpu - before
        # longer than the others, because few requests are beyond p99; not counted: the log of the full load is written
        steady = server.ask(
            self.bodies, seconds=STEADY * asked.seconds, rate=asked.rate, connections=64, warm=round(2 * asked.rate)
        )
        _check(steady, {"200", "429"})
        rate, before = OVERLOAD * full["accepted_per_s"], server.cpu
        over = server.ask(self.bodies, seconds=asked.seconds, rate=rate, connections=256, probe=0.01)
        _check(over, {"200", "429"})
        answer_ms = used / full["answers"] * 1e3
        answered, refused = (over["statuses"].get(status, 0) for status in ("200", "429"))
        self.rounds.append(
            {
                "accepted_per_s": full["accepted_per_s"],
                "cpu_ms": answer_ms,
                "steady_share": steady["statuses"]["200"] / steady["answers"],
                "steady_50": steady["due_50"],
                "steady_99": steady["due_99"],
                "overload_per_s": over["accepted_per_s"],
                "overload_share": over["accepted_per_s"] / full["accepted_per_s"],
                "live_99": over["live_99"],
                "refused_99": over["refused_99"],
                "answer_99": over["due_99"],
                # what the server takes beyond its answers, each counted as one of the saturated load
                "refusal_ms": ((server.cpu - before) * 1e3 - answered * answer_ms) / max(1, refused),
                "client_ms": full["client_cpu_ms"],
                "client_over_ms": over["client_cpu_ms"],
            }
        )
        print(self.name, json.dumps({key: round(value, 3) for key, value in self.rounds[-1].items()}), flush=True)

    def median(self, key: str) -> float:
        return statistics.median(one[key] for one in self.rounds)

    def stages(self) -> dict[str, float]:
        """Milliseconds of processor time of a saturated request by stage."""
        path = self.folder / "stages.jsonl"
        with self.start(stages=path) as server:
            before = json.loads(path.read_text().splitlines()[-1])
            full = server.ask(self.bodies, seconds=self.arguments.seconds, connections=self.arguments.connections)
            after = json.loads(path.read_text().splitlines()[-1])
            server.stop()
        took = {key: (after[key] - before.get(key, 0.0)) / full["answers"] * 1e3 for key in after if key != "at"}
        process, loop = took.pop("process"), took.pop("loop")
        took["network and routes"] = loop
        took["rest"] = process - sum(took.values())
        return {stage: took.get(stage, 0.0) for stage in STAGES}


def _check(summary: dict[str, Any], allowed: set[str]) -> None:
    if not set(summary["statuses"]) <= allowed or summary["live_failed"]:
        raise SystemExit(f"answers that were not expected: {summary}")


def _commit(root: Path) -> str:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def table(sides: list[Side]) -> str:
    """All measures, and the ratio of the sides where there are two."""
    lines = ["| what | " + " | ".join(side.name for side in sides) + (" | ratio |" if len(sides) == 2 else " |")]
    lines.append("| --- |" + " ---: |" * (len(sides) + (len(sides) == 2)))
    for text, key in MEASURES.items():
        values = [side.median(key) for side in sides]
        cells = [f"{value:.3g}" if value < 1 else f"{value:.2f}" for value in values]
        cells += [f"{values[1] / values[0]:.2f}"] if len(values) == 2 else []
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(path: Path, sides: list[Side], arguments: argparse.Namespace) -> None:
    """Rows by model and commit; a rerun replaces its own."""
    keys = ["backbone", "params", "candidates", "machine", "cores", "commit", "date", "rounds"]
    keys += MEASURES.values()
    rows = list(csv.DictReader(path.open())) if path.exists() else []  # of earlier versions lack some measures
    for side in sides:
        row: dict[str, Any] = {name: getattr(arguments, name) for name in ("backbone", "params", "candidates")}
        row |= {"machine": _machine(), "cores": os.cpu_count(), "commit": side.commit, "rounds": len(side.rounds)}
        row |= {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
        row |= {key: round(side.median(key), 3) for key in MEASURES.values()}
        row = {key: str(value) for key, value in row.items()}
        same = keys[:6]
        rows = [old for old in rows if any(old[key] != row[key] for key in same)] + [row]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def draw(path: Path, stages: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    """One bar a side, cut into stages."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "unimixer", "font.size": 9})
    figure, axes = plt.subplots(figsize=(8, 1.1 + 0.6 * len(stages)), layout="constrained")
    left = dict.fromkeys(stages, 0.0)
    for number, stage in enumerate(STAGES):
        widths = [stages[side][stage] for side in stages]
        axes.barh(list(stages), widths, left=list(left.values()), label=stage, color=f"C{number}")
        left = {side: left[side] + stages[side][stage] for side in stages}
    for side, end in left.items():
        axes.text(end, side, f" {end:.1f} ms, {end - stages[side]['scorer']:.1f} without the scorer", va="center")
    axes.set_xlim(0, 1.45 * max(left.values()))
    axes.set_xlabel(f"processor ms of a request with {arguments.candidates} candidates, saturated")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, default=None, help="another checkout")
    parser.add_argument("--backbone", default="rankmixer")
    parser.add_argument("--params", default="300K")
    parser.add_argument("--rows", type=int, default=100_000, help="of the synthetic log")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second of the steady load")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps runs and bundles between calls")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "serving-load.csv")
    parser.add_argument("--picture", type=Path, default=None, help="SVG of the stages (default: none is made)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends the servers too
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.work or Path(temporary), arguments)


def run(folder: Path, arguments: argparse.Namespace) -> None:
    roots = [("old", arguments.against.resolve())] if arguments.against else []
    roots += [("new", HERE.parent)]
    sides = [Side(name, root, folder / f"{name}-{_commit(root)}", arguments) for name, root in roots]
    with contextlib.ExitStack() as running:
        servers = [(side, running.enter_context(side.start())) for side in sides]
        for number in range(arguments.rounds):
            for side, server in servers[:: 1 if number % 2 else -1]:
                side.measure(server)
        for _, server in servers:
            server.stop()
    if arguments.picture:
        stages = {f"{side.name} ({side.commit})": side.stages() for side in sides}
        for name, took in stages.items():
            print(name, json.dumps({stage: round(value, 3) for stage, value in took.items()}))
        # an older version may name its functions otherwise: all of its time would be "rest"
        draw(arguments.picture, {name: took for name, took in stages.items() if took["scorer"]}, arguments)
    save(arguments.results, sides, arguments)
    print(table(sides))


if __name__ == "__main__":
    main()
