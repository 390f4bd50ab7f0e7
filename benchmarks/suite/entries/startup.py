"""Time a process until it has imported Python, torch, this package, or printed the command line's help."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import torch
from torch import Tensor

from benchmarks.suite.base import Benchmark, Case, Prepared, Setting

COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import torch, then unimixer": ("-c", "import torch, unimixer"),
    "import torch, then the ranker": ("-c", "import torch, unimixer.ranker"),
    "import unimixer": ("-c", "import unimixer"),
    "unimixer --help": ("-m", "unimixer", "--help"),
    "python alone": ("-c", "pass"),
}


def inputs(case: Case, setting: Setting) -> None:
    """Make no inputs: every run is a fresh process."""


def _process(_: None, *, arguments: tuple[str, ...]) -> Prepared:
    def run() -> int:
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode

    def results() -> dict[str, Tensor]:
        return {"exit code": torch.tensor(run())}

    return Prepared(run, results)


BENCHMARKS = (
    Benchmark(
        name="startup",
        measures="a fresh process until it has imported, or printed its help",
        inputs=inputs,
        implementations={name: partial(_process, arguments=arguments) for name, arguments in COMMANDS.items()},
        cases=(Case.of(process="fresh"),),
        devices=("cpu",),
        memory=False,
    ),
)
