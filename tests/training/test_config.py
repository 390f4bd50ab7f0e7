"""Recipes: what may be written, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_recipe

from unimixer.errors import UnimixerError
from unimixer.settings import dump_yaml
from unimixer.training.config import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "count"), [("800K", 800_000), ("1.5M", 1_500_000), ("2 m", 2_000_000), ("1B", 10**9), ("123", 123)]
)
def test_counts_may_be_written_with_a_unit(text: str, count: int) -> None:
    assert tiny_recipe("x", "model.width=null", f"model.dense_params={text}").model.dense_params == count


def test_a_recipe_is_what_its_text_says() -> None:
    recipe = tiny_recipe("x", "tasks={b: 2.0, a: 1.0}", "optimizer.clip_norm=1.5")
    assert list(recipe.tasks) == ["b", "a"]  # the first task is the one that is monitored


def test_a_recipe_written_and_read_is_the_same(tmp_path: Path) -> None:
    overrides = ("optimizer.dense_lr=1e-7", "model.embedding_dims={item_id: 8}", "tasks={b: 2.0, a: 0.1}")
    recipe = tiny_recipe("x", *overrides)
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe))
    assert load_recipe(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_valid(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batchsize=1", r"unknown key 'training\.batchsize'; did you mean 'batch_size'\?"),
        ("trainig.seed=1", r"unknown key 'trainig'; did you mean 'training'\?"),
        ("training.batch_size=0", r"training\.batch_size=0: input should be greater than 0"),
        ("training.seed=-1", r"training\.seed=-1: input should be greater than or equal to 0"),
        ("optimizer.dense=lion", r"optimizer\.dense='lion': input should be 'adam', 'adamw', 'muon' or 'sgd'"),
        ("temperature.schedule=step", r"temperature\.schedule='step'"),
        ("name=a/b", r"name='a/b'"),
        ("name=..", r"name='\.\.'"),
        ("model.dense_params=-5", r"model\.dense_params=-5"),
        ("model.dense_params=5X", r"model\.dense_params='5X'"),
        ("tasks.click=0", r"tasks\.click=0"),
        ("training.precision=float16", r"training\.precision='float16'"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence(override: str, message: str) -> None:
    with pytest.raises(UnimixerError, match=f"^tiny.yaml: {message}") as caught:
        tiny_recipe("x", override)
    assert "\n" not in str(caught.value)


def test_nothing_is_changed_in_place() -> None:
    recipe: Recipe = tiny_recipe("x")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "y"  # type: ignore[misc]
