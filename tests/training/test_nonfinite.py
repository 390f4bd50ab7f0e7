"""The first module that gives a number that is not finite is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.features.batch import Batch
from unimixer.ranker import Ranker
from unimixer.training.model import build_ranker
from unimixer.training.step import diverged, first_nonfinite_module, first_nonfinite_parameter


@pytest.fixture
def model(toy_dataset: Dataset) -> Ranker:
    torch.manual_seed(0)
    return build_ranker(tiny_recipe("x").model, toy_dataset.transform.spec)


@pytest.fixture
def batch(toy_dataset: Dataset) -> Batch:
    return next(Loader(toy_dataset, "train", batch_size=64).batches())


def test_a_healthy_model_has_none(model: Ranker, batch: Batch) -> None:
    assert first_nonfinite_module(model, batch) is None
    assert first_nonfinite_parameter(model) is None


@pytest.mark.parametrize(
    ("parameter", "module"),
    [
        ("embedding.numeric.", "embedding.numeric"),
        ("embedding.vectors.", "embedding.vectors."),
        ("tokenizer.", "tokenizer"),
        ("backbone.", "backbone."),
        ("towers.towers.1.2.", "towers.towers.1.2"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_module_in_the_order_of_computation_is_named(
    parameter: str, module: str, value: float, model: Ranker, batch: Batch
) -> None:
    name = next(n for n, p in model.named_parameters() if n.startswith(parameter) and p.dim() > 1)
    with torch.no_grad():
        model.get_parameter(name).fill_(value)
    found = first_nonfinite_module(model, batch)
    assert found is not None
    assert found.startswith(module)
    assert first_nonfinite_parameter(model) == name


def test_hooks_are_removed(model: Ranker, batch: Batch) -> None:
    first_nonfinite_module(model, batch)
    assert all(not module._forward_hooks for module in model.modules())


def test_the_error_names_what_is_left(tmp_path: Path) -> None:
    assert "; there is no checkpoint yet; lower the" in str(diverged(3, "the loss is not finite", tmp_path))
    (tmp_path / "step-000000002").mkdir()
    assert f"the last good checkpoint is {tmp_path}/step-000000002;" in str(diverged(3, "x", tmp_path))
