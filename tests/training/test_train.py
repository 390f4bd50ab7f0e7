"""Whole runs: warm starts, two stages, data that moved, and what is refused before there is a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tensors_of, tiny_recipe
from toy import tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.mixing import MatrixMixing
from unimixer.training.loop import Trainer
from unimixer.training.model import load_ranker, resolve, settings_without_effect, validate_recipe
from unimixer.training.run import RunFolder
from unimixer.training.train import WARM_UP, resume, train


@pytest.fixture(scope="module")
def finished(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return train(tiny_recipe(toy_folder, "training.max_steps=4"), folder=folder, quiet=True)


def test_a_warm_start_begins_with_the_best_weights_of_its_source(
    finished: RunFolder, toy_folder: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(toy_folder, "training.seed=9", "training.max_steps=1")
    started = train(recipe, folder=tmp_path / "run", start_from=finished.folder, quiet=True)
    assert started.warm_start == finished.folder.resolve()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    trainer = Trainer(started, Dataset(toy_folder), start_from=started.warm_start, quiet=True)
    best = tensors_of(finished.folder / "best")
    own = trainer.model.state_dict()
    assert len(best) == len(own)
    assert all(torch.equal(own[name.split(":")[1]], tensor) for name, tensor in best.items())


def test_a_warm_start_is_not_needed_once_there_is_a_checkpoint(
    finished: RunFolder, toy_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(finished.folder, source)
    run = train(tiny_recipe(toy_folder), folder=tmp_path / "run", start_from=source, quiet=True)
    expected = run.result
    (run.folder / "result.json").unlink()
    shutil.rmtree(source)
    again = resume(run.folder, quiet=True).result
    assert again is not None
    assert expected is not None
    assert again["test"] == expected["test"]


def test_two_stages_train_at_the_start_and_then_at_the_end_temperature(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("temperature={schedule: two-stage, start: 0.9, end: 0.2}", "training.max_steps=2")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    for folder, tau in ((run, 0.2), (RunFolder(run.folder / WARM_UP), 0.9)):
        assert {line["temperature"] for line in folder.history() if line["kind"] == "train"} == {tau}
        mixings = [m for m in load_ranker(folder).modules() if isinstance(m, MatrixMixing)]
        assert mixings
        assert all(float(m.temperature) == pytest.approx(tau) for m in mixings)


def test_a_budget_becomes_a_size_and_labels_become_tasks(toy_folder: Path, tmp_path: Path) -> None:
    overrides = ("model.width=null", "model.dense_params=6K", "training.max_steps=1")
    run = train(tiny_recipe(toy_folder, *overrides), folder=tmp_path / "run", quiet=True)
    assert run.recipe.model.dense_params is None
    assert run.recipe.tasks == {"is_click": 1.0, "long_view": 1.0}
    assert (run.result or {})["dense_parameters"] == pytest.approx(6_000, rel=0.02)


def test_one_task_of_two_is_trained_alone(toy_folder: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(toy_folder, "tasks={long_view: 1.0}", "training.max_steps=1")
    run = train(recipe, folder=tmp_path / "run", quiet=True)
    assert list((run.result or {})["test"]) == ["long_view"]


def one_class_dataset(folder: Path) -> Dataset:
    """A dataset whose second label is 0 in all rows of the validation part."""
    log, users, items = toy_frames()
    late = pl.col("time_ms") > log["time_ms"].quantile(0.5)
    log = log.with_columns(pl.when(late).then(0.0).otherwise("watch_s").alias("watch_s"))
    return prepare(tables_of(toy_schema(), log, users, items), folder)


def test_a_label_of_one_class_stops_its_task_and_no_other(tmp_path: Path) -> None:
    dataset = one_class_dataset(tmp_path / "store")
    with pytest.raises(UnimixerError, match=r"label 'long_view' is 0 in all .* rows of the validation part"):
        train(tiny_recipe(dataset.folder), folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    run = train(
        tiny_recipe(dataset.folder, "tasks={is_click: 1.0}", "training.max_steps=1"),
        folder=tmp_path / "run",
        quiet=True,
    )
    assert run.result is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks={clik: 1.0}", r"unknown task 'clik'; did you mean 'is_click'\?"),
        (
            "training.monitor=is_click.aucc",
            r"unknown training\.monitor 'is_click\.aucc'; did you mean 'is_click\.auc'\?",
        ),
        ("training.device=cuda:99", "device 'cuda:99': this machine"),
        ("training.device=tpu", "device 'tpu' is not known; use auto, cpu, cuda or cuda:N"),
        ("training.device=mps", "device 'mps' is not known"),
        ("model.backbone=unimixer-light", r"unknown model 'unimixer-light'; did you mean 'unimixer-lite'\?"),
        ("model.options.rang=3", r"unknown option of backbone 'unimixer-lite': 'rang'; did you mean 'rank'\?"),
        ("model.embedding_dims.nothing=3", r"unknown table .*'nothing'; known: category"),
        ("distributed.tables.nothing=row_wise", r"unknown table of distributed\.tables 'nothing'; known: category"),
        ("model.dense_params=5K", "give width or dense_params, not both"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_folder(
    override: str, message: str, toy_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnimixerError, match=message):
        train(tiny_recipe(toy_folder, override), folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_compile_without_a_compiler_is_refused_before_there_is_a_folder(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnimixerError, match=r"needs a C\+\+ compiler .* install g\+\+ or leave compile out"):
        train(tiny_recipe(toy_folder, "training.compile=true"), folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_warm_start_from_another_model_is_refused_before_there_is_a_folder(
    finished: RunFolder, toy_folder: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(toy_folder, "model.embedding_dim=6")
    with pytest.raises(UnimixerError, match=r"best/model\.safetensors: .* belongs to another model"):
        train(recipe, folder=tmp_path / "run", start_from=finished.folder, quiet=True)
    with pytest.raises(UnimixerError, match="is not a run folder"):
        train(recipe, folder=tmp_path / "run", start_from=tmp_path, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_warm_start_from_a_run_without_best_weights_says_how_to_get_them(toy_folder: Path, tmp_path: Path) -> None:
    source = RunFolder.create(tmp_path / "source", tiny_recipe(toy_folder), Dataset(toy_folder)).folder
    with pytest.raises(UnimixerError, match=rf"no best weights yet; continue it with: .* --resume {source}"):
        train(tiny_recipe(toy_folder), folder=tmp_path / "run", start_from=source, quiet=True)


def test_a_monitor_over_users_is_refused_where_the_schema_has_none_and_an_encoder_without_histories_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema: dict[str, Any] = {
        "keys": {"item": "item_id", "time": "time_ms"},
        "histories": [],
        "split": {"by": "quantile"},
        "features": [{"name": "tab", "kind": "categorical", "domain": "context"}],
    }
    dataset = prepare(toy_tables(**schema), tmp_path / "store")
    overrides = ("model.num_tokens=1", "training.max_steps=1", "model.backbone=mlp", "model.options={}")
    with pytest.raises(UnimixerError, match=r"is_click\.uauc needs users, and the schema names no keys\.user"):
        train(
            tiny_recipe(dataset.folder, "training.monitor=is_click.uauc", *overrides), folder=tmp_path / "r", quiet=True
        )
    with pytest.raises(UnimixerError, match=r"metrics: ndcg@5 is measured in the lists of users, .* leave it out"):
        train(tiny_recipe(dataset.folder, "metrics=[ece,ndcg@5]", *overrides), folder=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()
    encoder = ("model.sequence_encoder=target_attention", "training.eval_interval=null")
    run = train(tiny_recipe(dataset.folder, *encoder, *overrides), folder=tmp_path / "run")
    assert (run.result or {})["test"]["is_click"]["uauc"] is None
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: model.sequence_encoder=target_attention has no effect: the vector E has no history or list that is "
        "compared with the candidate"
    ]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.sequence_tokens=3", "it is for model.sequences=tokens"),
        ("optimizer.weight_decay=0.1", "it is for optimizer.dense=adamw and muon"),
        ("temperature.start=2.0", "a constant schedule has temperature.end"),
        ("temperature.end=0.5", "backbone 'mlp' has no learned mixing"),
        ("training.aux_loss_weight=0.2", "backbone 'mlp' has no losses on intermediate tokens"),
    ],
)
def test_a_setting_that_does_nothing_is_named(override: str, reason: str, toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    recipe = resolve(tiny_recipe(toy_folder, "model.backbone=mlp", "model.options={}", override), spec)
    model = validate_recipe(recipe, spec)
    assert settings_without_effect(recipe, model) == [f"note: {override} has no effect: {reason}"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.sequences=tokens", "model.sequence_tokens=1"),
        ("optimizer.weight_decay=0.1", "optimizer.dense=adamw"),
        ("temperature.start=2.0", "temperature.schedule=linear"),
        ("temperature.end=0.5",),
        (
            "training.aux_loss_weight=0.2",
            "model.backbone=tokenmixer-large",
            "model.options={num_blocks: 4}",
            "model.tokenizer=chunk",
        ),
    ],
)
def test_a_setting_that_does_something_is_not_named(overrides: tuple[str, ...], toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    recipe = resolve(tiny_recipe(toy_folder, *overrides), spec)
    assert settings_without_effect(recipe, validate_recipe(recipe, spec)) == []


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("training.max_steps=1000", "the training part has 10 steps in 1 epoch; raise training.epochs to train longer"),
        ("training.eval_interval=1000", "training has 2 steps and is measured at its end only"),
        ("training.batch_size=5000", "the training part has {rows:,} rows, which are one batch"),
    ],
)
def test_a_number_beyond_the_data_or_the_training_is_named(
    override: str, reason: str, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(toy_folder, "training.max_steps=2", "training.eval_interval=null", override)
    train(recipe, folder=tmp_path / "run")
    why = reason.format(rows=Dataset(toy_folder).summary("train").rows)
    assert f"note: {override} has no effect: {why}" in capsys.readouterr().err.splitlines()


def unfinished(dataset: Path, folder: Path) -> RunFolder:
    opened = Dataset(dataset)
    return RunFolder.create(
        folder, resolve(tiny_recipe(dataset, "training.max_steps=2"), opened.transform.spec), opened
    )


def test_a_run_resumes_on_a_dataset_that_moved(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "old")
    run = unfinished(tmp_path / "old", tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(UnimixerError, match="old is not a prepared dataset"):
        resume(run.folder, quiet=True)
    assert resume(run.folder, dataset=tmp_path / "new", quiet=True).result is not None


def test_a_run_does_not_resume_on_other_data(toy_folder: Path, tmp_path: Path) -> None:
    run = unfinished(toy_folder, tmp_path / "run")
    other = prepare(toy_tables(seed=1), tmp_path / "other")
    expected = (
        rf"other has content {other.hash}, the run began with {Dataset(toy_folder).hash}; resume on the same data"
    )
    with pytest.raises(UnimixerError, match=expected):
        resume(run.folder, dataset=other.folder, quiet=True)


def test_a_truncated_dataset_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "store")
    part = next((tmp_path / "store" / "train").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UnimixerError, match="truncated or changed; prepare the data again"):
        train(tiny_recipe(tmp_path / "store"), folder=tmp_path / "run", quiet=True)


def test_a_run_that_is_being_trained_is_not_resumed(toy_folder: Path, tmp_path: Path) -> None:
    run = unfinished(toy_folder, tmp_path / "run")
    with run.lock(), pytest.raises(UnimixerError, match="is being trained by another process"):
        resume(run.folder, quiet=True)


def test_quiet_says_nothing_and_otherwise_evaluations_are_told(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(toy_folder, "training.max_steps=1")
    train(recipe, folder=tmp_path / "a", quiet=True)
    assert capsys.readouterr() == ("", "")
    train(recipe, folder=tmp_path / "b")
    out, err = capsys.readouterr()
    assert out == ""
    told = [line.split()[2:4] for line in err.splitlines() if "log loss" in line]
    assert told == [
        ["validation", "is_click"],
        ["validation", "long_view"],
        ["test", "is_click"],
        ["test", "long_view"],
    ]


def test_sample_weights_of_the_dataset_reach_the_loss(tmp_path: Path) -> None:
    log, users, items = toy_frames()
    losses = []
    for name, weight in (("plain", np.ones(log.height)), ("clicks", log["is_click"].to_numpy() * 5.0)):
        weighted = log.with_columns(pl.Series("w", weight))
        dataset = prepare(tables_of(toy_schema(weight="w"), weighted, users, items), tmp_path / name)
        run = train(tiny_recipe(dataset.folder, "training.max_steps=8"), folder=tmp_path / f"run-{name}", quiet=True)
        losses.append((run.result or {})["test"]["is_click"]["calibration"])
    assert losses[1] > losses[0]  # where only clicks count, everything looks like a click
