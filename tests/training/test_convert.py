from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_values

from unimixer.api import evaluate
from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.evaluation import evaluate_hardened
from unimixer.settings import override
from unimixer.training.config import Recipe
from unimixer.training.convert import conversion_change, converted_ranker, converted_recipe
from unimixer.training.model import load_ranker
from unimixer.training.run import RunFolder
from unimixer.training.train import train


@pytest.fixture(scope="module")
def rankmixer(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    values = override(tiny_values(toy_folder), ["model.backbone=rankmixer", "model.options={}"])
    return train(Recipe(**values), folder=tmp_path_factory.mktemp("convert") / "rankmixer", quiet=True)


@pytest.mark.parametrize("to", ["unimixer", "unimixer-lite"])
def test_a_rankmixer_run_becomes_a_unimixer_that_trains_on_from_its_scores(
    rankmixer: RunFolder, toy_folder: Path, tmp_path: Path, to: str
) -> None:
    recipe = converted_recipe(rankmixer, to)
    assert recipe.model.backbone == to
    change = conversion_change(rankmixer, recipe, Dataset(toy_folder))
    assert change.rows == Dataset(toy_folder).summary("validation").rows
    assert change.max_logit_difference < 1e-4
    assert change.mean_logit_difference <= change.max_logit_difference
    run = train(recipe, folder=tmp_path / "on", start_from=rankmixer.folder, quiet=True)
    assert run.warm_start == rankmixer.folder.resolve()
    assert run.result is not None
    moved = [name for name, p in load_ranker(run).named_parameters() if "global_" in name and p.abs().max() > 0]
    assert moved


def test_a_lite_run_becomes_a_full_one_with_equal_scores_for_any_options(toy_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "matrices": "blocks",
        "init": "random",
        "local": "shared",
        "residual": "siamese",
        "block_size": 2,
    }
    values = tiny_values(toy_folder, "training.max_steps=1", "model.backbone=unimixer-lite")
    values["model"]["options"] = options
    run = train(Recipe(**values), folder=tmp_path / "lite", quiet=True)
    recipe = converted_recipe(run, "unimixer")
    given = {name: value for name, value in options.items() if name != "matrices"}  # the default of a UniMixer
    assert given.items() <= recipe.model.options.items()
    assert conversion_change(run, recipe, Dataset(toy_folder)).max_logit_difference < 1e-4
    assert converted_ranker(run, recipe.model).backbone.patterns() == (
        "doubly stochastic, symmetric, shared",
        "learned, doubly stochastic, symmetric, full",
    )


def test_what_cannot_be_converted_is_refused(rankmixer: RunFolder, toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnimixerError, match=r"a rankmixer cannot be converted to 'mlp'; what can be: rankmixer to"):
        converted_recipe(rankmixer, "mlp")
    with pytest.raises(UnimixerError, match="it has no learned mixing to harden"):
        evaluate_hardened(rankmixer.folder, "permutation", "test")
    other = Recipe(**override(tiny_values(toy_folder), ["model.backbone=mlp", "model.options={}"]))
    with pytest.raises(UnimixerError, match="for a recipe whose sizes fit: unimixer convert"):
        train(other, folder=tmp_path / "other", start_from=rankmixer.folder, quiet=True)
    assert not (tmp_path / "other").exists()


def test_a_warm_start_from_another_constraint_is_refused(toy_run: RunFolder, toy_folder: Path, tmp_path: Path) -> None:
    free = Recipe(**override(tiny_values(toy_folder), ["model.options.constraint=free"]))
    with pytest.raises(UnimixerError, match="was trained with constraint='sinkhorn', and this model has 'free'"):
        train(free, folder=tmp_path / "free", start_from=toy_run.folder, quiet=True)


def test_hardening_reports_how_far_scores_move(toy_run: RunFolder) -> None:
    soft = evaluate(toy_run.folder, "test", device="cpu")
    rule, change = evaluate_hardened(toy_run.folder, "permutation", "test")
    assert 0 < change.max_logit_difference < 0.5  # one short run hardly leaves the rule
    assert rule.keys() == soft.keys()
    _, sparse = evaluate_hardened(toy_run.folder, "top-4", "test")
    assert sparse.max_logit_difference <= change.max_logit_difference + 1e-6
    with pytest.raises(UnimixerError, match="form='half' is not known"):
        evaluate_hardened(toy_run.folder, "half", "test")
    assert torch.isfinite(torch.tensor(change.mean_logit_difference))
