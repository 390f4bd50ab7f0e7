"""A run as the start of another: what an id, a number or a task has learned goes where its name stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from toy import SCHEMA, START, tables_of, toy_frames, toy_schema, toy_tables

from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.data.schema import FIRST_ID
from unimixer.errors import UnimixerError
from unimixer.features.managed import EMPTY
from unimixer.training.evaluation import evaluate_model
from unimixer.training.loop import Trainer
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import resume, train
from unimixer.training.warm_start import WarmStart

TARGET = ("model.sequence_encoder=target_attention",)
TOKENS = ("model.sequences=tokens", "model.sequence_tokens=1")
MANAGED = (
    "model.managed_embeddings={item_id: 12, category: 3}",
    "optimizer.eviction={item_id: {eviction_interval: 2}}",
)
MODELS = {
    "chunk": (),
    "random": ("model.tokenizer=random",),
    "semantic": ("model.tokenizer=semantic", "model.num_tokens=6"),
    "target": TARGET,
    "tokens": TOKENS,
    "managed": MANAGED,
    "widths": ("model.embedding_dims={item_id: 6, tab: 2}",),
}


def with_training_rows(items: list[str], *, rows: int, seed: int, **schema: Any) -> Any:
    """The small world with more training rows, none a click: no history changes, but every count does."""
    log, users, table = toy_frames()
    rng = np.random.default_rng(seed)
    more = log.head(rows).with_columns(
        pl.Series("item_id", rng.choice(items, rows)),
        pl.Series("user_id", rng.choice(["u1", "u2", "u5"], rows)),
        pl.lit(START).alias("time_ms"),
        pl.lit(0, dtype=pl.Int64).alias("is_click"),
    )
    return tables_of(toy_schema(**schema), pl.concat([more, log]), users, table)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of the same validation rows: other orders of rows, and ids that only one of them knows."""
    folder = tmp_path_factory.mktemp("stores")
    prepare(with_training_rows(["i3", "x1", "x2", "i7"], rows=300, seed=1), folder / "first")
    features = list(reversed(SCHEMA["features"]))
    second = {"items": ["i28", "y1", "i29", "y2", "y3"], "rows": 300, "seed": 2}
    prepare(with_training_rows(**second), folder / "second")
    prepare(with_training_rows(**second, features=features), folder / "turned")
    return folder


@pytest.fixture(scope="module")
def source(datasets: Path) -> RunFolder:
    return train(trained(datasets / "first"), folder=datasets / "source", quiet=True)


def trained(dataset: Path, *overrides: str) -> Any:
    return tiny_recipe(dataset, "optimizer.dense_lr=0.01", "optimizer.embedding_lr=0.05", *overrides)


def started(recipe: Any, folder: Path, source: RunFolder) -> Trainer:
    """The model of a run that starts from another one, before its first step."""
    run = train(recipe.model_copy(update=one_step(recipe)), folder=folder, start_from=source.folder, quiet=True)
    shutil.rmtree(folder / "checkpoints")
    return Trainer(run, Dataset(recipe.dataset), start_from=run.warm_start, quiet=True)


def one_step(recipe: Any) -> dict[str, Any]:
    return {"training": recipe.training.model_copy(update={"max_steps": 1})}


def assert_same_scores(source: RunFolder, trainer: Trainer) -> None:
    """Both models score the rows of the validation part alike, each in its own encoding."""
    old, tasks = load_ranker(source), trainer.tasks
    before = evaluate_model(old, Dataset(source.recipe.dataset), "validation", tuple(source.recipe.tasks))
    after = evaluate_model(trainer.model, trainer.dataset, "validation", tasks)
    for task in tasks:
        assert after[task].auc == pytest.approx(before[task].auc, abs=1e-6)
        assert after[task].log_loss == pytest.approx(before[task].log_loss, abs=1e-5)


@pytest.mark.parametrize("dataset", ["second", "turned"])
@pytest.mark.parametrize("name", ["chunk", "random", "semantic", "managed", "widths"])
def test_a_run_on_data_prepared_anew_starts_with_the_scores_of_its_source(
    name: str, dataset: str, datasets: Path, tmp_path: Path
) -> None:
    first = train(trained(datasets / "first", *MODELS[name]), folder=tmp_path / "first", quiet=True)
    trainer = started(trained(datasets / dataset, *MODELS[name]), tmp_path / "run", first)
    theirs, ours = (Dataset(datasets / one).transform for one in ("first", dataset))
    assert not theirs.vocabularies["item_id"].texts.equals(ours.vocabularies["item_id"].texts)
    assert theirs.numerics["price"] != ours.numerics["price"]
    assert_same_scores(first, trainer)


