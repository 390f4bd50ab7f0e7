"""The loop: same seed same numbers, when it evaluates, stops and refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_equal_tensors, facts_of, logged, tiny_recipe
from torch import Tensor

from unimixer import environment
from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.training import model as training_model
from unimixer.training import tracker
from unimixer.training.loop import Trainer
from unimixer.training.model import load_ranker
from unimixer.training.run import LOG, RunFolder
from unimixer.training.step import TrainStep
from unimixer.training.tensor_files import latest_checkpoint
from unimixer.training.train import resume, train


def lines(run: RunFolder, kind: str, task: str | None = None) -> list[dict[str, Any]]:
    return [line for line in run.history() if line["kind"] == kind and line.get("task") == task]


def test_same_seed_same_bits_and_another_seed_other_ones(toy_folder: Path, tmp_path: Path) -> None:
    seeds = {"a": 1, "b": 1, "c": 2}
    runs = {
        name: train(tiny_recipe(toy_folder, f"training.seed={seed}"), folder=tmp_path / name, quiet=True)
        for name, seed in seeds.items()
    }
    assert_equal_tensors(runs["a"].folder / "best", runs["b"].folder / "best")
    assert logged(runs["a"]) == logged(runs["b"])
    assert facts_of(runs["a"]) == facts_of(runs["b"])
    assert lines(runs["a"], "train")[0]["loss"] != lines(runs["c"], "train")[0]["loss"]


def test_the_number_of_workers_changes_no_bit(toy_folder: Path, tmp_path: Path) -> None:
    runs = [
        train(tiny_recipe(toy_folder, f"training.num_workers={n}"), folder=tmp_path / str(n), quiet=True)
        for n in (0, 3)
    ]
    assert_equal_tensors(runs[0].folder / "best", runs[1].folder / "best")


def test_a_model_learns_the_small_world(toy_folder: Path, tmp_path: Path) -> None:
    overrides = (
        "training.epochs=6",
        "optimizer.dense_lr=0.01",
        "optimizer.embedding_lr=0.03",
        "training.batch_size=64",
    )
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["validation"]["is_click"]["auc"] > 0.65
    assert lines(run, "train")[-1]["loss"] < lines(run, "train")[0]["loss"] - 0.1


def test_the_default_evaluates_four_times_and_at_the_end(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, "training.eval_interval=null"), folder=tmp_path / "run", quiet=True)
    steps = math.ceil(facts_of(run)["samples"] / 128)
    quarter = math.ceil(steps / 4)
    expected = [*range(quarter, steps, quarter), steps]
    assert [line["step"] for line in lines(run, "validation", "is_click")] == expected
    assert facts_of(run)["steps"] == steps


def test_max_steps_ends_the_run_there(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, "training.max_steps=3"), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["steps"] == 3
    assert facts_of(run)["samples"] == 3 * 128
    assert [line["step"] for line in lines(run, "train")] == [1, 2, 3]


def test_max_steps_beyond_the_epochs_changes_nothing(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, "training.max_steps=100000"), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["steps"] == math.ceil(facts_of(run)["samples"] / 128)


def test_every_row_of_every_epoch_is_a_sample(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("training.epochs=2", "training.gradient_accumulation_steps=3")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["samples"] == 2 * Dataset(toy_folder).summary("train").rows


def script(monkeypatch: pytest.MonkeyPatch, values: list[float], metric: str) -> None:
    """Let evaluations on validation report these values, one after the other."""
    from dataclasses import replace

    from unimixer.training import loop

    original, rest = loop.evaluate_model, list(values)

    def scripted(model: Any, dataset: Dataset, split: str, tasks: tuple[str, ...], **options: Any) -> Any:
        metrics = original(model, dataset, split, tasks, **options)
        if split == "validation" and rest:
            metrics["is_click"] = replace(metrics["is_click"], **{metric: rest.pop(0)})
        return metrics

    monkeypatch.setattr(loop, "evaluate_model", scripted)


@pytest.mark.parametrize(
    ("metric", "values", "best_step", "steps"),
    [
        ("auc", [0.5, 0.7, 0.6, 0.7, 0.9], 2, 4),  # an equal value is no gain
        ("uauc", [0.5, 0.7, 0.6, 0.8, 0.7, 0.7], 4, 6),
        ("log_loss", [0.5, 0.4, 0.45, 0.41, 0.1], 2, 4),  # lower is better
    ],
)
def test_early_stopping_waits_for_a_gain_of_the_monitored_metric(
    metric: str,
    values: list[float],
    best_step: int,
    steps: int,
    toy_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(monkeypatch, values, metric)
    overrides = ("training.patience=2", "training.eval_interval=1", f"training.monitor=is_click.{metric}")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run")
    assert (facts_of(run)["best_step"], facts_of(run)["steps"]) == (best_step, steps)
    assert "stopped early: no gain in 2 evaluations" in capsys.readouterr().err


def test_the_result_measures_the_best_weights_and_not_the_last(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, [0.99], "auc")
    overrides = ("training.eval_interval=2", "training.keep_checkpoints=9", "optimizer.dense_lr=0.05")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    assert facts_of(run)["best_step"] == 2
    first = lines(run, "validation", "is_click")[0]
    assert facts_of(run)["validation"]["is_click"]["log_loss"] == first["log_loss"]


def test_a_monitor_that_cannot_be_measured_says_what_can(toy_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    script(monkeypatch, [None], "uauc")  # type: ignore[list-item]
    recipe = tiny_recipe(toy_folder, "training.monitor=is_click.uauc")
    with pytest.raises(UnimixerError, match=r"no user has both labels; monitor is_click\.auc"):
        train(recipe, folder=tmp_path / "run", quiet=True)


def test_only_the_newest_checkpoints_are_kept(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("training.checkpoint_interval=2", "training.keep_checkpoints=3", "training.max_steps=9")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert kept == ["step-000000006", "step-000000008", "step-000000009"]


def plant(monkeypatch: pytest.MonkeyPatch, name: str, step: int, row: int = 2) -> None:
    """Let a number of one parameter become NaN by the update of a step."""
    original = TrainStep.__call__

    def planted(self: TrainStep, group: Any, number: int) -> Any:
        outcome = original(self, group, number)
        if number + 1 == step:
            with torch.no_grad():
                self.model.get_parameter(name)[row] = float("nan")
        return outcome

    monkeypatch.setattr(TrainStep, "__call__", planted)


def test_nan_stops_the_run_and_the_last_good_checkpoint_loads(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "towers.towers.0.0.weight", step=5)
    expected = (
        r"^step 6: the loss is not finite; the first module with an output that is not finite is "
        rf"'towers\.towers\.0\.0'; the last good checkpoint is {tmp_path}/run/checkpoints/step-000000004; "
        r"lower the learning rates or set optimizer\.clip_norm$"
    )
    with pytest.raises(UnimixerError, match=expected):
        train(tiny_recipe(toy_folder), folder=tmp_path / "run", quiet=True)
    run = RunFolder(tmp_path / "run")
    trainer = Trainer(run, Dataset(toy_folder), quiet=True)
    checkpoint = latest_checkpoint(trainer.checkpoints)
    assert checkpoint is not None
    assert trainer.checkpointer.load_checkpoint(checkpoint)["step"] == 4
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())
    assert load_ranker(run) is not None


@pytest.mark.parametrize("step", [4, 8])
def test_weights_that_are_not_finite_are_never_written(
    step: int, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # row 0 is that of users without a key, of whom there is none: every score stays finite
    plant(monkeypatch, "embedding.tables.packed.4.weight", step=step, row=0)
    with pytest.raises(UnimixerError, match=rf"^step {step}: parameter 'embedding\.tables\.packed\.4\.weight' is not"):
        train(tiny_recipe(toy_folder), folder=tmp_path / "run", quiet=True)
    kept = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert (kept.name if kept else None) == (None if step == 4 else "step-000000004")
    assert (tmp_path / "run" / "best").exists() == (step == 8)


def test_a_checkpoint_between_evaluations_is_checked_too(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "embedding.tables.packed.4.weight", step=3, row=0)
    with pytest.raises(UnimixerError, match=r"^step 3: parameter .* there is no checkpoint yet"):
        train(tiny_recipe(toy_folder, "training.checkpoint_interval=3"), folder=tmp_path / "run", quiet=True)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_rate_far_too_high_ends_in_one_sentence(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("optimizer.dense_lr=1e6", "optimizer.embedding_lr=1e6", "model.backbone=mlp", "model.options={}")
    with pytest.raises(UnimixerError, match=r"^step \d+: the loss is not finite; the first module .* is '[a-z]"):
        train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)


def test_bfloat16_trains_and_evaluates(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("training.precision=bfloat16", "training.epochs=2", "training.seed=3")
    runs = [
        train(tiny_recipe(toy_folder, *some), folder=tmp_path / str(i), quiet=True)
        for i, some in enumerate((overrides, overrides[1:]))
    ]
    losses = [[line["loss"] for line in lines(run, "train")] for run in runs]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    low, full = (facts_of(run)["validation"]["is_click"]["log_loss"] for run in runs)
    assert low == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize(("pays", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_is_chosen_once_and_kept(
    pays: bool, chosen: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(training_model, "bfloat16_pays", lambda device: asked.append(device) or pays)
    recipe = tiny_recipe(toy_folder, "training.precision=auto", "training.max_steps=2")
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    assert asked == [torch.device("cpu")]
    assert run.recipe.training.precision == chosen
    by_name = tiny_recipe(toy_folder, f"training.precision={chosen}", "training.max_steps=2")
    named = train(by_name, folder=tmp_path / "named", quiet=True)
    assert [line["loss"] for line in lines(run, "train")] == [line["loss"] for line in lines(named, "train")]


@pytest.mark.parametrize(("float32", "bfloat16", "pays"), [(1.0, 0.5, True), (1.0, 0.7, False), (1.0, 20.0, False)])
def test_bfloat16_pays_if_its_products_take_two_thirds_of_the_time(
    float32: float, bfloat16: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, product = [0.0], torch.bmm

    def bmm(left: Tensor, right: Tensor) -> Tensor:
        now[0] += float32 if left.dtype == torch.float32 else bfloat16
        return product(left, right)

    monkeypatch.setattr(environment.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(environment.torch, "bmm", bmm)
    environment.bfloat16_pays.cache_clear()
    assert environment.bfloat16_pays(torch.device("cpu")) is pays
    environment.bfloat16_pays.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_a_compiled_model_has_the_losses_of_an_eager_one(toy_folder: Path, tmp_path: Path) -> None:
    runs = [
        train(
            tiny_recipe(toy_folder, f"training.compile={compiled}", "training.max_steps=4"),
            folder=tmp_path / compiled,
            quiet=True,
        )
        for compiled in ("true", "false")
    ]
    losses = [[line["loss"] for line in lines(run, "train")] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("quiet", [False, True])
def test_the_log_of_a_run_has_every_line_that_people_saw_and_goes_on_when_it_is_resumed(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[str]:
        return [line.partition("  ")[2] for line in (tmp_path / "run" / LOG).read_text().splitlines()]

    monkeypatch.setattr(tracker, "LINE_SECONDS", 1e9)
    stop = [False] * 6 + [True]
    monkeypatch.setattr(Trainer, "_stop", lambda *_: bool(stop) and stop.pop(0))
    recipe = tiny_recipe(toy_folder, "training.max_steps=9", "training.eval_interval=5")
    with pytest.raises(UnimixerError, match="stopped at step 7"):
        train(recipe, folder=tmp_path / "run", quiet=quiet)
    first = told()
    run = resume(tmp_path / "run", quiet=quiet)
    log = told()
    assert log[: len(first)] == first
    losses = {line["step"]: line["loss"] for line in lines(run, "train")}
    begins = [
        "training step 1 to 9",
        f"step       1 of 9  loss {losses[1]:.4f}  AUC ",
        "step       5  validation",
        "error: stopped at step 7; continue with: unimixer train --resume",
        "training step 8 to 9",
        f"step       8 of 9  loss {losses[8]:.4f}  AUC ",
        f"step       9 of 9  loss {losses[9]:.4f}  AUC ",
        "step       9  validation",
        f"step {run.result['best_step'] if run.result else 0:>7,}  test",
    ]
    kept = [line for line in log if "long_view" not in line]
    assert [line[: len(begin)] for line, begin in zip(kept, begins, strict=True)] == begins
    assert all("samples/s, " in line and " waiting for data, about " in line for line in kept if " of 9 " in line)
    assert "\r" not in "".join(log)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ([] if quiet else [line for line in log if not line.startswith("error: ")])
