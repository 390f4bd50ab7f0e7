"""The demo and an epoch of the KuaiRand-Pure sample by two checkouts: wall time, peak memory, losses.

python benchmarks/before_after.py OLD_CHECKOUT --raw KUAIRAND_SAMPLE --rounds 3

Every command is a process of its own; rounds take turns, the older checkout first and then the newer one first. Memory
is the largest that the process itself held. The losses of a recipe are compared step by step: float32 sums differ in
their last digits from one order of additions to another, and training carries such differences on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unimixer.cli import script
from unimixer.cli.output import markdown

HERE = Path(__file__).parent
NAMES = ("before", "after")


@dataclass(frozen=True)
class Measured:
    """One command: seconds of the clock, MB at most, and the losses of its run by step."""

    seconds: float
    memory: float
    losses: dict[int, float]


def run(root: Path, *arguments: object, threads: int) -> tuple[float, float]:
    """Wall time and peak memory of ``unimixer`` from the sources of a checkout.

    Raises:
        SystemExit: the command failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "unimixer", *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as told:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=root, stdout=told, stderr=told)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)} failed: {told.read().strip()[-800:]}")
    return seconds, usage.ru_maxrss / 1024


def losses_of(folder: Path) -> dict[int, float]:
    """The training losses that a run noted, by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line.get("kind") == "train"}


def recipe_of(root: Path, name: str) -> str:
    """A recipe by its name; older checkouts keep recipes in a folder at the root."""
    old = root / "recipes" / f"{name}.yaml"
    return str(old) if old.exists() else name


def measure(root: Path, job: str, data: Path, folder: Path, threads: int) -> Measured:
    """Run one job of a checkout into a new folder."""
    if job == "demo":
        return Measured(*run(root, "demo", "--out", folder, threads=threads), {})
    settings = [f"training.threads={threads}"]
    spent = run(root, "train", recipe_of(root, job), *settings, "--data", data, "--run", folder, threads=threads)
    return Measured(*spent, losses_of(folder))


def furthest(before: dict[int, float], after: dict[int, float]) -> tuple[float, float, int]:
    """The largest relative difference of losses in the first and in all steps that both noted, and how many."""
    steps = sorted(before.keys() & after.keys())
    if not steps:
        return float("nan"), float("nan"), 0
    apart = [abs(after[step] - before[step]) / before[step] for step in steps]
    return apart[0], max(apart), len(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the older checkout")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the KuaiRand-Pure sample")
    parser.add_argument("--jobs", nargs="+", default=["demo", "kuairand-rankmixer"], help="'demo', or names of recipes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    roots = dict(zip(NAMES, (arguments.old.resolve(), HERE.parent), strict=True))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, root in roots.items():
            prepare = ("data", "prepare", "kuairand-pure", "--raw", arguments.raw.resolve(), "--out", folder / name)
            run(root, *prepare, threads=arguments.threads)
        for job in arguments.jobs:
            done: dict[str, list[Measured]] = {name: [] for name in NAMES}
            for number in range(arguments.rounds):
                for name in NAMES[:: 1 if number % 2 == 0 else -1]:
                    out = folder / f"{job}-{name}-{number}"
                    done[name].append(measure(roots[name], job, folder / name, out, arguments.threads))
                    print(f"{job} {name}: {done[name][-1].seconds:.1f} s, {done[name][-1].memory:.0f} MB", flush=True)
            seconds = [median(one.seconds for one in done[name]) for name in NAMES]
            memory = [median(one.memory for one in done[name]) for name in NAMES]
            ratios = sorted(b.seconds / a.seconds for a, b in zip(done["before"], done["after"], strict=True))
            first, most, steps = furthest(done["before"][0].losses, done["after"][0].losses)
            losses = f"{first:.1e} first, {most:.1e} at most, of {steps}" if steps else "-"
            times = [*(f"{value:.1f}" for value in seconds), f"{median(ratios):.2f}"]
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            rows.append([job, *times, spread, *(f"{value:.0f}" for value in memory), losses])
    heads = ["job", "before, s", "after, s", "ratio", "", "before, MB", "after, MB", "losses apart (relative)"]
    print(markdown(heads, rows))


if __name__ == "__main__":
    script(main)
