"""A rate of their own for the raw parameters of constrained mixings."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed import train_killed
from tiny import assert_equal_tensors, tiny_values

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.mixing import Constrained
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.model import build_ranker, resolve, validate_recipe
from unimixer.training.optimizers import MIXING_EPS, build_optimizers
from unimixer.training.train import resume, train

OPTIONS = [
    "",
    "matrices: blocks",
    "matrices: blocks, gate: 0.05, init: random",
    "range_cap: 2.0, init: random",
    "matrices: blocks, rank: null, constraint: permutations",
    "matrices: blocks, rank: null, constraint: kronecker, block_size: 1",
    "matrices: blocks, rank: null, constraint: unit-rows, symmetric: false",
    "matrices: blocks, constraint: orthogonal, symmetric: false",
    "matrices: blocks, rank: null, constraint: free, symmetric: false, init: orthogonal",
]
"""Options of the backbone, one form of learned mixing each."""


def recipe_of(dataset: Path, *overrides: str) -> Recipe:
    return parse(Recipe, tiny_values(dataset, *overrides), where="recipe")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_only_constrained_parameters_have_it(toy_folder: Path, options: str) -> None:
    spec = Dataset(toy_folder).transform.spec
    overrides = ("optimizer.mixing_lr=0.05", "optimizer.dense_lr=0.001", f"model.options={{{options}}}")
    recipe = resolve(recipe_of(toy_folder, *overrides), spec)
    model = build_ranker(recipe.model, spec)
    rest, mixing = build_optimizers(model, recipe.optimizer)["dense"].param_groups
    expected = {
        id(parameter)
        for part in model.modules()
        if isinstance(part, Constrained)
        for parameter in part.parameters(recurse=False)
    }
    learned = [p for name, p in model.backbone.named_parameters() if ".global_." in name or ".local." in name]
    assert expected == {id(parameter) for parameter in learned}  # every number of a learned mixing
    assert {id(parameter) for parameter in mixing["params"]} == expected
    assert not expected & {id(parameter) for parameter in rest["params"]}
    assert (rest["base_lr"], mixing["base_lr"], mixing["eps"]) == (0.001, 0.05, MIXING_EPS)


def test_a_matrix_a_head_has_it_too(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    model_keys = ("model.backbone=token-mixer", "model.options={mixing: per-head}")
    recipe = resolve(recipe_of(toy_folder, "optimizer.mixing_lr=0.05", *model_keys), spec)
    model = build_ranker(recipe.model, spec)
    _, mixing = build_optimizers(model, recipe.optimizer)["dense"].param_groups
    assert {id(p) for p in mixing["params"]} == {
        id(p) for name, p in model.named_parameters() if name.endswith("global_.weight")
    }
    assert len(mixing["params"]) == 2


def test_a_killed_run_ends_in_the_same_bits(toy_folder: Path, tmp_path: Path) -> None:
    rate = "optimizer.mixing_lr=0.05"
    whole = train(recipe_of(toy_folder, rate), folder=tmp_path / "whole", quiet=True)
    train_killed(tiny_values(toy_folder, rate), tmp_path / "killed", "step", 2)
    resumed = resume(tmp_path / "killed", quiet=True)
    assert_equal_tensors(whole.folder / "best", resumed.folder / "best")


def test_a_model_without_mixings_refuses_it(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    recipe = recipe_of(toy_folder, "optimizer.mixing_lr=0.05", "model.backbone=mlp", "model.options={}")
    with pytest.raises(UnimixerError, match=r"mixing_lr=0.05: this model has no learned mixing; leave mixing_lr"):
        validate_recipe(resolve(recipe, spec), spec)
