"""A model that ignores some features does not read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.experiments.ablations import ablations
from unimixer.ranker import Ranker
from unimixer.training.train import train


@pytest.mark.parametrize("sequences", ["pooled", "tokens"])
@pytest.mark.parametrize("encoder", ["mean", "target_attention"])
def test_scores_do_not_depend_on_ignored_features(toy_dataset: Dataset, sequences: str, encoder: str) -> None:
    transform = toy_dataset.transform
    options = {"sequences": sequences, "sequence_encoder": encoder, "num_tokens": 8, "width": 1}
    ignored = ("item_id", "picture") if sequences == "tokens" else ("clicks", "item_id", "picture")
    model = Ranker(transform.spec, backbone="rankmixer", ignored_features=ignored, **options).eval()
    rows = next(toy_dataset.parts("test"))
    batch = transform.batch(rows.take(np.arange(20)))
    ids, dense = batch.sparse_ids.clone(), batch.dense_features.clone()
    ids[:, [f.name for f in transform.spec.ids].index("item_id")] = 0
    names = [f.name for f in transform.spec.dense for _ in range(f.width)]
    dense[:, [i for i, name in enumerate(names) if name == "picture"]] = float("nan")
    changed = replace(batch, sparse_ids=ids, dense_features=dense)
    assert not any(field.name in ("item_id", "picture", *ignored) for field in model.embedding.slices)
    assert torch.equal(model(batch), model(changed))
    if "clicks" in ignored:
        empty = {"clicks": batch.sequence_values["clicks"][:0]}, {"clicks": torch.zeros(21, dtype=torch.int64)}
        values, offsets = batch.sequence_values | empty[0], batch.sequence_offsets | empty[1]
        assert torch.equal(model(batch), model(replace(batch, sequence_values=values, sequence_offsets=offsets)))


def test_a_run_ignores_a_domain(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, "model.ignored_features=[behaviour]"), folder=tmp_path / "run", quiet=True)
    assert run.recipe.model.ignored_features == ("behaviour",)
    assert run.result is not None


def test_everything_cannot_be_ignored(toy_dataset: Dataset) -> None:
    with pytest.raises(UnimixerError, match="leaves the model no field to read"):
        Ranker(toy_dataset.transform.spec, ignored_features=("user", "item", "behaviour", "context"))


def test_an_ablation_trains_without_features() -> None:
    variants, left_out = ablations("rankmixer", without=("item_id", "behaviour"))
    assert [variant.label for variant in variants] == [
        "rankmixer", "rankmixer: without item_id", "rankmixer: without behaviour",
    ]  # fmt: skip
    assert variants[2].recipe == {"model.ignored_features": ["behaviour"]}
    assert not left_out
