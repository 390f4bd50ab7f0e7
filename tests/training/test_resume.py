"""A run killed anywhere and resumed ends in the same bits as one that was never interrupted."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killed import train_killed
from needs import needs_torchrec
from tiny import assert_equal_tensors, facts_of, logged, tiny_values

from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import WARM_UP, resume, train

ACCUMULATED = (
    *(
        "training.gradient_accumulation_steps=3",
        "training.epochs=2",
        "training.eval_interval=3",
        "temperature.schedule=linear",
    ),
    "training.seed=5",
)
"""Eight steps: the last batch of an epoch is a group of its own, and both epochs end between evaluations."""
THREADED = (
    *("training.num_workers=2", "training.epochs=2", "optimizer.sparse=rowwise_adagrad", "optimizer.decay=cosine"),
    *("optimizer.warmup_steps=3", "training.checkpoint_interval=3"),
    *(
        "model.managed_embeddings={item_id: 12}",
        "optimizer.eviction={item_id: {policy: distance_lfu, eviction_interval: 5}}",
    ),
)
TWO_STAGES = ("temperature.schedule=two-stage", "training.max_steps=6", "training.eval_interval=3")
EARLY = ("training.patience=1", "optimizer.dense_lr=1.0", "training.eval_interval=2", "training.epochs=4")


@pytest.fixture(scope="module")
def whole(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs by their overrides."""
    done: dict[tuple[str, ...], RunFolder] = {}

    def get(overrides: tuple[str, ...]) -> RunFolder:
        if overrides not in done:
            recipe = parse(Recipe, tiny_values(toy_folder, *overrides), where="recipe")
            done[overrides] = train(recipe, folder=tmp_path_factory.mktemp("whole") / "run", quiet=True)
        return done[overrides]

    return get


def assert_same_end(resumed: RunFolder, whole: RunFolder) -> None:
    ends = [latest_checkpoint(run.folder / "checkpoints") for run in (resumed, whole)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].name == ends[1].name
    assert_equal_tensors(ends[0], ends[1])  # weights, optimizers, random states
    assert_equal_tensors(resumed.folder / "best", whole.folder / "best")
    assert facts_of(resumed) == facts_of(whole)
    assert logged(resumed) == logged(whole)
    assert set(Counter(line[:3] for line in logged(resumed)).values()) == {1}  # no step twice
    assert not list(resumed.folder.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "overrides", [ACCUMULATED, pytest.param(THREADED, marks=needs_torchrec)], ids=["accumulated", "threaded"]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_a_random_step_resumes_bit_for_bit(
    overrides: tuple[str, ...], seed: int, toy_folder: Path, tmp_path: Path, whole: Any
) -> None:
    steps = facts_of(whole(overrides))["steps"]
    low, high = [(1, 3), (4, steps), (1, steps)][seed]  # before the first checkpoint, after it, anywhere
    step = random.Random(seed).randint(low, high)
    train_killed(tiny_values(toy_folder, *overrides), tmp_path / "run", "step", step)
    assert (latest_checkpoint(tmp_path / "run" / "checkpoints") is None) == (step <= 3)
    assert_same_end(resume(tmp_path / "run", quiet=True), whole(overrides))


@pytest.mark.parametrize(
    ("place", "call"),
    [
        ("evaluation", 2),
        ("best weights", 1),
        ("checkpoint", 1),  # before the first checkpoint is whole
        ("checkpoint", 5),  # the second one, between weights and optimizers
        ("checkpoint's end", 2),
        ("log", 7),  # in the middle of a line
        ("log", 10),  # in the middle of the line of an evaluation
        ("log", 16),  # of the test
        ("final weights", 1),
        ("evaluation", 5),  # of the best weights
        ("result", 1),
    ],
)
def test_a_run_killed_while_it_writes_resumes_bit_for_bit(
    place: str, call: int, toy_folder: Path, tmp_path: Path, whole: Any
) -> None:
    train_killed(tiny_values(toy_folder, *ACCUMULATED), tmp_path / "run", place, call)
    assert_same_end(resume(tmp_path / "run", quiet=True), whole(ACCUMULATED))


def test_a_run_killed_again_and_again_resumes_bit_for_bit(toy_folder: Path, tmp_path: Path, whole: Any) -> None:
    for place, call in (("step", 6), ("checkpoint", 2), ("log", 6), ("evaluation", 1)):
        train_killed(tiny_values(toy_folder, *ACCUMULATED), tmp_path / "run", place, call)
    assert_same_end(resume(tmp_path / "run", quiet=True), whole(ACCUMULATED))


@pytest.mark.parametrize(("place", "call"), [("step", 5), ("result", 1), ("step", 8), ("step", 11)])
def test_a_two_stage_run_resumes_in_either_stage(
    place: str, call: int, toy_folder: Path, tmp_path: Path, whole: Any
) -> None:
    train_killed(tiny_values(toy_folder, *TWO_STAGES), tmp_path / "run", place, call)
    resumed, uninterrupted = resume(tmp_path / "run", quiet=True), whole(TWO_STAGES)
    assert_same_end(resumed, uninterrupted)
    assert_same_end(RunFolder(resumed.folder / WARM_UP), RunFolder(uninterrupted.folder / WARM_UP))


@pytest.mark.parametrize("place", ["final weights", "checkpoint's end"])
def test_a_run_that_was_to_stop_early_takes_no_further_step_when_resumed(
    place: str, toy_folder: Path, tmp_path: Path, whole: Any
) -> None:
    uninterrupted = whole(EARLY)
    steps = facts_of(uninterrupted)["steps"]
    assert steps < 40 - 8  # four epochs of ten steps: it did stop early
    call = 1 if place == "final weights" else steps // 2
    train_killed(tiny_values(toy_folder, *EARLY), tmp_path / "run", place, call)
    assert_same_end(resume(tmp_path / "run", quiet=True), uninterrupted)


def test_a_warm_start_survives_a_kill_before_the_first_checkpoint(toy_folder: Path, tmp_path: Path, whole: Any) -> None:
    source = whole(TWO_STAGES).folder
    recipe = parse(Recipe, tiny_values(toy_folder), where="recipe")
    uninterrupted = train(recipe, folder=tmp_path / "whole", start_from=source, quiet=True)
    train_killed(tiny_values(toy_folder), tmp_path / "run", "step", 2, start_from=source)
    assert_same_end(resume(tmp_path / "run", quiet=True), uninterrupted)


def test_resuming_a_finished_run_changes_nothing(toy_folder: Path, whole: Any) -> None:
    run = whole(ACCUMULATED)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    assert facts_of(resume(run.folder, quiet=True)) == facts_of(run)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
