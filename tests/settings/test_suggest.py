"""An unknown key gets the one that was meant, wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest
from toy import SCHEMA

from unimixer.data.schema import Schema
from unimixer.errors import UnimixerError
from unimixer.experiments.plan import Study
from unimixer.settings import override, parse
from unimixer.training.config import Recipe


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learning_rate", "optimizer.dense_lr"),
        ("lr", "optimizer.dense_lr"),
        ("training.lr", "optimizer.dense_lr"),
        ("optimizer.lr", "dense_lr"),
        ("batch_size", "training.batch_size"),
        ("Batch-Size", "training.batch_size"),
        ("model.batch_size", "training.batch_size"),
        ("epochs", "training.epochs"),
        ("seed", "training.seed"),
        ("model.seed", "training.seed"),
        ("dropout", "model.options.dropout"),
        ("embedding_dim", "model.embedding_dim"),
        ("hidden_units", "model.tower_hidden_dims"),
        ("patience", "training.patience"),
        ("backbone", "model.backbone"),
        ("bacth_size", "training.batch_size"),
        ("optimiser", "optimizer"),
        ("training.batchsize", "batch_size"),
        ("training.seeed", "seed"),
        ("dense_params", "model.dense_params"),
    ],
)
def test_an_unknown_key_of_a_recipe_gets_the_one_that_was_meant(key: str, meant: str) -> None:
    values: dict[str, Any] = {"name": "a", "dataset": "s"}
    with pytest.raises(UnimixerError) as error:
        parse(Recipe, override(values, [f"{key}=1"]), where="recipe")
    assert str(error.value) == f"override {key}=1: unknown key {key!r}; did you mean {meant!r}?"


def test_a_key_at_a_wrong_level_of_a_list_gets_its_place_below() -> None:
    feature = {**SCHEMA["features"][0], "min_count": 2}
    with pytest.raises(
        UnimixerError, match=r"'features\.0\.min_count'; did you mean 'features\.0\.vocabulary\.min_count'\?"
    ):
        parse(Schema, {**SCHEMA, "features": [feature]}, where="s")
    feature = {**SCHEMA["features"][0], "type": "numeric"}
    with pytest.raises(UnimixerError, match=r"'features\.0\.type'; did you mean 'kind'\?"):
        parse(Schema, {**SCHEMA, "features": [feature]}, where="s")
    with pytest.raises(UnimixerError, match=r"'timestamp'; did you mean 'keys\.time'\?"):
        parse(Schema, {**SCHEMA, "timestamp": "t"}, where="s")
    with pytest.raises(UnimixerError, match=r"'learning_rate'; did you mean 'dense_lr'\?"):
        parse(Study, {"data": ["s"], "models": ["mlp"], "params": ["1M"], "learning_rate": 1}, where="s")


def test_a_word_like_no_key_gets_the_keys_that_are_known_there() -> None:
    with pytest.raises(
        UnimixerError, match=r"unknown key 'zzz'; known: averaging, dataset, distributed, loss_weighting, metrics, "
    ):
        parse(Recipe, {"name": "a", "dataset": "s", "zzz": 1}, where="recipe")


@pytest.mark.parametrize(
    ("key", "value", "present"),
    [
        ("model.managed_rows", "{item_id: 5}", "model.managed_embeddings"),
        ("model.size", "64", "model.width"),
        ("model.readout", "flatten", "model.pooling"),
        ("store", "s", "dataset"),
        ("optimizer.sparse_lr", "0.1", "optimizer.embedding_lr"),
        ("optimizer.eviction.item_id.every", "3", "optimizer.eviction.item_id.eviction_interval"),
        ("training.accumulate", "2", "training.gradient_accumulation_steps"),
        ("training.evaluate_every", "2", "training.eval_interval"),
        ("training.checkpoint_every", "2", "training.checkpoint_interval"),
        ("training.early_stopping", "2", "training.patience"),
        ("training.auxiliary_weight", "0.1", "training.aux_loss_weight"),
        ("training.checkpoint_activations", "true", "training.activation_checkpointing"),
    ],
)
def test_a_former_key_is_refused_with_its_present_name(key: str, value: str, present: str) -> None:
    with pytest.raises(UnimixerError) as error:
        parse(Recipe, override({"name": "a", "dataset": "s"}, [f"{key}={value}"]), where="recipe")
    assert str(error.value) == f"override {key}={value}: unknown key {key!r}; it is now {present!r}"
