"""Which ids have a row: the policies against a plain count of everything, and how an id that gets a row begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from needs import needs_torchrec
from safetensors.torch import load_file
from tiny import tiny_recipe
from torch import Tensor
from toy import SCHEMA, toy_tables

from unimixer.api import evaluate
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.errors import UnimixerError
from unimixer.features.managed import EMPTY
from unimixer.predictor import Predictor
from unimixer.training.config import EvictionConfig
from unimixer.training.eviction import COUNTS, LAST, Eviction, choose, due, ids_of, merged, policy_of
from unimixer.training.model import build_ranker, validate_recipe, with_tasks
from unimixer.training.optimizers import build_optimizers
from unimixer.training.run import RunFolder
from unimixer.training.train import train

pytestmark = needs_torchrec

Met = dict[int, tuple[int, int]]
"""Count and last step of every id."""


def score(policy: str, now: int, count: int, last: int) -> float:
    """What an id is worth; the definition that the policies are held to."""
    return {"lfu": float(count), "lru": -float(now - last + 1), "distance_lfu": count / (now - last + 1)}[policy]


def decided(policy: str, held: Met, met: Met, rows: int, now: int) -> Met:
    """Reference: those that have a row and those that were met, the best ``rows - 1`` by score, incumbents first."""
    known = {i: (count + met.get(i, (0, 0))[0], met.get(i, (0, last))[1]) for i, (count, last) in held.items()}
    fresh = {i: facts for i, facts in met.items() if i not in held}
    ranked = sorted(known.items(), key=lambda one: -score(policy, now, *one[1]))
    ranked += sorted(fresh.items(), key=lambda one: (-one[1][0], one[0]))
    ranked.sort(key=lambda one: -score(policy, now, *one[1]))  # stable
    return dict(ranked[: rows - 1])


@pytest.mark.parametrize("policy", ["lfu", "lru", "distance_lfu"])
@pytest.mark.parametrize("seed", range(4))
def test_a_policy_keeps_the_ids_that_its_definition_keeps(policy: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rule, rows = policy_of(EvictionConfig(policy=policy)), 12
    ids, row_of = torch.full((rows,), EMPTY), torch.arange(rows)
    state = {COUNTS: torch.zeros(rows).long(), LAST: torch.zeros(rows).long()}
    held: Met = {}
    for now in range(10, 200, 10):
        pieces = []
        for step in range(now - 9, now + 1):
            drawn = (torch.randn(30, generator=generator).abs() * 15).long() + now // 20  # what is popular drifts
            unique, counts = torch.unique(drawn, return_counts=True)
            pieces.append((unique, counts, torch.full_like(unique, step)))
        met = merged(pieces)
        as_dict = {int(i): (int(c), int(t)) for i, c, t in zip(*met, strict=True)}
        before = {int(i): int(r) for i, r in zip(ids, row_of, strict=True) if int(i) != EMPTY}
        expected_hits = sum(count for i, (count, _) in as_dict.items() if i in before)
        ids, taken, order, hits = choose(rule, ids, state, met, now)
        given, row_of = row_of[taken], row_of[order]
        after = {int(i): int(r) for i, r in zip(ids, row_of, strict=True) if int(i) != EMPTY}
        held = decided(policy, held, as_dict, rows, now)
        scores = [sorted(score(policy, now, *facts) for facts in held.values())]
        kept = {int(i): (int(c), int(t)) for i, c, t in zip(ids, state[COUNTS], state[LAST], strict=True)}
        if policy == "lfu":
            assert set(after) == set(held)
            assert {i: kept[i][0] for i in after} == {i: count for i, (count, _) in held.items()}
        else:  # ties at the border may fall either way: the scores must be the same
            if policy == "lru":
                kept = {i: (0, last) for i, (_, last) in kept.items()}
            scores.append(sorted(score(policy, now, *kept[i]) for i in after))
            assert scores[0] == pytest.approx(scores[1])
            held = {i: kept[i] for i in after}
        assert hits == expected_hits
        assert {i: after[i] for i in after if i in before} == {i: r for i, r in before.items() if i in after}
        assert {after[i] for i in after if i not in before} <= set(given.tolist())
        assert sorted(row_of.tolist()) == list(range(rows))  # no row twice
        assert int(ids[-1]) == EMPTY
        assert int(row_of[-1]) == rows - 1  # the shared row is nobody's


def test_decisions_come_early_while_no_id_has_a_row() -> None:
    assert [step for step in range(1, 33) if due(step, 10)] == [1, 2, 4, 8, 10, 20, 30]
    assert [step for step in range(1, 5) if due(step, 1)] == [1, 2, 3, 4]


def test_sets_of_ids_add_up() -> None:
    one = (torch.tensor([3, 5]), torch.tensor([1, 4]), torch.tensor([7, 2]))
    two = (torch.tensor([5, 9]), torch.tensor([2, 1]), torch.tensor([1, 8]))
    assert [tensor.tolist() for tensor in merged([one, two])] == [[3, 5, 9], [1, 6, 1], [7, 2, 8]]


MANAGED = (
    "model.managed_embeddings={item_id: 12, category: 3}",
    "optimizer.eviction={item_id: {eviction_interval: 2}}",
)


@pytest.mark.parametrize("sparse", ["adam", "rowwise_adagrad", "sgd"])
def test_an_id_that_gets_a_row_begins_anew_and_all_others_keep_theirs(sparse: str, toy_dataset: Dataset) -> None:
    recipe = tiny_recipe(toy_dataset.folder, *MANAGED, f"optimizer.sparse={sparse}", "tasks={is_click: 1.0}")
    torch.manual_seed(0)
    model = build_ranker(recipe.model, with_tasks(toy_dataset.transform.spec, tuple(recipe.tasks)))
    optimizers = build_optimizers(model, recipe.optimizer)
    eviction = Eviction.of(model, recipe, optimizers["sparse"])
    assert eviction is not None
    batch = next(Loader(toy_dataset, "train", batch_size=200, num_workers=0).batches())
    model(batch).sum().backward()
    optimizers["sparse"].step()
    weight = model.embedding.tables.of_width(4).weight
    states = [t for t in optimizers["sparse"].state[weight].values() if t.dim()]
    for tensor in states:
        tensor += 1.0  # so that a row of zeros is one that was cleared
    before, cleared = weight.detach().clone(), torch.zeros(len(weight), dtype=torch.bool)
    eviction.observe([batch], 0)
    eviction.step()
    for name in ("item_id", "category"):
        held, first = model.embedding.managed.of(name), model.embedding.tables.first_row(name)
        assert held is not None
        assert bool((held.ids[:-1] != EMPTY).all())
        counts = torch.bincount(ids_of(model.spec, name, [batch]))
        kept, rest = counts[held.ids[:-1]], counts.clone()
        rest[held.ids[:-1]] = 0
        assert int(kept.min()) >= int(rest.max())  # the ids that are met most
        cleared[first + held.rows[:-1]] = True
    assert torch.equal(weight[~cleared], before[~cleared])
    assert not torch.isclose(weight[cleared], before[cleared]).any()
    assert float(weight[cleared].detach().std()) == pytest.approx(0.01, rel=0.5)
    assert (sparse == "sgd") == (not states)
    for tensor in states:
        assert not tensor[cleared].any()
        assert tensor[~cleared].all()


def test_a_run_learns_who_has_a_row_and_keeps_it(toy_folder: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(toy_folder, *MANAGED, "training.epochs=2"), folder=tmp_path / "run", quiet=True)
    weights = load_file(run.best_weights)
    ids: Tensor = weights["embedding.managed.maps.0.ids"]
    assert bool((ids[:-1] != EMPTY).all())
    assert bool((ids[1:] > ids[:-1]).all())
    lines = [line for line in RunFolder(run.folder).history() if "managed.item_id.hits" in line]
    assert lines[0]["managed.item_id.hits"] == 0.0  # at first no id has a row
    assert lines[-1]["managed.item_id.hits"] > 0.2


def test_ids_of_an_id_space_beyond_all_memory_are_trained_on(tmp_path: Path) -> None:
    hashed = {"policy": "hash", "num_buckets": 2_000_000_000}
    features = [{**f, "vocabulary": hashed} if f["name"] == "item_id" else f for f in SCHEMA["features"]]
    dataset = prepare(toy_tables(features=features), tmp_path / "store")
    assert dataset.transform.spec.tables["item_id"] == 2_000_000_002
    rows = tiny_recipe(dataset.folder, "model.managed_embeddings={item_id: 20}")
    run = train(rows, folder=tmp_path / "run", quiet=True)
    held = load_file(run.best_weights)["embedding.managed.maps.0.ids"]
    assert 10**8 < int(held[10]) < 2 * 10**9
    assert set(Predictor(run.folder).tasks) == {"is_click", "long_view"}
    assert evaluate(run.folder, "test")["is_click"].auc == (run.result or {})["test"]["is_click"]["auc"]


def test_no_admission_and_no_eviction_is_lost_between_two_lines_of_the_log(toy_folder: Path, tmp_path: Path) -> None:
    busy = (
        "optimizer.eviction={item_id: {eviction_interval: 1, policy: lru}}",
        "training.batch_size=8",
        "training.max_steps=20",
    )
    totals = []
    for every in (1, 7):
        recipe = tiny_recipe(toy_folder, MANAGED[0], *busy, f"training.log_every={every}")
        run = train(recipe, folder=tmp_path / str(every), quiet=True)
        lines = [line for line in run.history() if "managed.item_id.hits" in line]
        totals.append([sum(line[f"managed.item_id.{name}"] for line in lines) for name in ("admitted", "evicted")])
    assert totals[0] == totals[1]
    assert min(totals[0]) > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.eviction={item_di: {eviction_interval: 2}}", "managed table in optimizer.eviction 'item_di'"),
        ("optimizer.eviction={tab: {eviction_interval: 2}}", "managed table in optimizer.eviction 'tab'"),
        ("model.managed_embeddings={item_id: 5000}", "needs no 5,000 managed rows"),
        ("model.managed_embeddings={itemid: 5}", "did you mean 'item_id'"),
    ],
)
def test_a_mistake_is_one_sentence(override: str, message: str, toy_dataset: Dataset) -> None:
    recipe = tiny_recipe(toy_dataset.folder, "tasks={is_click: 1.0}", MANAGED[0], override)
    with pytest.raises(UnimixerError, match=message):
        validate_recipe(recipe, toy_dataset.transform.spec)
