"""A run that goes on from another: weights, optimizer state and every id keep their place while the data grows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from killed import train_killed
from tiny import assert_equal_tensors, tensors_of, tiny_recipe, tiny_values
from toy import day_tables, toy_schema

from unimixer.data.dataset import Dataset
from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError
from unimixer.ranker import PACKED
from unimixer.training.continuation import Continuation
from unimixer.training.evaluation import evaluate_model
from unimixer.training.loop import Trainer
from unimixer.training.model import build_ranker, hollow_ranker, load_ranker
from unimixer.training.run import RunFolder, dataset_of
from unimixer.training.train import resume, train

FAST = ("optimizer.dense_lr=0.01", "optimizer.embedding_lr=0.05", "training.batch_size=64")


def recipe_of(dataset: Path, *overrides: str) -> Any:
    return tiny_recipe(dataset, *FAST, *overrides)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six days and a run on it, then the same dataset with two more days."""
    folder = tmp_path_factory.mktemp("days")
    prepare(day_tables(*range(6)), folder / "data")
    train(recipe_of(folder / "data"), folder=folder / "first", quiet=True)
    shutil.copytree(folder / "data", folder / "six-days")
    extend(folder / "data", day_tables(6))
    extend(folder / "data", day_tables(7))
    return folder


@pytest.fixture(scope="module")
def going_on(days: Path) -> RunFolder:
    return train(recipe_of(days / "data"), folder=days / "second", continued=days / "first", quiet=True)


def last_checkpoint(run: RunFolder) -> Path:
    return sorted(run.checkpoints.glob("step-*"))[-1]


def vectors(weights: dict[str, torch.Tensor], run_or_model: Any, texts: Any, table: str) -> dict[str, torch.Tensor]:
    """The vector of every id by its text."""
    tables = run_or_model.embedding.tables
    first = tables.first_row(table) + FIRST_ID
    whole = weights[PACKED.format(width=tables.width[table])]
    return {text: whole[first + number] for number, text in enumerate(texts)}


def state_of_rows(folder: Path, name: str, model: Any, texts: Any, table: str) -> dict[str, torch.Tensor]:
    tensors = tensors_of(folder)
    first = model.embedding.tables.first_row(table) + FIRST_ID
    whole = tensors[f"optimizer.safetensors:sparse.0.{name}"]
    return {text: whole[first + number] for number, text in enumerate(texts)}


# ---- what trains, from where ----------------------------------------------------------------------------------------


def test_only_rows_that_are_new_train(days: Path, going_on: RunFolder) -> None:
    before, now = Dataset(days / "six-days"), Dataset(days / "data")
    new = now.summary("train").rows - before.summary("train").rows
    assert going_on.result is not None
    assert going_on.result["samples"] == new
    view = now.since(before.hash)
    times = np.concatenate([part.times for part in view.parts("train")])
    assert len(times) == new
    assert times.min() >= before.summary("validation").first_time


def test_a_continued_run_begins_with_the_last_weights_and_the_state_of_its_source(days: Path) -> None:
    source, dataset = RunFolder(days / "first"), Dataset(days / "data")
    recipe = recipe_of(days / "data")
    run = train(recipe, folder=days / "begin", continued=source.folder, quiet=True)
    model = hollow_ranker(run.recipe, dataset.transform.spec)
    start = Continuation(source, model, dataset.transform, run.recipe)
    made = days / "begin-again"
    start.write(made)
    begin, end = made / "checkpoints" / "step-000000000", last_checkpoint(source)
    ours, theirs = tensors_of(begin), tensors_of(end)
    dense = [name for name in theirs if ".dense." in f".{name.split(':')[1]}" or "embedding.tables" not in name]
    for name in dense:
        if name.startswith(("model", "optimizer.safetensors:dense")) and "embedding.tables" not in name:
            assert torch.equal(ours[name], theirs[name]), name
    old = hollow_ranker(source.recipe, source.transform.spec)
    weights = [{key.removeprefix("model.safetensors:"): t for key, t in one.items()} for one in (ours, theirs)]
    for table, vocabulary in source.transform.vocabularies.items():
        texts, more = vocabulary.texts, dataset.transform.vocabularies[table].texts
        now, before = vectors(weights[0], model, more, table), vectors(weights[1], old, texts, table)
        assert all(torch.equal(now[text], before[text]) for text in texts)
        for name in ("exp_avg", "exp_avg_sq"):
            now = state_of_rows(begin, name, model, more, table)
            before = state_of_rows(end, name, old, texts, table)
            assert all(torch.equal(now[text], before[text]) for text in texts)
            assert all(not now[text].any() for text in set(more) - set(texts))


