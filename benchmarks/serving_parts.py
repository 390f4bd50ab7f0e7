"""What the measurements of the server share: a model and a feature store, a server process, and its clients."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
ADMIN_KEY = "benchmark-admin-key"
QUEUE = 32
_PREPARE = """
import json, sys
from pathlib import Path
import unimixer
job = json.loads(sys.argv[1])
if not Path(job["data"]).exists():
    unimixer.prepare(job["source"], job["data"], raw=job["raw"], **job["options"])
if not Path(job["run"]).exists():
    unimixer.train(job["recipe"], folder=job["run"], quiet=True)
"""


class Work:
    """Data, runs, bundles and a feature store below one folder, made by the program of one checkout.

    Args:
        folder: where they are kept between calls.
        root: of the checkout.
        source: of the data, with ``raw`` and ``rows`` as ``unimixer.prepare`` takes them.
        backbone: of the models.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Path = HERE.parent,
        source: str = "synthetic",
        raw: Path | None = None,
        rows: int = 100_000,
        backbone: str = "unimixer-lite",
    ) -> None:
        self.folder, self.root, self.backbone = folder, root, backbone
        self.source, self.raw = source, raw
        self.options = {"rows": rows, "seed": 0} if source == "synthetic" else {}
        self.features = folder / "features.sqlite"
        folder.mkdir(parents=True, exist_ok=True)

    def program(self, *arguments: object) -> None:
        """Run python in the checkout."""
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SystemExit(f"{' '.join(command[:6])}: {done.stderr.strip()[-2000:]}")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root / "src"), "UNIMIXER_ADMIN_KEY": ADMIN_KEY}

    def bundle(self, params: str, steps: int = 20) -> tuple[Path, Path]:
        """Run folder and bundle of a size; weights do not change the time, so it is trained for some steps."""
        name = f"{self.backbone}-{params}-{steps}"
        run, bundle = self.folder / f"run-{name}", self.folder / f"bundle-{name}"
        data = self.folder / "prepared"
        config = self.root / "src" / "unimixer" / "training" / "config.py"
        key = "dataset" if "    dataset: str" in config.read_text() else "store"  # as older versions call it
        recipe = {
            "name": "serving",
            key: str(data),
            "model": {"backbone": self.backbone, "dense_params": params},
            "training": {"max_steps": steps, "batch_size": 512, "threads": 2},
        }
        if not run.exists():
            job = {"data": str(data), "run": str(run), "source": self.source, "options": self.options}
            raw = None if self.raw is None else str(self.raw)
            self.program("-c", _PREPARE, json.dumps({**job, "raw": raw, "recipe": recipe}))
        if not bundle.exists():
            self.program("-m", "unimixer", "export", run, "--out", bundle, "--auc-rows", 2000)
        if not self.features.exists():
            self.program("-m", "unimixer", "store", "build", run, "--out", self.features)
        return run, bundle

    def keys(self, kind: str) -> list[str]:
        """All users, or all items."""
        with sqlite3.connect(self.features) as connection:
            return [key for (key,) in connection.execute(f"SELECT key FROM {kind} ORDER BY key")]

    def bodies(self, bundle: Path, path: Path, *, candidates: int, count: int = 400) -> Path:
        """Bodies of ranking requests, one a line."""
        rng, users, items = random.Random(0), self.keys("users"), self.keys("items")
        columns = context_columns(bundle)
        with path.open("w") as file:
            for _ in range(count):
                context = {name: rng.randrange(3) for name in columns}
                body = {"user": rng.choice(users), "context": context, "items": rng.sample(items, candidates)}
                file.write(json.dumps(body, separators=(",", ":")) + "\n")
        return path


def context_columns(bundle: Path) -> list[str]:
    """Columns of the log with single values that a bundle's features read, apart from the time."""
    schema = json.loads((bundle / "transform" / "transform.json").read_text())["schema"]
    own = [f for f in schema["features"] if f["origin"] == "impressions" and f["transform"] not in ("hour", "weekday")]
    columns = dict.fromkeys(f.get("column") or f["name"] for f in own)
    return [name for name in columns if name != schema["keys"].get("time")]


class Server:
    """``unimixer serve`` on a free port.

    Args:
        work: whose program it runs, and whose feature store.
        bundle: folder, or a link to one.
        options: of the command.
        stages: file that gets the processor time by stage (default: it is not measured).
    """

    def __init__(self, work: Work, bundle: Path, options: Sequence[str], *, stages: Path | None = None) -> None:
        program = ["-m", "unimixer"] if stages is None else [str(HERE / "serving_stages.py"), str(stages)]
        command = [sys.executable, *program, "serve", str(bundle), "--store", str(work.features), "--port", "0"]
        environment = {**work.environment, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=environment)
        self.port, self.failures = 0, 0
        ready = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(120):
            self.process.kill()
            raise SystemExit("the server does not get ready")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def _read(self, ready: threading.Event) -> None:
        for line in self.process.stderr or ():
            try:
                facts = json.loads(line)
            except json.JSONDecodeError:
                print(line, end="", file=sys.stderr)
                continue
            self.port = facts.get("port", self.port)
            self.failures += facts["event"] == "failure"
            if facts["event"] == "ready":
                ready.set()

    def ask(self, bodies: Path, **options: object) -> dict[str, Any]:
        """A client process with these options of ``serving_client.py``."""
        command = [sys.executable, str(HERE / "serving_client.py"), "--port", str(self.port), "--bodies", str(bodies)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1_800)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    def admin(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/admin/{path}", data, {"X-API-Key": ADMIN_KEY})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    @property
    def cpu(self) -> float:
        """Processor time so far, in seconds."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._thread.join()
        time.sleep(0.1)
        return code
