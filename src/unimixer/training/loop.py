"""The training loop: one pass after another over the batches, resumable at any step."""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from unimixer.blocks import pop_statistics
from unimixer.data.dataset import Dataset
from unimixer.data.describe import best_reachable
from unimixer.data.stream import training_loader
from unimixer.environment import keep_freed_memory
from unimixer.errors import StoppedError, UnimixerError
from unimixer.features.batch import Batch
from unimixer.io import DiskError
from unimixer.metrics import TaskMetrics, lower_is_better
from unimixer.progress import Bar, audience, progress_bar, say
from unimixer.ranker import count_dense, count_tables
from unimixer.training.checkpoint import TrainState, remove_leftovers
from unimixer.training.evaluation import (
    as_json,
    check_chain,
    check_tasks,
    empty_accumulator,
    evaluate_model,
    soft_columns,
    task_columns,
)
from unimixer.training.model import build_ranker, monitor, numbers_without_effect, pick_device, with_tasks
from unimixer.training.observer import UNOBSERVED, Observer
from unimixer.training.pretrained import PretrainedTable, freeze_rows, read_pretrained, start_tables
from unimixer.training.run import LOG, RunFolder
from unimixer.training.sampling import NegativeSampling
from unimixer.training.schedule import temperature
from unimixer.training.signals import StopRequest, stop_signals
from unimixer.training.step import TrainStep, diverged, first_nonfinite_parameter
from unimixer.training.strategy import UNSHARDED, Strategy
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.tracker import Clock, Meter, RunningAUC, Tracker
from unimixer.training.warm_start import WarmStart


