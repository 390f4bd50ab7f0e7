"""From a recipe to a model, and to a device."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_recipe

from unimixer.data.dataset import Dataset
from unimixer.errors import UnimixerError
from unimixer.ranker import count_dense
from unimixer.training.model import build_ranker, monitor, pick_device, resolve, with_tasks


def test_a_resolved_recipe_says_its_size_and_tasks_and_resolves_to_itself(toy_dataset: Dataset) -> None:
    recipe = tiny_recipe(toy_dataset.folder, "model.width=null", "model.dense_params=8K")
    resolved = resolve(recipe, toy_dataset.transform.spec)
    assert resolved.model.width is not None
    assert resolved.model.dense_params is None
    assert resolve(resolved, toy_dataset.transform.spec) == resolved
    built = build_ranker(resolved.model, with_tasks(toy_dataset.transform.spec, tuple(resolved.tasks)))
    assert count_dense(built) == pytest.approx(8_000, rel=0.02)


def test_the_budget_is_that_of_the_chosen_tasks(toy_dataset: Dataset) -> None:
    overrides = ("model.width=null", "model.dense_params=8K", "tasks={is_click: 1.0}")
    resolved = resolve(tiny_recipe(toy_dataset.folder, *overrides), toy_dataset.transform.spec)
    built = build_ranker(resolved.model, with_tasks(toy_dataset.transform.spec, tuple(resolved.tasks)))
    assert len(built.towers.towers) == 1
    assert count_dense(built) == pytest.approx(8_000, rel=0.02)


def test_the_monitor_is_the_first_task_unless_named(toy_dataset: Dataset) -> None:
    spec = toy_dataset.transform.spec
    assert monitor(resolve(tiny_recipe("x"), spec)) == ("is_click", "auc")
    assert monitor(resolve(tiny_recipe("x", "tasks={long_view: 1.0}"), spec)) == ("long_view", "auc")
    named = tiny_recipe("x", "training.monitor=long_view.log_loss")
    assert monitor(resolve(named, spec)) == ("long_view", "log_loss")


def test_a_monitor_of_a_task_that_is_not_learned_is_refused(toy_dataset: Dataset) -> None:
    recipe = tiny_recipe("x", "tasks={is_click: 1.0}", "training.monitor=long_view.auc")
    with pytest.raises(UnimixerError, match=r"unknown training\.monitor 'long_view\.auc'"):
        resolve(recipe, toy_dataset.transform.spec)


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UnimixerError, match="this machine has 2 CUDA devices, from cuda:0"):
        pick_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnimixerError, match="this machine or this build of torch has no CUDA; use cpu"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cuda:x", "mps"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UnimixerError, match="is not known; use auto, cpu, cuda or cuda:N"):
        pick_device(name)
