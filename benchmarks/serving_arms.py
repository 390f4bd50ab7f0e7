"""What an experiment of two arms adds to a request: the same server without it and with it, in one run.

python benchmarks/serving_arms.py --work /tmp/serving --rounds 5

Three servers run at once and are asked by turns, with the prediction log on: without an experiment, with two arms that
share its bundle, and with two arms of two bundles. The bundles have the same weights, so a difference is that of
assignment and exposures, and then of the second bundle in memory, and not of the models.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from serving_parts import HERE, Server, Work

SPECIFICATION = """
name: arms
arms: {{old: {{}}, new: {new}}}
start: 2020-01-01
end: 2100-01-01
segments: [tab]
"""
ALONE, SHARED, OWN = "no experiment", "two arms, one bundle", "two arms, two bundles"
MEASURES = ("cpu_ms", "p50_ms", "accepted_per_s")


def measure(server: Server, bodies: Path, seconds: float, connections: int) -> dict[str, float]:
    """One round of as many requests as the server can answer, and one of 20 a second."""
    before = server.cpu
    full = server.ask(bodies, seconds=seconds, connections=connections)
    used = server.cpu - before
    steady = server.ask(bodies, seconds=seconds, rate=20, connections=16, warm=25)
    for found in (full, steady):
        if set(found["statuses"]) != {"200"}:
            raise SystemExit(f"answers that were not expected: {found['statuses']}")
    return {
        "cpu_ms": used / full["answers"] * 1e3,
        "p50_ms": steady["due_50"],
        "accepted_per_s": full["accepted_per_s"],
    }


def run(folder: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    work = Work(folder, backbone=arguments.backbone, rows=arguments.rows)
    _, bundle = work.bundle(arguments.params)
    bodies = work.bodies(bundle, folder / "bodies.jsonl", candidates=arguments.candidates)
    copy = folder / "bundle-copy"
    if not copy.exists():
        shutil.copytree(bundle, copy)
    place = Path(tempfile.mkdtemp(dir=folder))
    options: dict[str, list[str]] = {ALONE: [], SHARED: [], OWN: []}
    for number, (name, new) in enumerate({SHARED: "{}", OWN: f"{{bundle: {copy}}}"}.items()):
        file = place / f"arms-{number}.yaml"
        file.write_text(SPECIFICATION.format(new=new))
        options[name] = ["--experiment", str(file), "--database", f"sqlite:///{place / f'events-{number}.sqlite'}"]
    for name, more in options.items():
        more += ["--prediction-log", str(place / name)]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options}
    servers = {name: Server(work, bundle, more) for name, more in options.items()}
    try:
        for server in servers.values():
            server.ask(bodies, count=400)
        for number in range(arguments.rounds):
            for name in list(servers)[:: 1 if number % 2 else -1]:
                rounds[name].append(measure(servers[name], bodies, arguments.seconds, arguments.connections))
                print(name, json.dumps({key: round(value, 3) for key, value in rounds[name][-1].items()}), flush=True)
        for server in servers.values():
            server.stop()
    finally:
        for server in servers.values():
            server.__exit__()
    return [
        {
            "server": name,
            "backbone": arguments.backbone,
            "params": arguments.params,
            "candidates": arguments.candidates,
            "cores": os.cpu_count(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "rounds": arguments.rounds,
            **{key: round(statistics.median(one[key] for one in found), 3) for key in MEASURES},
        }
        for name, found in rounds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="rankmixer")
    parser.add_argument("--params", default="300K")
    parser.add_argument("--rows", type=int, default=20_000, help="of the synthetic log")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps runs and bundles between calls")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "serving-arms.csv")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends the servers too
    with tempfile.TemporaryDirectory() as temporary:
        rows = run(arguments.work or Path(temporary), arguments)
    with arguments.results.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows[1:]:
        for key in MEASURES:
            alone, arms = (float(str(one[key])) for one in (rows[0], row))
            print(f"{row['server']}: {key} {alone} and {arms}, ratio {arms / alone:.3f}")


if __name__ == "__main__":
    main()