@pytest.mark.parametrize("name", ["target", "tokens"])
def test_encoded_histories_start_with_the_scores_of_their_source_or_are_refused(
    name: str, datasets: Path, tmp_path: Path
) -> None:
    first = train(trained(datasets / "first", *MODELS[name]), folder=tmp_path / "first", quiet=True)
    assert_same_scores(first, started(trained(datasets / "second", *MODELS[name]), tmp_path / "run", first))
    with pytest.raises(UnimixerError, match="features that read histories have another order"):
        started(trained(datasets / "turned", *MODELS[name]), tmp_path / "turned", first)
    assert not (tmp_path / "turned").exists()


def test_what_was_kept_new_and_lost_is_said_and_kept_in_the_folder(
    source: RunFolder, datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = trained(datasets / "second", "training.max_steps=1")
    run = train(recipe, folder=tmp_path / "run", start_from=source.folder)
    facts = json.loads((run.folder / "warm-start.json").read_text())
    known = {
        name: set(Dataset(datasets / name).transform.vocabularies["item_id"].texts) for name in ("first", "second")
    }
    expected = {
        "kept": len(known["first"] & known["second"]),
        "new": len({"y1", "y2", "y3"}),
        "lost": len({"x1", "x2"}),
    }
    assert facts["tables"]["item_id"] == expected
    assert facts["tables"]["tab"]["new"] == facts["tables"]["tab"]["lost"] == 0
    before, after = (Dataset(datasets / name).transform.numerics["price"] for name in ("first", "second"))
    assert facts["numbers"]["price"] == {"mean": [before.mean, after.mean], "std": [before.std, after.std]}
    said = capsys.readouterr().err
    assert f"item_id: {expected['kept']} rows kept, 3 new, 2 lost" in said
    assert f"warm start from {source.folder}: all rows of " in said
    assert "price: mean" in said


def test_a_new_id_starts_fresh_and_the_special_rows_stay(source: RunFolder, datasets: Path, tmp_path: Path) -> None:
    trainer = started(trained(datasets / "second"), tmp_path / "run", source)
    theirs, ours = (Dataset(datasets / name).transform.vocabularies["item_id"] for name in ("first", "second"))
    old, new = load_ranker(source).embedding.tables, trainer.model.embedding.tables
    drawn = Trainer(trainer.run, trainer.dataset, quiet=True).model.embedding.tables  # the same seed, and no source

    def row(tables: Any, number: int) -> torch.Tensor:
        vector: torch.Tensor = tables.of_width(4).weight[tables.first_row("item_id") + number]
        return vector

    for number in range(FIRST_ID):
        assert torch.equal(row(new, number), row(old, number))
    for text in ("i3", "i28"):
        here, there = (int(v.lookup(pl.Series([text]))[0]) for v in (ours, theirs))
        assert here != there
        assert torch.equal(row(new, here), row(old, there))
    fresh = int(ours.lookup(pl.Series(["y1"]))[0])
    assert torch.equal(row(new, fresh), row(drawn, fresh))


def test_the_map_of_managed_rows_speaks_of_the_new_numbers_and_lost_ids_give_their_rows_back(
    datasets: Path, tmp_path: Path
) -> None:
    more = ("model.managed_embeddings={item_id: 32}", "optimizer.eviction={item_id: {eviction_interval: 1}}")
    first = train(trained(datasets / "first", *more), folder=tmp_path / "first", quiet=True)
    second = started(trained(datasets / "second", *more), tmp_path / "run", first)
    vocabularies = [Dataset(datasets / name).transform.vocabularies["item_id"] for name in ("first", "second")]
    maps = [model.embedding.managed.of("item_id") for model in (load_ranker(first), second.model)]
    rows = []
    for vocabulary, held in zip(vocabularies, maps, strict=True):
        assert held is not None
        assert held.ids.tolist() == sorted(held.ids.tolist())
        pairs = zip(held.ids.tolist(), held.rows.tolist(), strict=True)
        rows.append({vocabulary.texts[i - FIRST_ID]: r for i, r in pairs if i != EMPTY and i >= FIRST_ID})
        assert held.rows[-1] == 31
    assert rows[0].keys() - rows[1].keys() == {"x1", "x2"} & rows[0].keys() != set()
    assert rows[1] == {text: row for text, row in rows[0].items() if text not in ("x1", "x2")}


def test_on_the_same_data_the_start_is_the_source_to_the_last_bit(
    source: RunFolder, datasets: Path, tmp_path: Path
) -> None:
    trainer = started(trained(datasets / "first"), tmp_path / "run", source)
    own, best = trainer.model.state_dict(), load_ranker(source).state_dict()
    assert own.keys() == best.keys()
    assert [name for name in own if not torch.equal(own[name], best[name])] == []
    assert RunFolder(tmp_path / "run").recipe.model.field_order is None


def test_a_task_keeps_its_tower_wherever_it_stands(source: RunFolder, datasets: Path, tmp_path: Path) -> None:
    turned = started(trained(datasets / "first", "tasks={long_view: 1.0, is_click: 1.0}"), tmp_path / "turned", source)
    assert turned.tasks == ("long_view", "is_click")
    assert_same_scores(source, turned)
    one = started(trained(datasets / "first", "tasks={long_view: 1.0}"), tmp_path / "one", source)
    assert_same_scores(source, one)
    assert RunFolder(tmp_path / "one").warm_start_facts["tasks"] == {"new": [], "lost": ["is_click"]}
    other = train(trained(datasets / "first", "tasks={is_click: 1.0}"), folder=tmp_path / "other", quiet=True)
    with pytest.raises(UnimixerError, match="it learned is_click, and this recipe learns long_view; name a task"):
        train(trained(datasets / "first", "tasks={long_view: 1.0}"), folder=tmp_path / "no", start_from=other.folder)


def changed(feature: str, **values: Any) -> list[dict[str, Any]]:
    return [{**f, **values} if f["name"] == feature else f for f in SCHEMA["features"]]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"features": changed("price", transform="standardise")}, "'price' has transform log_standardise there and st"),
        ({"features": changed("tab", domain="item", origin="impressions")}, "'tab' has domain context there and item"),
        ({"features": changed("interests", table="interests")}, "'interests' has table category there and interests"),
        ({"features": SCHEMA["features"][:-1]}, "this data has no 'words'"),
        ({"features": changed("tab", name="page", source="tab")}, "this data has no 'tab'"),
        ({"keys": {**SCHEMA["keys"], "timezone": "UTC"}}, "hours are those of Asia/Shanghai there and of UTC"),
        (
            {"features": changed("tab", vocabulary={"policy": "hash", "num_buckets": 5})},
            "'tab' has no hash there and 5",
        ),
    ],
)
def test_features_that_mean_something_else_are_refused_before_there_is_a_folder(
    schema: dict[str, Any], message: str, toy_run: RunFolder, tmp_path: Path
) -> None:
    prepare(toy_tables(**schema), tmp_path / "store")
    with pytest.raises(UnimixerError, match=f"no warm start from {toy_run.folder}: .*{message}"):
        train(tiny_recipe(tmp_path / "store"), folder=tmp_path / "run", start_from=toy_run.folder, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_hashed_table_of_as_many_buckets_is_kept_whole(tmp_path: Path) -> None:
    features = changed("item_id", vocabulary={"policy": "hash", "num_buckets": 20})
    more = {"rows": 300, "features": features}
    prepare(with_training_rows(["i3"], seed=1, **more), tmp_path / "first")
    prepare(with_training_rows(["y1", "i5"], seed=2, **more), tmp_path / "second")
    first = train(trained(tmp_path / "first"), folder=tmp_path / "source", quiet=True)
    assert_same_scores(first, started(trained(tmp_path / "second"), tmp_path / "run", first))


def test_buckets_with_other_edges_are_said_and_begin_as_the_old_ones_around_their_middle(
    toy_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(toy_tables(features=changed("position", num_buckets=3)), tmp_path / "store")
    run = train(
        tiny_recipe(tmp_path / "store", "training.max_steps=1"), folder=tmp_path / "run", start_from=toy_run.folder
    )
    assert "position: its buckets have other edges" in capsys.readouterr().err
    old, new = run.warm_start_facts["buckets"]["position"]
    rows = WarmStart(toy_run, load_ranker(run), run.transform).data.rows["position"]
    assert rows.target.tolist() == list(range(FIRST_ID + len(new) + 1))
    middle = int(np.searchsorted(old, (new[0] + new[1]) / 2, side="right"))
    assert rows.source.tolist() == [0, 1, FIRST_ID, FIRST_ID + middle, FIRST_ID + len(old)]


def test_a_run_does_not_go_on_from_a_source_that_was_made_anew(
    source: RunFolder, datasets: Path, tmp_path: Path
) -> None:
    moving = tmp_path / "source"
    shutil.copytree(source.folder, moving)
    run = train(trained(datasets / "second", "training.max_steps=1"), folder=tmp_path / "run", start_from=moving)
    shutil.rmtree(run.folder / "checkpoints")
    (run.folder / "result.json").unlink()
    shutil.rmtree(moving)
    train(trained(datasets / "first", "training.seed=5"), folder=moving, quiet=True)
    with pytest.raises(UnimixerError, match="its best weights are not those that the run began with"):
        resume(run.folder, quiet=True)
