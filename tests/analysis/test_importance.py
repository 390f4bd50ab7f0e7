"""Permutation importance: the order of known effects, what moves together, runs and bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny import tiny_recipe
from toy import tables_of, toy_schema

from unimixer.analysis.importance import ImportanceOptions, measure_importance, mixed, user_donors, without
from unimixer.data.dataset import Dataset
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.training.run import RunFolder
from unimixer.training.train import train

EFFECTS = {"strong": 2.0, "medium": 1.0, "weak": 0.4, "none": 0.0}
"""Standard deviation of the logit that every feature of the world has by itself."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on a world whose logit is a sum of known effects; ``strong`` is a feature of users."""
    rng, rows, users = np.random.default_rng(0), 9_000, 300
    user = rng.integers(0, users, rows)
    columns = {
        name: rng.integers(0, 8, users)[user] if name == "strong" else rng.integers(0, 8, rows) for name in EFFECTS
    }
    logit = sum(EFFECTS[name] * _effect(rng)[values] for name, values in columns.items())
    log = pl.DataFrame({"user_id": user, "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int), **columns})
    schema = toy_schema(
        keys={"user": "user_id"},
        labels=[{"name": "click"}],
        split={"by": "random"},
        histories=[],
        features=[
            {"name": name, "kind": "categorical", "domain": "user" if name == "strong" else "context"}
            for name in EFFECTS
        ],
    )
    folder = tmp_path_factory.mktemp("world")
    prepare(tables_of(schema, log), folder / "data")
    recipe = tiny_recipe(
        folder / "data", "model.backbone=mlp", "model.options={}", "model.width=16", "optimizer.embedding_lr=0.05",
        "optimizer.dense_lr=0.01", "training.epochs=2", "training.eval_interval=1000",
    )  # fmt: skip
    return train(recipe, folder=folder / "run", quiet=True)


def _effect(rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal(8)
    return (values - values.mean()) / values.std()


def test_the_order_is_that_of_the_known_effects(world: RunFolder) -> None:
    found = measure_importance(world.folder, ImportanceOptions(repeats=3))
    assert [part.name for part in found.parts][:3] == ["strong", "medium", "weak"]
    by_name = {part.name: part.losses for part in found.parts}
    for name in ("strong", "medium"):
        assert by_name[name]["auc"].low > 0
        assert by_name[name]["log_loss"].low > 0
    assert by_name["none"]["auc"].low < 0 < by_name["none"]["auc"].high
    # a feature that is equal in all rows of a user cannot change the order within a user by itself
    assert abs(by_name["strong"]["uauc"].worse) < by_name["medium"]["uauc"].worse
    test = (world.result or {})["test"]["click"]
    assert found.base == pytest.approx({name: test[name] for name in ("auc", "uauc", "log_loss")}, abs=1e-9)


def test_domains_and_groups_are_replaced_together(world: RunFolder) -> None:
    options = ImportanceOptions(by="domains", groups=[("strong", "context")], rows=400)
    found = measure_importance(world.folder, options)
    members = {part.name: part.parts for part in found.parts}
    assert members == {
        "user": ("strong",),
        "context": ("medium", "weak", "none"),
        "strong + context": ("strong", "medium", "weak", "none"),
    }
    assert 400 <= found.rows < 450
    everything = next(part.losses["auc"] for part in found.parts if part.name == "strong + context")
    assert everything.worse == pytest.approx(found.base["auc"] - 0.5, abs=0.08)


def test_missing_values_are_no_information(world: RunFolder) -> None:
    found = measure_importance(world.folder, ImportanceOptions(missing=True, groups=[("user", "context")]))
    everything = next(part for part in found.parts if part.name == "user + context")
    assert everything.losses["auc"].worse == pytest.approx(found.base["auc"] - 0.5, abs=0.01)
    assert found.replaced_by == "missing"


def test_rows_of_a_user_move_together() -> None:
    users = np.random.default_rng(1).integers(0, 20, 300)
    donors = user_donors(users, np.random.default_rng(2))
    pairs = {(int(user), int(donor)) for user, donor in zip(users, users[donors], strict=True)}
    assert len(pairs) == 20
    assert all(user != donor for user, donor in pairs)


def test_a_history_is_one_part_of_a_batch(toy_dataset: Dataset) -> None:
    rows = next(toy_dataset.parts("test"))
    spec = toy_dataset.transform.spec
    batch = toy_dataset.transform.batch(rows.take(np.arange(6)))
    donor = toy_dataset.transform.batch(rows.take(np.arange(5, -1, -1)))
    moved = mixed(batch, donor, spec, ["clicks", "price"])
    assert torch.equal(moved.sequence_values["clicks"], donor.sequence_values["clicks"])
    assert torch.equal(moved.sequence_offsets["clicks"], donor.sequence_offsets["clicks"])
    assert torch.equal(moved.sparse_ids, batch.sparse_ids)
    changed = (moved.dense_features.nan_to_num() != batch.dense_features.nan_to_num()).any(0)
    names = [field.name for field in spec.dense for _ in range(field.width)]
    assert {name for name, differs in zip(names, changed.tolist(), strict=True) if differs} == {"price"}
    empty = without(batch, spec, ["clicks", "item_id"])
    assert not empty.sequence_offsets["clicks"].any()
    assert not empty.sparse_ids[:, [f.name for f in spec.ids].index("item_id")].any()


def test_names_are_checked(toy_run: RunFolder) -> None:
    with pytest.raises(UnimixerError, match="is a column of the history 'clicks'; name the history"):
        measure_importance(toy_run.folder, ImportanceOptions(groups=[("clicked_items",)]))
    with pytest.raises(UnimixerError, match="unknown feature, history or domain 'prise'; did you mean 'price'"):
        measure_importance(toy_run.folder, ImportanceOptions(groups=[("prise",)]))
    with pytest.raises(UnimixerError, match="unknown task 'clik'"):
        measure_importance(toy_run.folder, ImportanceOptions(task="clik"))


def test_a_bundle_has_the_importance_of_its_run(toy_run: RunFolder, toy_folder: Path, tmp_path: Path) -> None:
    from unimixer.bundles import ExportOptions, export_run

    export_run(toy_run.folder, tmp_path / "bundle", ExportOptions(format="pt2"))
    with pytest.raises(UnimixerError, match="is a bundle, which has no dataset: give --data DATASET"):
        measure_importance(tmp_path / "bundle", ImportanceOptions())
    options = ImportanceOptions(rows=40, by="domains")
    of_run = measure_importance(toy_run.folder, options)
    of_bundle = measure_importance(tmp_path / "bundle", options, dataset=toy_folder)
    for one, other in zip(of_run.parts, of_bundle.parts, strict=True):
        assert one.name == other.name
        assert one.losses["log_loss"].worse == pytest.approx(other.losses["log_loss"].worse, abs=1e-4)
