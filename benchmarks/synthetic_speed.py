"""Rows a second of the synthetic world's stream: one row of CSV."""

from __future__ import annotations

import argparse
import time

import torch

from unimixer.data.synthetic import World, WorldConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--difficulty", default="easy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    world = World(WorldConfig(num_rows=arguments.rows, difficulty=arguments.difficulty), arguments.device)
    begun = time.perf_counter() - start
    speeds, clicks = [], 0
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        clicks = sum(int(block["click"].sum()) for block in world.impressions())
        speeds.append(arguments.rows / (time.perf_counter() - start))
    print(
        "benchmark,difficulty,rows,device,threads,start_seconds,rows_per_second_best,rows_per_second_median,click_rate"
    )
    print(
        f"synthetic,{arguments.difficulty},{arguments.rows},{arguments.device},{arguments.threads},{begun:.2f},"
        f"{max(speeds):.0f},{sorted(speeds)[len(speeds) // 2]:.0f},{clicks / arguments.rows:.4f}"
    )


if __name__ == "__main__":
    main()