def test_going_on_trains_as_if_there_had_been_no_end(days: Path, tmp_path: Path) -> None:
    """Without new ids, a run that is continued makes the steps that a longer run would make on the same rows."""
    dataset = Dataset(days / "six-days")
    one_epoch = recipe_of(days / "six-days", "training.eval_interval=1000")
    first = train(one_epoch, folder=tmp_path / "first", quiet=True)
    other = shutil.copytree(days / "six-days", tmp_path / "other")
    (other / "manifest.json").write_text((other / "manifest.json").read_text().replace(dataset.hash, "0" * 16))
    recipe = recipe_of(other, "training.eval_interval=1000", "training.seed=1")
    second = train(recipe, folder=tmp_path / "second", continued=first.folder, quiet=True)
    trainer = Trainer(first, dataset, quiet=True)
    trainer.checkpointer.load_checkpoint(last_checkpoint(first))
    trainer.loader.seed = 1
    for step, batch in enumerate(trainer.loader.batches()):
        trainer.step([batch], step)
    weights = {name: t for name, t in tensors_of(last_checkpoint(second)).items() if name.startswith("model")}
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(weights[f"model.safetensors:{name}"], tensor), name


def test_the_temperature_stays_at_its_end(days: Path, tmp_path: Path) -> None:
    schedule = ("temperature.schedule=linear", "temperature.start=1", "temperature.end=0.2")
    first = train(recipe_of(days / "six-days", *schedule), folder=tmp_path / "first", quiet=True)
    run = train(recipe_of(days / "data", *schedule), folder=tmp_path / "second", continued=first.folder, quiet=True)
    assert {line["temperature"] for line in run.history() if line["kind"] == "train"} == {0.2}


def test_new_rows_may_begin_as_the_mean_of_the_rows_kept(days: Path) -> None:
    source, dataset = RunFolder(days / "first"), Dataset(days / "data")
    recipe = recipe_of(days / "data", "training.new_rows=mean")
    model = build_ranker(train_recipe(recipe, dataset).model, dataset.transform.spec)
    state = Continuation(source, model, dataset.transform, train_recipe(recipe, dataset)).state(model)
    known = source.transform.vocabularies["tab"].texts.to_list()
    rows = vectors(state, model, dataset.transform.vocabularies["tab"].texts, "tab")
    expected = torch.stack([rows[text] for text in known]).mean(0)
    assert set(rows) - set(known) == {"late"}
    torch.testing.assert_close(rows["late"], expected)


@pytest.mark.parametrize("frozen", [True, False])
def test_new_ids_begin_from_their_vectors(frozen: bool, days: Path, tmp_path: Path) -> None:
    source, dataset = RunFolder(days / "first"), Dataset(days / "data")
    known, texts = (one.transform.vocabularies["tab"].texts.to_list() for one in (source, dataset))
    given = {text: [float(number)] * 4 for number, text in enumerate(texts)}
    schema = {"vector": pl.List(pl.Float32)}
    pl.DataFrame({"id": texts, "vector": list(given.values())}, schema_overrides=schema).write_parquet(
        tmp_path / "tabs.parquet"
    )
    for new_rows in ("mean", "drawn"):
        text = f"pretrained={{tab: {{path: {tmp_path}/tabs.parquet, trained: {str(not frozen).lower()}}}}}"
        recipe = train_recipe(recipe_of(days / "data", text, f"training.new_rows={new_rows}"), dataset)
        model = hollow_ranker(recipe, dataset.transform.spec)
        Continuation(source, model, dataset.transform, recipe).write(tmp_path / new_rows)
        files = [
            tensors_of(tmp_path / new_rows / "checkpoints" / "step-000000000"),
            tensors_of(last_checkpoint(source)),
        ]
        ours, theirs = (
            {key.removeprefix("model.safetensors:"): tensor for key, tensor in one.items()} for one in files
        )
        now = vectors(ours, model, texts, "tab")
        before = vectors(theirs, hollow_ranker(source.recipe, source.transform.spec), known, "tab")
        assert now["late"].tolist() == given["late"]
        for one in known:
            assert now[one].tolist() == (given[one] if frozen else before[one].tolist())


def train_recipe(recipe: Any, dataset: Dataset) -> Any:
    from unimixer.training.model import resolve

    return resolve(recipe, dataset.transform.spec)