class Trainer:
    """Trains the model of a run folder on its dataset.

    Args:
        run: a folder made by :meth:`RunFolder.create`.
        dataset: the prepared data.
        start_from: run whose best weights are the starting point, unless there is a checkpoint already.
        quiet: print nothing on standard error.
        strategy: how several processes share the model; rank 0 writes the folder.
        observer: hears the evaluations.
    """

    def __init__(
        self,
        run: RunFolder,
        dataset: Dataset,
        *,
        start_from: Path | None = None,
        quiet: bool = False,
        strategy: Strategy = UNSHARDED,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.run, self.dataset, self.recipe, self.quiet, self.observer = run, dataset, run.recipe, quiet, observer
        self.processes = processes = strategy.processes
        config = self.recipe.training
        keep_freed_memory()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.tasks, self.checkpoints = tuple(self.recipe.tasks), run.checkpoints
        for split in ("train", "validation", "test"):
            check_tasks(dataset, split, self.tasks)
        empty_accumulator(dataset, self.tasks, self.recipe.metrics)  # refuses metrics that the data does not allow
        self.device = pick_device(config.device, processes.local_rank if processes.distributed else None)
        torch.manual_seed(config.seed)
        random.seed(config.seed)
        spec = with_tasks(dataset.transform.spec, self.tasks)
        self.model = build_ranker(self.recipe.model, spec, table_device=strategy.table_device)
        sampling, columns = NegativeSampling.of(dataset), task_columns(dataset, self.tasks)
        if sampling is not None:
            sampling.start(self.model, columns)
        begins = latest_checkpoint(self.checkpoints) is None
        strategy.place(self.model, self.recipe, self._warm_start(start_from if begins else None), self.device)
        self.pretrained = self._pretrained()  # the vectors replace the rows of a warm start
        freeze_rows(self.pretrained, self.model)
        self.model.train()
        shards = self.recipe.distributed.data_shards or processes.size
        self.loader = training_loader(
            dataset,
            max_steps=config.max_steps,
            step_batches=config.gradient_accumulation_steps,
            batch_size=config.batch_size,
            shuffle=True,
            seed=config.seed,
            num_workers=config.num_workers,
            shards=processes.shards(shards),
            num_shards=shards,
        )
        per_epoch = -(-len(self.loader) // config.gradient_accumulation_steps)
        self.total_steps = min(config.max_steps or per_epoch * config.epochs, per_epoch * config.epochs)
        self.eval_interval = config.eval_interval or max(1, -(-self.total_steps // 4))
        self.checkpoint_interval = config.checkpoint_interval or self.eval_interval
        self.step = TrainStep(
            self.model,
            self.recipe,
            columns,
            soft_columns=soft_columns(dataset, self.recipe),
            total_steps=self.total_steps,
            checkpoints=self.checkpoints,
            strategy=strategy,
            sampling=sampling,
        )
        self.checkpointer = strategy.checkpointer(run, self.model, self.step.optimizers)
        self.state = TrainState()

    def _pretrained(self) -> list[PretrainedTable]:
        """Start tables from the vectors that the recipe names."""
        if self.recipe.pretrained and self.processes.distributed:
            raise UnimixerError("pretrained: tables that processes share cannot start from vectors; train with one")
        tables = read_pretrained(self.recipe, self.dataset.transform, self.model)
        start_tables(tables, self.model)
        if tables:
            self.run.write_json("pretrained.json", {"tables": [table.facts() for table in tables]})
        return tables

    def _warm_start(self, source: Path | None) -> WarmStart | None:
        if source is None:
            return None
        start = WarmStart(RunFolder(source), self.model, self.dataset.transform)
        start.check_unchanged(RunFolder(self.run.outer).warm_start_facts)
        return start

    # ---- the run --------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one; return the result."""
        first = self.processes.is_rank_zero
        with audience(self.run.folder / LOG if first else None, quiet=self.quiet or not first):
            return self._fit()

    def _fit(self) -> dict[str, Any]:
        processes = self.processes
        processes.on_rank_zero(lambda: remove_leftovers(self.run.folder))
        checkpoint = processes.on_rank_zero(lambda: latest_checkpoint(self.checkpoints))
        if checkpoint is not None:
            self.state = TrainState(**self.checkpointer.load_checkpoint(checkpoint))
        elif self.run.warm_start_facts.get("since") is not None:
            text = f"{self.checkpoints} is empty, and the run began from a checkpoint there; train it again"
            raise UnimixerError(text)
        self.step.earlier_steps = self.state.earlier_steps
        processes.on_rank_zero(lambda: self.run.forget_after(self.state.step))
        total = self.total_steps * self.recipe.training.batch_size * self.recipe.training.gradient_accumulation_steps
        rows = min(total, self.loader.num_rows * self.recipe.training.epochs)
        notes = [table.line() for table in self.pretrained] + check_chain(self.dataset, self.recipe.model.chain)
        for line in notes + numbers_without_effect(self.recipe.training, self.total_steps, self.loader.num_rows):
            say(line)
        first, last = self.state.step + 1, self.total_steps
        say(f"training step {first:,} to {last:,}" if first <= last else "measuring")
        with stop_signals() as stopped, progress_bar("training", rows, done=self.state.samples) as advance:
            silent = not processes.is_rank_zero
            self.tracker = Tracker(self.run, advance, total_steps=last, next_step=first, silent=silent)
            try:
                self._train(advance, stopped, rows)
                return self._finish(stopped)
            except DiskError as error:
                newest = latest_checkpoint(self.checkpoints)
                how = "there is no checkpoint yet, begin anew" if newest is None else f"continue from {newest.name}"
                raise DiskError(f"{error}; {how} with: {self._continue}") from error
            finally:
                self.tracker.close()

    def _train(self, advance: Bar, stopped: StopRequest, rows: int) -> None:
        config, state = self.recipe.training, self.state
        running, clock = RunningAUC(), Clock(state.seconds)
        meter = Meter(clock)
        for batches, waited in self._step_batches():
            outcome = self.step(batches, state.step)
            running.add(outcome.logits, outcome.labels)
            state.step += 1
            state.samples += outcome.rows
            advance(outcome.rows)
            meter.add(len(outcome.labels), outcome.loss, waited)
            last, stop = state.step == self.total_steps, self._stop(stopped)
            if state.step % config.log_every == 0 or last:
                tau = temperature(self.recipe.temperature, state.step - 1, self.total_steps)
                auc, report = running.value(self.processes), meter.report(self.processes)
                values = {**report, "auc": auc, "temperature": tau, **pop_statistics(self.model)}
                values |= {f"loss_weight/{task}": weight for task, weight in self.step.loss_weights().items()}
                left = max(0, rows - state.samples) / report["samples_per_second"]
                self.tracker.steps({"step": state.step, **values}, left)
            with clock.stopped():
                state.seconds = clock.seconds
                if state.step % self.eval_interval == 0 or last:
                    self._evaluate()
                if state.step % self.checkpoint_interval == 0 or last or stop:
                    self._checkpoint()
            if stop:
                raise self._stopped(stopped)
        if self._out_of_patience() and state.step < self.total_steps:
            say(f"stopped early: no gain in {config.patience} evaluations")

    def _step_batches(self) -> Iterator[tuple[list[Batch], float]]:
        """Yield the batches of each optimizer step and the seconds spent waiting for them.

        The state has the position after the step, so that a checkpoint written then continues with the next step.
        """
        config, state = self.recipe.training, self.state
        for epoch in range(state.epoch, config.epochs):
            start = state.batch if epoch == state.epoch else 0
            loaded = self.loader.batches(epoch, start)
            batches: list[Batch] = []
            waited = 0.0
            while state.step < self.total_steps and not self._out_of_patience():
                before = time.perf_counter()
                batch = next(loaded, None)
                waited += time.perf_counter() - before
                if batch is not None:
                    batches.append(batch)
                if batches and (batch is None or len(batches) == config.gradient_accumulation_steps):
                    start += len(batches)
                    state.epoch, state.batch = (epoch, start) if start < len(self.loader) else (epoch + 1, 0)
                    yield batches, waited
                    batches, waited = [], 0.0
                if batch is None:
                    break

    def _out_of_patience(self) -> bool:
        patience = self.recipe.training.patience
        return patience is not None and self.state.evaluations_without_gain >= patience

    def _stop(self, stopped: StopRequest) -> bool:
        """Tell whether any process of the run was asked to stop."""
        return self.processes.sums([float(stopped.is_set())])[0] > 0

    def _stopped(self, request: StopRequest) -> StoppedError:
        return request.error(f"stopped at step {self.state.step}; continue with: {self._continue}")

    @property
    def _continue(self) -> str:
        return f"unimixer train --resume {shlex.quote(str(self.run.outer))}"

    # ---- evaluation and checkpoints -------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self._check_parameters()
        state, (task, metric) = self.state, monitor(self.recipe)
        with self.step.averaged():
            metrics = self._measure("validation")
            value = metrics[task].value(metric)
            if value is None:
                why = "no user has both labels" if metric in ("uauc", "gauc") else "the labels do not allow it"
                raise UnimixerError(f"training.monitor={task}.{metric} cannot be measured: {why}; monitor {task}.auc")
            better = state.best is None or (value < state.best if lower_is_better(metric) else value > state.best)
            state.evaluations_without_gain = 0 if better else state.evaluations_without_gain + 1
            if better:
                state.best, state.best_step = value, state.step
                self.checkpointer.save_best()
        self.tracker.evaluation(state.step, "validation", metrics, "  best" if better else "")
        self.observer.hear(state.step, self.total_steps, self.eval_interval, value)

    def _measure(self, split: str) -> dict[str, TaskMetrics]:
        return evaluate_model(
            self.model,
            self.dataset,
            split,
            self.tasks,
            precision=self.recipe.training.precision,
            metrics=self.recipe.metrics,
            chain=self.recipe.model.chain,
            processes=self.processes,
            scored=self.observer.tested if split == "test" else None,
        )

    def _check_parameters(self) -> None:
        """Raise before weights that are not finite are written."""
        broken = next(filter(None, self.processes.gather(first_nonfinite_parameter(self.model))), None)
        if broken is not None:
            raise diverged(self.state.step, f"parameter {broken!r} is not finite after it", self.checkpoints)

    def _checkpoint(self) -> None:
        self._check_parameters()
        self.checkpointer.save_checkpoint(asdict(self.state), keep=self.recipe.training.keep_checkpoints)

    def _finish(self, stopped: StopRequest) -> dict[str, Any]:
        """Measure the best weights on the held-out parts."""
        self.checkpointer.load_best()
        state, metrics = self.state, dict[str, dict[str, TaskMetrics]]()
        for split in self.observer.splits:
            metrics[split] = self._measure(split)
            if self._stop(stopped):
                raise self._stopped(stopped)
        self.checkpointer.finish()
        if "test" in metrics:
            self.tracker.evaluation(state.best_step, "test", metrics["test"], "  best weights")
        reachable = {split: best_reachable(self.dataset, split) for split in metrics}
        result: dict[str, Any] = {
            "steps": state.step,
            "best_step": state.best_step,
            "samples": state.samples,
            "seconds": round(state.seconds, 3),
            "samples_per_second": round(state.samples / state.seconds, 1) if state.seconds else None,
            "dense_parameters": count_dense(self.model),
            "table_parameters": count_tables(self.model),
            **{split: as_json(values) for split, values in metrics.items()},
            "best_reachable_auc": reachable if any(reachable.values()) else None,
        }
        if self.step.weighting is not None:
            result["loss_weights"] = self.step.loss_weights()
        if self.processes.distributed:
            result["processes"] = self.processes.size
        self.processes.on_rank_zero(lambda: self.run.write_json("result.json", result))
        return result
