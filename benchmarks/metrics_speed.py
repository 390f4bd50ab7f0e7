"""Time of AUC + UAUC + GAUC over float32 scores: one row of CSV."""

from __future__ import annotations

import argparse
import time

import numpy as np

from unimixer.metrics import auc, user_auc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(arguments.rows, dtype=np.float32)
    labels = (rng.random(arguments.rows) < 1 / (1 + np.exp(-scores))).astype(np.float32)
    users = rng.zipf(1.3, arguments.rows).clip(max=arguments.users)
    times = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        area = auc(scores, labels)
        by_user = user_auc(scores, labels, users)
        mean, weighted = by_user.uauc, by_user.gauc
        times.append(time.perf_counter() - start)
    print("benchmark,rows,users,seconds_best,seconds_median,auc,uauc,gauc")
    print(
        f"metrics,{arguments.rows},{len(np.unique(users))},{min(times):.2f},{sorted(times)[len(times) // 2]:.2f},"
        f"{area:.6f},{mean:.6f},{weighted:.6f}"
    )


if __name__ == "__main__":
    main()