# ---- every id keeps its vector --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_vector_of_an_id_follows_it_through_other_vocabularies(seed: int, days: Path, tmp_path: Path) -> None:
    """Vocabularies of other days, in another order, and cut by policy; the ids that are lost are listed."""
    rng = np.random.default_rng(seed)
    source = RunFolder(days / "first")
    chosen = sorted(rng.choice(8, size=4, replace=False).tolist())
    features = [dict(feature) for feature in toy_schema().model_dump(mode="json")["features"]]
    for feature in features:
        if feature["name"] in ("item_id", "user_id"):
            feature["vocabulary"] = {"max_size": int(rng.integers(3, 12))}
    raw = [{key: value for key, value in one.items() if value not in (None, [])} for one in features]
    data = prepare(day_tables(*chosen, features=raw), tmp_path / "data")
    recipe = recipe_of(tmp_path / "data", "training.max_steps=1")
    run = train(recipe, folder=tmp_path / "run", continued=source.folder, quiet=True)
    model = hollow_ranker(run.recipe, data.transform.spec)
    start = Continuation(source, model, data.transform, run.recipe)
    start.write(tmp_path / "again")
    begin = tmp_path / "again" / "checkpoints" / "step-000000000"
    ours = {key.removeprefix("model.safetensors:"): tensor for key, tensor in tensors_of(begin).items()}
    theirs = {
        key.removeprefix("model.safetensors:"): tensor for key, tensor in tensors_of(last_checkpoint(source)).items()
    }
    old = hollow_ranker(source.recipe, source.transform.spec)
    lost = set()
    for table in ("item_id", "user_id", "tab", "hour", "words"):
        before_texts, texts = (one.vocabularies[table].texts for one in (source.transform, data.transform))
        now, before = vectors(ours, model, texts, table), vectors(theirs, old, before_texts, table)
        moments = state_of_rows(begin, "exp_avg", model, texts, table)
        earlier = state_of_rows(last_checkpoint(source), "exp_avg", old, before_texts, table)
        shared = set(texts) & set(before_texts)
        assert shared
        assert all(
            torch.equal(now[text], before[text]) and torch.equal(moments[text], earlier[text]) for text in shared
        )
        lost |= {(table, text) for text in set(before_texts) - set(texts)}
    listed = pl.read_csv(run.folder / "dropped-ids.csv", infer_schema=False)
    named = {
        (table, text) for table, text in listed.iter_rows() if table in ("item_id", "user_id", "tab", "hour", "words")
    }
    assert named == lost
    assert lost


def test_managed_rows_go_on_with_their_ids_and_counts(days: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchrec")
    managed = ("model.managed_embeddings={item_id: 12}", "optimizer.eviction={item_id: {eviction_interval: 2}}")
    first = train(recipe_of(days / "six-days", *managed), folder=tmp_path / "first", quiet=True)
    dataset = Dataset(days / "data")
    run = train(recipe_of(days / "data", *managed), folder=tmp_path / "second", continued=first.folder, quiet=True)
    model = hollow_ranker(run.recipe, dataset.transform.spec)
    Continuation(first, model, dataset.transform, run.recipe).write(tmp_path / "again")
    begin, end = tensors_of(tmp_path / "again" / "checkpoints" / "step-000000000"), tensors_of(last_checkpoint(first))
    for name in ("model.safetensors:embedding.managed.maps.0.ids", "optimizer.safetensors:eviction.0.counts"):
        assert torch.equal(begin[name], end[name])  # no vocabulary row moved, so neither does the map
    assert run.result is not None


# ---- resumed, evaluated, refused ------------------------------------------------------------------------------------


def test_a_continued_run_resumes_bit_for_bit_although_the_data_grew(
    days: Path, going_on: RunFolder, tmp_path: Path
) -> None:
    data = shutil.copytree(days / "data", tmp_path / "data")
    train_killed(tiny_values(data, *FAST), tmp_path / "run", "step", 3, continued=days / "first")
    extend(data, day_tables(8))
    run = resume(tmp_path / "run", quiet=True)
    assert_equal_tensors(last_checkpoint(run), last_checkpoint(going_on))
    assert run.result is not None
    assert going_on.result is not None
    assert run.result["test"] == going_on.result["test"]


def test_a_run_is_measured_on_the_data_as_it_was(days: Path) -> None:
    run = RunFolder(days / "first")
    dataset = dataset_of(run, days / "data")
    assert dataset.hash == Dataset(days / "six-days").hash != Dataset(days / "data").hash
    metrics = evaluate_model(load_ranker(run), dataset, "test", tuple(run.recipe.tasks))
    assert run.result is not None
    assert metrics["is_click"].auc == run.result["test"]["is_click"]["auc"]


def test_what_does_not_fit_is_refused(days: Path, tmp_path: Path) -> None:
    first = days / "first"

    def message(recipe: Any, source: Path = first) -> str:
        with pytest.raises(UnimixerError) as error:
            train(recipe, folder=tmp_path / "run", continued=source, quiet=True)
        assert not (tmp_path / "run").exists()
        return str(error.value)

    assert "no rows since content" in message(recipe_of(days / "six-days"))
    assert "optimizer.sparse is adam there and sgd in this recipe" in message(
        recipe_of(days / "data", "optimizer.sparse=sgd")
    )
    assert "belongs to another model" in message(recipe_of(days / "data", "model.embedding_dim=8"))
    unfinished = Path(shutil.copytree(first, tmp_path / "unfinished"))
    (unfinished / "result.json").unlink()
    assert "is not finished; finish it with: unimixer train --resume" in message(recipe_of(days / "data"), unfinished)
    bare = Path(shutil.copytree(first, tmp_path / "bare"))
    shutil.rmtree(bare / "checkpoints")
    assert f"start from its best weights with --warm-start {bare}" in message(recipe_of(days / "data"), bare)
