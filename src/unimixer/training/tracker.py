"""Report a run: to its metrics file, to the trackers of its recipe, and to the terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from unimixer.errors import explain, first_line
from unimixer.metrics import TaskMetrics, auc
from unimixer.progress import Bar, duration, say
from unimixer.training.process_group import SINGLE_PROCESS, ProcessGroup
from unimixer.training.run import RunFolder
from unimixer.training.sinks import Sink, open_sinks

WINDOW_ROWS = 20_000
"""The AUC shown during training is that of the last rows, each scored before the update that it is part of."""
LINE_SECONDS = 5.0
"""Minimum seconds between two lines about steps, so that the log of a long run stays small."""


class Clock:
    """Measures the seconds of training, without evaluations and checkpoints, over all processes that resumed a run."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._since = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return time.perf_counter() - self._since

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock inside the block."""
        before = self.seconds
        yield
        self._since = time.perf_counter() - before


class Meter:
    """Measures the mean loss, the speed and the share of waiting for data since the last report."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._restart()

    def _restart(self) -> None:
        self._begin, self._rows, self._waited = self._clock.seconds, 0, 0.0
        self._losses: list[torch.Tensor] = []

    def add(self, rows: int, loss: torch.Tensor, waited: float) -> None:
        """Add a step."""
        self._rows += rows
        self._waited += waited
        self._losses.append(loss)

    def report(self, processes: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
        """Report the steps since the last report, of all processes."""
        loss = float(torch.stack(self._losses).mean())  # before the time, because a GPU finishes its steps here
        seconds = self._clock.seconds - self._begin
        values = {
            "loss": loss,
            "samples_per_second": self._rows / seconds,
            "data_wait": min(1.0, self._waited / seconds),
        }
        self._restart()
        return values if processes.size == 1 else _merge_reports(processes.gather(values))


def _merge_reports(ranks: list[dict[str, float]]) -> dict[str, Any]:
    """Merge the reports of all processes: losses add up, and all processes wait for the slowest."""
    speeds, waits = [rank["samples_per_second"] for rank in ranks], [rank["data_wait"] for rank in ranks]
    return {
        "loss": sum(rank["loss"] for rank in ranks),
        "samples_per_second": sum(speeds),
        "data_wait": max(waits),
        "samples_per_second_by_rank": speeds,
        "data_wait_by_rank": waits,
    }


class RunningAUC:
    """Measures the AUC of the first task over a sliding window of predictions."""

    def __init__(self) -> None:
        self._parts: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._rows = 0

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the first task's column of a batch."""
        self._parts.append((logits[:, 0], labels[:, 0]))
        self._rows += len(logits)
        while self._rows - len(self._parts[0][0]) >= WINDOW_ROWS:
            self._rows -= len(self._parts.popleft()[0])

    def value(self, processes: ProcessGroup = SINGLE_PROCESS) -> float | None:
        """Compute the AUC over the windows of all processes; None while they have only one class."""
        window = (
            torch.cat([part[0] for part in self._parts]).cpu().numpy(),
            torch.cat([part[1] for part in self._parts]).cpu().numpy(),
        )
        windows = processes.collect(window)
        if not windows:
            return None
        logits, labels = (np.concatenate(parts) for parts in zip(*windows, strict=True))
        if not np.isfinite(logits).all() or labels.min() == labels.max():
            return None
        return auc(logits, labels)


class Tracker:
    """Writes the reports of a run; of several processes rank 0 writes, and the others are silent.

    Args:
        run: the folder of the run.
        advance: the progress bar of the training.
        total_steps: steps of the whole run.
        next_step: the step that comes next.
        silent: whether this process writes nothing.
    """

    def __init__(
        self, run: RunFolder, advance: Bar, *, total_steps: int, next_step: int = 1, silent: bool = False
    ) -> None:
        self._run, self._advance, self._total_steps, self._silent = run, advance, total_steps, silent
        self._last_line: float | None = None
        self._sinks: list[Sink] = [] if silent else open_sinks(run, next_step)

    def steps(self, values: dict[str, Any], seconds_left: float | None = None) -> None:
        """Report progress since the last call."""
        if self._silent:
            return
        self._run.log({"kind": "train", **values})
        self._scalars("train", values)
        shown = [f"loss {values['loss']:.4f}"]
        if values["auc"] is not None:
            shown.append(f"AUC {values['auc']:.4f}")
        shown.append(f"{values['samples_per_second']:,.0f} samples/s, {values['data_wait']:.0%} waiting for data")
        self._advance(0, "  ".join(shown))
        step, now = values["step"], time.monotonic()
        if self._last_line is None or now - self._last_line >= LINE_SECONDS or step == self._total_steps:
            self._last_line = now
            left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
            say(f"step {step:>7,} of {self._total_steps:,}  {'  '.join(shown)}{left}", below_a_bar=True)

    def evaluation(self, step: int, split: str, metrics: dict[str, TaskMetrics], note: str = "") -> None:
        """Report an evaluation."""
        if self._silent:
            return
        for task, values in metrics.items():
            numbers = {k: v for k, v in values.as_dict().items() if v is not None}
            self._run.log({"kind": split, "step": step, "task": task, **numbers})
            self._scalars(f"{split}/{task}", {"step": step, **numbers})
            users = "" if values.uauc is None else f"  UAUC {values.uauc:.4f}"
            excess = "" if values.excess_log_loss is None else f"  excess log loss {values.excess_log_loss:.5f}"
            asked = "".join(f"  {name} {value:.4f}" for name, value in values.asked.items() if value is not None)
            label = f"step {step:>7,}  {split:<10} {task:<12}"
            say(f"{label} AUC {values.auc:.4f}{users}  log loss {values.log_loss:.4f}{excess}{asked}{note}")

    def close(self) -> None:
        """Let all trackers write what is left."""
        for sink in list(self._sinks):
            with self._allowed_to_fail(sink):
                sink.close()

    def _scalars(self, prefix: str, values: dict[str, Any]) -> None:
        numbers = {
            f"{prefix}/{name}": value
            for name, value in values.items()
            if name != "step" and isinstance(value, int | float)
        }
        for sink in list(self._sinks):
            with self._allowed_to_fail(sink):
                sink.scalars(numbers, values["step"])

    @contextmanager
    def _allowed_to_fail(self, sink: Sink) -> Iterator[None]:
        """Go on without a tracker whose files cannot be written, and say so."""
        try:
            yield
        except Exception as error:  # trackers of others have errors of their own, and none is worth a run
            self._sinks.remove(sink)
            say(f"the run goes on without {sink.name}: {explain(error) or first_line(error)}")
