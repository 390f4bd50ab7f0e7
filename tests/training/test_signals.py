"""Ctrl-C and SIGTERM end a run with a checkpoint and one sentence."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from own_process import unimixer
from tiny import tiny_recipe

from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml
from unimixer.training.run import RunFolder
from unimixer.training.signals import stop_signals
from unimixer.training.step import TrainStep
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import resume, train


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with Ctrl-C ignored, and tests inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_asks_and_the_second_acts_at_once() -> None:
    with stop_signals() as stopped:
        assert not stopped.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stopped.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signal_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_trains_without_signal_handlers() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_signals() as stopped:
            seen.append(stopped.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_sigterm_and_sigint_leave_a_checkpoint_and_the_command_that_continues(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("training.epochs=4000", "training.batch_size=32", "training.eval_interval=100000")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_yaml(tiny_recipe(toy_folder, *overrides)))
    with ExitStack() as started:
        processes = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            run = tmp_path / f"a run {number.name}"
            processes[number] = run, started.enter_context(unimixer("train", recipe, "--run", run))
        for number, (run, process) in processes.items():
            deadline = time.monotonic() + 60
            while process.poll() is None and not (run.exists() and RunFolder(run).history()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            checkpoint = latest_checkpoint(run / "checkpoints")
            assert checkpoint is not None, err
            step = int(checkpoint.name.removeprefix("step-"))
            assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75}[number]
            assert out == ""
            assert (
                err.splitlines()[-1] == f"error: stopped at step {step}; continue with: unimixer train --resume '{run}'"
            )


def test_a_run_stopped_in_its_first_stage_is_continued_as_a_whole(toy_folder: Path, tmp_path: Path) -> None:
    original = TrainStep.__call__

    def interrupted(self: TrainStep, *args: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return original(self, *args)  # type: ignore[arg-type]

    recipe = tiny_recipe(toy_folder, "temperature.schedule=two-stage", "training.max_steps=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", interrupted)
        with pytest.raises(UnimixerError, match=rf"stopped at step 1; .* --resume {tmp_path}/run$"):
            train(recipe, folder=tmp_path / "run", quiet=True)
    assert (resume(tmp_path / "run", quiet=True).result or {})["steps"] == 3
