"""Rows a second of the synthetic world and of a wide one: a row of CSV each.

The wide world has fields of 64 ids in 16 groups, and 96 pairs, 96 triples and 48 quads of them interact.
"""

from __future__ import annotations

import argparse
import time

import torch

from unimixer.cli import script
from unimixer.data.synthetic import WorldConfig, draw_world

COLUMNS = "world,rows,device,threads,start_seconds,rows_per_second_best,rows_per_second_median,click_rate"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--difficulty", default="easy")
    parser.add_argument("--fields", type=int, default=64, help="of the wide world, a multiple of 16; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(COLUMNS)
    worlds = {arguments.difficulty: WorldConfig(num_rows=arguments.rows, difficulty=arguments.difficulty)}
    if arguments.fields:
        worlds[f"wide-{arguments.fields}"] = wide(arguments.rows, arguments.fields)
    for name, config in worlds.items():
        print(f"{name},{measure(config, arguments)}", flush=True)


def wide(rows: int, num_fields: int) -> WorldConfig:
    """Return the settings of the wide world."""
    return WorldConfig(
        num_rows=rows,
        num_fields=num_fields,
        latent_dim=6,
        num_pairs=96,
        num_triples=96,
        num_quads=48,
        num_groups=16,
        like_rate=0,
        shares=(0.2, 0.35, 0.3, 0.15, 0),
    )


def measure(config: WorldConfig, arguments: argparse.Namespace) -> str:
    """Return the columns of one world after its name."""
    start = time.perf_counter()
    world = draw_world(config, arguments.device)
    begun = time.perf_counter() - start
    speeds, clicks = [], 0
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        clicks = sum(int(block["click"].sum()) for block in world.impressions())
        speeds.append(config.num_rows / (time.perf_counter() - start))
    return (
        f"{config.num_rows},{arguments.device},{arguments.threads},{begun:.2f},"
        f"{max(speeds):.0f},{sorted(speeds)[len(speeds) // 2]:.0f},{clicks / config.num_rows:.4f}"
    )


if __name__ == "__main__":
    script(main)
