"""Runs the program with a clock of processor time around the stages of a ranking request; see ``serving_load.py``.

python benchmarks/serving_stages.py STAGES.jsonl serve BUNDLE --store STORE ...

Every quarter of a second it adds a line to STAGES.jsonl: seconds by stage since the start. What a stage calls is not
part of it where that is a stage itself. The clock takes about 0.02 ms of a request. It works with older versions of the
program too: a function or a module that a version lacks is left out.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

EVERY_S = 0.25
# functions that others import by name come first: they are replaced before anybody does
STAGES = {
    "unimixer.serving.encoding.feature_hashes:field_hashes": "prediction log",
    "unimixer.serving.errors:read_json": "JSON",
    "orjson:dumps": "JSON",
    "unimixer.serving.encoding.parse_request:CallReader.read": "JSON",
    "unimixer.serving.encoding.request:RequestEncoder.encode": "encoding",
    "unimixer.serving.metrics:Values.add": "encoding",
    "unimixer.bundles.runners:OnnxRunner.__call__": "scorer",
    "unimixer.bundles.kernel_runner:KernelRunner.__call__": "scorer",
    "unimixer.serving.prediction_log.parquet:ParquetSink.write": "prediction log",
    "unimixer.serving.prediction_log.writer:PredictionLog.add": "prediction log",
    "unimixer.serving.prediction_log.writer:PredictionLog._make": "prediction log",
    "unimixer.serving.log:Log._write": "server's log",
    "unimixer.serving.log:Log.__call__": "server's log",
}


class Clock:
    """Processor time by stage, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = threading.local()
        self._collecting = 0.0

    def around(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        inner = self._inner

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before, inner.seconds, started = getattr(inner, "seconds", 0.0), 0.0, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.thread_time() - started
                self.seconds[stage] += taken - inner.seconds
                inner.seconds = before + taken

        return timed

    def collection(self, phase: str, _: object) -> None:
        """Garbage collection, as the interpreter tells of it."""
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            taken = time.thread_time() - self._collecting
            self.seconds["garbage collection"] += taken
            self._inner.seconds = getattr(self._inner, "seconds", 0.0) + taken

    def write(self, path: Path) -> None:
        """One line every quarter of a second, for ever."""
        loop = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        with path.open("w") as file:
            while True:
                seconds = {**self.seconds, "process": time.process_time(), "loop": time.clock_gettime(loop)}
                file.write(json.dumps({"at": time.time(), **seconds}) + "\n")
                file.flush()
                time.sleep(EVERY_S)


def main() -> None:
    path, clock = Path(sys.argv.pop(1)), Clock()
    for target, stage in STAGES.items():
        module, _, names = target.partition(":")
        *owners, name = names.split(".")
        try:
            owner: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in owners:
            owner = getattr(owner, part)
        if hasattr(owner, name):
            setattr(owner, name, clock.around(getattr(owner, name), stage))
    gc.callbacks.append(clock.collection)
    threading.Thread(target=clock.write, args=(path,), daemon=True).start()
    from unimixer.cli import main as program

    sys.argv[0] = "unimixer"
    program()


if __name__ == "__main__":
    main()
