"""The space of a search: what it refuses before anything trains, and the values that it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import tiny_recipe, tiny_values

from unimixer.errors import UnimixerError
from unimixer.experiments.tuning.default_space import default_space
from unimixer.experiments.tuning.space import check_space, has_effect, own_value, read_space
from unimixer.features import DenseField, FeatureSpec, IdField, SequenceField
from unimixer.settings import load_yaml
from unimixer.training.config import Recipe, load_recipe


def checked(text: str, folder: Path, *overrides: str) -> None:
    path = folder / "space.yaml"
    path.write_text(text)
    check_space(read_space(load_yaml(path), "space.yaml"), tiny_values("data", *overrides))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "space.yaml: no key to search"),
        ("optimizer.dense_lr: 0.1", "optimizer.dense_lr: expected one mapping for a dotted key of the recipe"),
        ("optimizer: {dense_lr: {log: [0.1, 1]}}", "unknown kind of optimizer: 'dense_lr'"),
        ("optimizer.dense_lr: {lgo: [0.1, 1]}", "unknown kind of optimizer.dense_lr: 'lgo'; did you mean 'log'?"),
        ("optimizer.dense_lr: {log: [0, 1]}", "log=[0, 1]: expected numbers between two positive ones"),
        ("optimizer.dense_lr: {uniform: [1, 0.5]}", "uniform=[1, 0.5]: expected numbers between two others"),
        ("model.num_tokens: {int: [1, 2.5]}", "int=[1, 2.5]: expected whole numbers"),
        ("optimizer.dense: {choice: [adam, adam]}", "expected the values of a list"),
        ("optimizer.dense: {choice: adam}", "expected the values of a list"),
        ("optimizer.dense_rl: {log: [0.1, 1]}", "unknown key 'optimizer.dense_rl'; did you mean 'dense_lr'?"),
        ("optimizer.dense: {choice: [adam, adagrad]}", "optimizer.dense='adagrad': input should be 'adam', 'adamw'"),
        ("training.batch_size: {uniform: [1, 8]}", "training.batch_size=3.333: input should be a valid integer"),
        ("model.embedding_dropout: {uniform: [0, 1]}", "model.embedding_dropout=1: input should be less than 1"),
        ("model.options.blocks: {int: [1, 2]}", "unknown option of backbone 'unimixer-lite': 'blocks'"),
        ("model.options.rank: {log: [1, 8]}", "model.options.rank is a whole number in 'unimixer-lite'; write {int:"),
        ("training.seed: {int: [0, 9]}", "training.seed cannot be searched: luck is not a setting; see --confirm"),
        ("training.threads: {int: [1, 2]}", "training.threads cannot be searched: it changes no result"),
        ("tasks.is_click: {uniform: [0.5, 1]}", "a search keeps the tasks; name them in the recipe"),
        (
            "optimizer.weight_decay: {log: [0.1, 1]}",
            "optimizer.weight_decay has no effect with optimizer.dense=adam; set or search optimizer.dense among",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError) as refused:
        checked(f"\n{text}\n", tmp_path)
    assert message in str(refused.value)
    assert ("space.yaml, line 2: " in str(refused.value)) == (text != "{}")


def test_a_key_and_a_part_of_it_are_not_searched_together(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"sets model\.options in part too; give one of them"):
        checked("model.options: {choice: [{rank: 2}]}\nmodel.options.rank: {int: [1, 2]}\n", tmp_path)


def test_an_option_must_be_one_of_all_backbones_that_are_searched(tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match="unknown option of backbone 'mlp': 'rank'"):
        checked("model.backbone: {choice: [unimixer-lite, mlp]}\nmodel.options.rank: {int: [1, 2]}\n", tmp_path)


@pytest.mark.parametrize(
    ("written", "drawn", "value"),
    [
        ({"log": [1e-4, 0.0123456]}, 0.0123456, 0.0123456),  # four digits would leave the range
        ({"log": [1e-4, 1e-2]}, 0.00123456, 0.001235),
        ({"uniform": [0, 1]}, 0.333333, 0.3333),
        ({"int": [1, 4]}, 3, 3),
        ({"choice": [[64], [32, 16]]}, "[32, 16]", [32, 16]),
        ({"choice": [None, 1.0]}, None, None),
    ],
)
def test_drawn_values_are_short_and_inside(written: dict[str, Any], drawn: Any, value: Any) -> None:
    (dimension,) = read_space({"a.b": written}, "space")
    assert dimension.suggest(optuna.trial.FixedTrial({"a.b": drawn})) == value
    assert dimension.holds(value)


def test_what_lies_outside_is_not_held() -> None:
    (whole,) = read_space({"a": {"int": [1, 4]}}, "space")
    assert [whole.holds(value) for value in (1, 4, 5, 2.5, None, True)] == [True, True, False, False, False, False]


def test_a_key_is_drawn_only_where_it_has_an_effect() -> None:
    recipe = tiny_recipe("data")
    assert not has_effect("optimizer.weight_decay", {}, recipe)
    assert has_effect("optimizer.weight_decay", {"optimizer.dense": "adamw"}, recipe)
    space = read_space(
        {"optimizer.weight_decay": {"log": [0.1, 1]}, "optimizer.dense": {"choice": ["adam", "adamw"]}}, "space"
    )
    assert [dimension.key for dimension in space] == ["optimizer.dense", "optimizer.weight_decay"]


def test_the_value_of_a_recipe_is_its_own_or_a_default() -> None:
    recipe = tiny_recipe("data")
    keys = ("model.options.rank", "model.options.residual", "optimizer.dense_lr", "model.tower_hidden_dims")
    assert [own_value(recipe, key) for key in keys] == [4, "post", 1e-3, [8]]


SPEC = FeatureSpec(
    ids=(IdField("user_id", "user", "user_id"), IdField("item_id", "item", "item_id")),
    dense=(DenseField("price", "item"),),
    sequences=(SequenceField("past_items", "behaviour", "item_id", "past", 5, "item_id"),),
    tables={"user_id": 9, "item_id": 7},
    labels=("click",),
)


def default_of(model: dict[str, Any], spec: FeatureSpec = SPEC, **sections: Any) -> dict[str, Any]:
    """The default space of a recipe, which the recipe and its data must take."""
    values = {"name": "x", "dataset": "data", "model": model, **sections}
    written = default_space(Recipe.model_validate(values), spec)
    check_space(read_space(written, "space"), values)
    return written


@pytest.mark.parametrize("backbone", ["unimixer-lite", "mlp", "rankmixer"])
def test_the_default_space_fits_every_recipe(backbone: str) -> None:
    written = default_of({"backbone": backbone, "dense_params": "100K", "num_tokens": 4})
    assert written["optimizer.dense_lr"] == {"log": [1e-4, 1e-2]}
    assert written["optimizer.dense"] == {"choice": ["adam", "adamw", "muon"]}
    assert written["training.batch_size"] == {"choice": [256, 512, 1024]}
    assert written["model.embedding_dim"] == {"choice": [8, 16, 32]}
    assert written["model.sequence_encoder"] == {"choice": ["mean", "target_attention", "din"]}
    assert written["averaging.kind"] == {"choice": ["none", "ema", "swa"]}
    assert ("model.options.dropout" in written, "model.options.num_blocks" in written) == (
        backbone == "mlp",
        backbone != "mlp",
    )


def test_the_default_space_of_a_packaged_recipe_searches_all_that_may_matter() -> None:
    recipe = load_recipe("kuairand-unimixer-lite")
    written = default_of(recipe.model.model_dump(exclude_unset=True))
    model = (
        "embedding_dropout",
        "options.num_blocks",
        "tower_crosses",
        "sequence_encoder",
        "embedding_dim",
        "num_tokens",
    )
    optimizer = ("dense_lr", "embedding_lr", "weight_decay", "dense")
    assert sorted(written) == sorted(
        [
            *(f"model.{name}" for name in model),
            *(f"optimizer.{name}" for name in optimizer),
            *("training.batch_size", "averaging.kind"),
        ]
    )


def test_the_default_space_leaves_out_what_the_recipe_or_its_data_do_not_take() -> None:
    small = {"backbone": "transformer", "width": 8, "num_tokens": 4, "options": {"num_blocks": 1}}
    assert default_of({**small, "embedding_dim": 1})["model.embedding_dim"] == {"choice": [1, 2]}
    without = replace(SPEC, sequences=())
    assert "model.sequence_encoder" not in default_of(small, without)
    assert "model.sequence_encoder" not in default_of({**small, "sequences": "tokens"})
    assert "model.num_tokens" not in default_of({**small, "tokenizer": "field", "embedding_dim": 8})
    decay = {"averaging": {"kind": "ema", "decay": 0.9}, "optimizer": {"dense": "sgd"}}
    written = default_of(small, **decay)
    assert not {"averaging.kind", "optimizer.dense", "optimizer.weight_decay"} & written.keys()
    vectors = {"item_id": {"path": "vectors.parquet"}}
    assert "model.embedding_dim" not in default_of(small, pretrained=vectors)
