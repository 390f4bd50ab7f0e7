"""A server that takes a delta a day while it is asked: failed requests, scores, and memory.

    python -m benchmarks.daily_server --rows 200000 --users 100000 --items 20000 --days 10 --rate 30 --seconds 600

Every day the dataset grows, the run goes on, the delta is exported and applied, the store is built and the server
reloads. After each swap its scores are compared with those that the run of the day predicts. The last line has the
answers of the load, which lasts ``--seconds``.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.daily_kills import ENVIRONMENT, ROOT
from benchmarks.daily_world import DAY_MS, FIRST, START_MS, begin, call, log_of
from unimixer.cli import script
from unimixer.predictor import Predictor

KEY = "0123456789abcdef"
CANDIDATES, CHECKED_USERS = 100, 20


def post(port: int, path: str, body: Any = None) -> Any:
    data = b"" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"X-API-Key": KEY}, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def request_of(rng: np.random.Generator, users: int, items: int) -> dict[str, Any]:
    chosen = rng.choice(items, CANDIDATES, replace=False).tolist()
    return {"user": int(rng.integers(users)), "context": {"device": "ios", "price": 20.0}, "items": chosen}


def largest_difference(port: int, run: Path, now: int, users: int, items: int) -> float:
    """Compare answers of the server with the predictions of a run."""
    rng, predictor, worst = np.random.default_rng(now % 1_000_003), Predictor(run, device="cpu"), 0.0
    for _ in range(CHECKED_USERS):
        body = request_of(rng, users, items)
        body["context"]["time_ms"] = now
        answer = post(port, "/v1/rank", body)
        rows = pl.DataFrame({"item_id": body["items"]}).with_columns(user_id=body["user"], **{
            name: pl.lit(value) for name, value in body["context"].items()
        })  # fmt: skip
        expected = predictor.predict(rows)["click"].to_numpy()
        worst = max(worst, float(np.abs(np.asarray(answer["scores"]["click"]) - expected).max()))
    return worst


def memory_mb(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024, 1)  # type: ignore[index]


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def serve(place: Path) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, "-m", "unimixer", "serve", str(place / "current"), "--port", "0"]
    command += ["--store", str(place / "features.sqlite"), "--timeout", "5", "--idle", "600"]
    log = place / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**ENVIRONMENT, "UNIMIXER_ADMIN_KEY": KEY})
    for _ in range(600):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        if any(line["event"] == "ready" for line in lines):
            return process, int(next(line["port"] for line in lines if line["event"] == "listening"))
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def take_day(place: Path, number: int, size: dict[str, int], port: int) -> dict[str, Any]:
    """The steps of the calendar, in this process."""
    day, before = str(FIRST + timedelta(days=number)), str(FIRST + timedelta(days=number - 1))
    raw, run, data = place / "raw" / f"{day}.parquet", place / "runs" / day, place / "data"
    bundles, delta = place / "bundles", place / "deltas" / day
    log_of(number, **size).write_parquet(raw)
    call("data", "extend", data, "--raw", raw)
    call("train", place / "recipe.yaml", "--continue", place / "runs" / before, "--data", data, "--run", run)
    started = time.perf_counter()
    call("export", run, "--data", data, "--delta", bundles / before, "--out", delta)
    exported = time.perf_counter()
    call("bundle", "apply", bundles / before, delta, "--out", bundles / day)
    applied = time.perf_counter()
    store = place / "features.sqlite"
    call("store", "build", run, "--raw", place / "raw", "--other-data", "--out", store, "--overwrite")
    (place / "fresh").symlink_to(Path("bundles") / day)
    (place / "fresh").rename(place / "current")
    begun = time.perf_counter()
    version = post(port, "/admin/reload")["model_version"]
    assert version == json.loads((bundles / day / "manifest.json").read_text())["version"]
    return {
        "day": day,
        "bundle_mb": round(size_mb(bundles / day), 2),
        "delta_mb": round(size_mb(delta), 2),
        "export_s": round(exported - started, 1),
        "apply_s": round(applied - exported, 2),
        "swap_s": round(time.perf_counter() - begun, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    size = {name: getattr(arguments, name) for name in ("rows", "users", "items")}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        begin(place, **size)
        (place / "deltas").mkdir()
        rng = np.random.default_rng(0)
        bodies = [json.dumps(request_of(rng, arguments.users, arguments.items)) for _ in range(1_000)]
        (place / "bodies.jsonl").write_text("\n".join(bodies))
        process, port = serve(place)
        client = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "serving_client.py"), "--port", str(port), "--rate",
             str(arguments.rate), "--bodies", str(place / "bodies.jsonl"), "--count", "10000000", "--seconds",
             str(arguments.seconds)],
            stdout=subprocess.PIPE, env=ENVIRONMENT,
        )  # fmt: skip
        try:
            for number in range(1, arguments.days + 1):
                row = take_day(place, number, size, port)
                now = START_MS + (number + 1) * DAY_MS
                row["difference"] = largest_difference(
                    port, place / "runs" / row["day"], now, arguments.users, arguments.items
                )
                rows.append({**row, "server_mb": memory_mb(process.pid)})
                print(rows[-1], flush=True)
            assert client.stdout is not None
            print(client.stdout.read().decode().splitlines()[-1])
        finally:
            client.kill()
            process.terminate()
            process.wait()
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    script(main)
