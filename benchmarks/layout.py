"""Time of a mixer stack with its samples last in memory against the plain layout, forward and backward, by turns.

python benchmarks/layout.py --threads 2
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch

from unimixer.backbones import Backbone, build_backbone
from unimixer.cli import script
from unimixer.cli.output import markdown
from unimixer.ops import layout

STACKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unimixer-lite", {"hidden_dim": 128}),
    ("unimixer-lite", {"hidden_dim": 128, "ffn": "gelu"}),
    ("rankmixer", {"hidden_dim": 70}),
    ("rankmixer", {"hidden_dim": 256, "ffn": "swiglu", "norm": "rms"}),
)
LAYOUTS = {"plain": 2**62, "batch last": layout.SMALLEST_BATCH}
"""The smallest batch that is laid out anew."""


def seconds(backbone: Backbone, tokens: torch.Tensor) -> float:
    backbone.zero_grad()
    start = time.perf_counter()
    backbone(tokens).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 2048])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name, options in STACKS:
        torch.manual_seed(0)
        backbone = build_backbone(name, num_tokens=16, token_dim=64, **options)
        for batch in arguments.batches:
            tokens = torch.randn(batch, 16, 64, requires_grad=True)
            times: dict[str, list[float]] = {form: [] for form in LAYOUTS}
            for _ in range(arguments.rounds + 2):
                for form, smallest in LAYOUTS.items():
                    layout.SMALLEST_BATCH = smallest
                    times[form].append(seconds(backbone, tokens))
            plain, last = (median(values[2:]) for values in times.values())  # the first two rounds warm up
            shown = ", ".join(f"{key} {value}" for key, value in options.items())
            rows.append([name, shown, batch, f"{plain * 1e3:.1f}", f"{last * 1e3:.1f}", f"{plain / last:.2f}"])
    print(markdown(["stack", "options", "batch", "plain, ms", "batch last, ms", "ratio"], rows, left=2))


if __name__ == "__main__":
    script(main)
