"""Several processes train what one trains: losses, weights, metrics, checkpoints, whatever their number."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from built_once import built_once
from launch import change, largest_difference, losses, run_jobs, said, torchrun
from needs import needs_torchrec
from safetensors.torch import load_file
from tiny import tiny_values
from toy import SCHEMA, toy_tables

from unimixer.api import evaluate
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.data.prepare import prepare
from unimixer.metrics import MetricAccumulator
from unimixer.predictor import Predictor
from unimixer.settings import dump_yaml, parse
from unimixer.training.config import Recipe
from unimixer.training.consolidate import consolidate_run
from unimixer.training.run import RunFolder
from unimixer.training.train import WARM_UP, resume, train

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.timeout(600)]

SGD = ("optimizer.dense=sgd", "optimizer.sparse=sgd", "optimizer.dense_lr=0.1", "optimizer.embedding_lr=1.0")
ATTENTION = ("model.sequence_encoder=target_attention",)
MIXTURE = (
    "model.options.ffn=relu-moe",
    "model.options.ffn_options={num_experts: 2, combine: mean}",
    "optimizer.dense_lr=0.003",
)
SIX = ("distributed.data_shards=6",)
MANAGED = ("model.managed_embeddings={item_id: 12, category: 4}",)
MMOE = ("model.task_head=mmoe", "model.task_head_options={num_experts: 3, expert_dims: [8]}")
PLE = ("model.task_head=ple", "model.task_head_options={num_experts: 1, num_levels: 2, expert_dims: [8]}")
GRADNORM = ("loss_weighting.kind=gradnorm", "loss_weighting.lr=0.1")
SCENARIOS: dict[str, tuple[str, ...]] = {
    "sgd": (*SIX, *SGD),
    "adam": (*SIX, "optimizer.decay=cosine"),
    "grouped": (
        *(
            *SIX,
            *ATTENTION,
            "optimizer.sparse=rowwise_adagrad",
            "optimizer.embedding_lr=0.01",
            "optimizer.clip_norm=0.1",
        ),
        *(
            "training.gradient_accumulation_steps=3",
            "training.epochs=2",
            "optimizer.warmup_steps=3",
            "distributed.sharding=row_wise",
        ),
    ),
    "mixture": (*SIX, *MIXTURE),
    "events": (*SIX, *SGD, "model.sequences=tokens", "model.num_tokens=4", "distributed.sharding=table_wise"),
    "uneven": ("distributed.data_shards=3", "training.batch_size=60", *SGD),
    "bfloat16": (*SIX, *SGD, "training.precision=bfloat16"),
    "managed": (*SIX, *SGD, "optimizer.eviction.item_id={policy: lfu, eviction_interval: 3}", *MANAGED),
    "tasks": (*SIX, *SGD, *MMOE, "loss_weighting.kind=uncertainty", "training.gradient_accumulation_steps=2"),
    "moved": (*SIX, *SGD, "dataset=FOLDER/moved", "distributed.sharding=row_wise"),
}
COLUMNS = (
    *(*SIX, "model.embedding_dim=8", "distributed.sharding=column_wise", "training.checkpoint_interval=2"),
    "distributed.tables={tab: row_wise, hour: table_wise}",
    *("optimizer.eviction.item_id={policy: distance_lfu, eviction_interval: 4}", *MANAGED),
    *(*PLE, *GRADNORM),
)
STARTS = {
    "grouped": ATTENTION,
    "mixture": MIXTURE[:2],
    "events": SCENARIOS["events"][-3:-1],
    "columns": (*COLUMNS[1:2], *MANAGED, *PLE),
    "managed": MANAGED,
    "tasks": MMOE,
}
EXACT = 1e-6
LOSS = {"adam": 1e-5, "grouped": 1e-5, "mixture": 1e-5, "bfloat16": 2e-2}
"""Largest difference of the loss of any step from that of one process, where it is not exact."""
WEIGHTS = {"adam": 2e-4, "grouped": 2e-4, "mixture": 2e-3, "bfloat16": 2e-2}
"""The same for weights. Adam divides by the size of a gradient: where that is rounding noise, so is the direction."""
STOPPED = 5
"""Step at which rank 1 of two is asked to stop."""


def values(folder: Path, *overrides: str) -> dict[str, Any]:
    return tiny_values(folder / "store", *(override.replace("FOLDER", str(folder)) for override in overrides))


def job(folder: Path, name: str, processes: int, *overrides: str, **more: Any) -> dict[str, Any]:
    start = str(folder / "starts" / (name if name in STARTS else "plain"))
    target = str(folder / f"{name}-{processes}")
    return {"kind": "train", "values": values(folder, *overrides), "folder": target, "start": start, **more}


def one_process(folder: Path) -> None:
    """The dataset, the weights that all begin with, and the runs to compare with."""
    prepare(toy_tables(), folder / "store")
    kept = {"vocabulary": {"max_size": 20}}
    features = [{**f, **kept} if f["name"] == "item_id" else f for f in reversed(SCHEMA["features"])]
    prepare(toy_tables(seed=3, features=features), folder / "moved")
    np.savez(folder / "rows.npz", **predictions())
    starts = {"plain": (), **STARTS}
    for name, overrides in starts.items():
        recipe = parse(Recipe, values(folder, *overrides, "training.max_steps=1"), where=name)
        train(recipe, folder=folder / "starts" / name, quiet=True)
    for name, overrides in {**SCENARIOS, "columns": COLUMNS}.items():
        start = folder / "starts" / (name if name in STARTS else "plain")
        recipe = parse(Recipe, values(folder, *overrides), where=name)
        train(recipe, folder=folder / f"{name}-1", start_from=start, quiet=True)


def predictions() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(997, 2)).round(1).astype(np.float32)  # rounded: with ties
    users = np.where(rng.random(997) < 0.1, -1 - np.arange(997), rng.integers(0, 40, 997))
    return {"logits": logits, "labels": rng.random((997, 2)) < 0.3, "users": users}


def two_processes(folder: Path) -> None:
    other = values(folder, *SCENARIOS["sgd"], "training.seed=7")
    jobs = [job(folder, name, 2, *overrides) for name, overrides in SCENARIOS.items()]
    jobs += [
        job(folder, "columns", 2, *COLUMNS, number=signal.SIGTERM, rank=1, step=STOPPED),
        job(folder, "starved", 2, "distributed.data_shards=1"),
        job(folder, "differing", 2, *SCENARIOS["sgd"], values_of_rank={"1": other}),
        {"kind": "metrics", "rows": str(folder / "rows.npz")},
    ]
    (folder / "two.json").write_text(json.dumps(run_jobs(2, jobs, folder / "two")), encoding="utf-8")


def three_processes(folder: Path) -> None:
    jobs = [job(folder, name, 3, *overrides) for name, overrides in SCENARIOS.items()]
    for name in ("columns-3", "columns-alone", "columns-together", "foreign"):
        shutil.copytree(folder / "columns-2", folder / name)
    change(folder / "columns-3", sharding="row_wise", tables={"tab": "table_wise"})
    recipe = RunFolder(folder / "foreign").recipe
    model = recipe.model.model_copy(update={"embedding_dim": 4})
    (folder / "foreign" / "config.yaml").write_text(dump_yaml(recipe.model_copy(update={"model": model})))
    jobs += [{"kind": "resume", "folder": str(folder / name)} for name in ("columns-3", "foreign", "adam-1")]
    jobs.append({"kind": "metrics", "rows": str(folder / "rows.npz")})
    (folder / "three.json").write_text(json.dumps(run_jobs(3, jobs, folder / "three")), encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "distributed", one_process, two_processes, three_processes)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_several_processes_train_what_one_trains(name: str, processes: int, world: Path) -> None:
    one, many = world / f"{name}-1", world / f"{name}-{processes}"
    assert len(losses(one)) == len(losses(many)) > 0
    assert losses(many) == pytest.approx(losses(one), abs=LOSS.get(name, EXACT))
    assert largest_difference(one, many) < WEIGHTS.get(name, EXACT)
    a, b = RunFolder(one).result or {}, RunFolder(many).result or {}
    assert b["processes"] == processes
    same = ("steps", "samples", "dense_parameters", "table_parameters")
    assert [a[key] for key in same] == [b[key] for key in same]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rows_of_data_prepared_anew_go_to_their_ids_on_any_number_of_processes(processes: int, world: Path) -> None:
    run = RunFolder(world / f"moved-{processes}")
    tables = run.warm_start_facts["tables"]
    assert tables["item_id"] == {"kept": 20, "new": 0, "lost": 9}
    assert all(counts["new"] == 0 for counts in tables.values())  # new rows would be drawn in another way by each
    assert run.recipe.model.field_order is not None  # the schema names its features in another order


@pytest.mark.parametrize("processes", [2, 3])
def test_all_processes_agree_on_who_has_a_row(processes: int, world: Path) -> None:
    one, many = RunFolder(world / "managed-1"), RunFolder(world / f"managed-{processes}")
    rates = [[{k: v for k, v in line.items() if "managed" in k} for line in run.history()] for run in (one, many)]
    assert rates[0] == rates[1]  # counts of ids are whole numbers: exactly
    last = [line for line in rates[1] if line][-1]
    assert last["managed.item_id.used"] == 1.0
    assert 0.3 < last["managed.item_id.hits"] < 1.0
    assert sum(line.get("managed.item_id.evicted", 0) for line in rates[1]) > 0
    maps = [load_file(run.best_weights)["embedding.managed.maps.0.ids"] for run in (one, many)]
    assert torch.equal(*maps)


def loss_weights(run: Path) -> list[dict[str, float]]:
    """The learned weights of the tasks' losses at every step."""
    lines = [line for line in RunFolder(run).history() if line["kind"] == "train"]
    return [{key: line[key] for key in line if key.startswith("loss_weight/")} for line in lines]


@pytest.mark.parametrize(
    ("one", "many"),
    [("tasks-1", "tasks-2"), ("tasks-1", "tasks-3"), ("columns-1", "columns-3")],
    ids=["uncertainty, 2", "uncertainty, 3", "gradnorm, 2 then 3"],
)
def test_learned_loss_weights_are_those_of_one_process(one: str, many: str, world: Path) -> None:
    expected, found = loss_weights(world / one), loss_weights(world / many)
    assert found == [pytest.approx(weights, abs=1e-5) for weights in expected]
    assert expected[0].keys() == {"loss_weight/is_click", "loss_weight/long_view"}
    assert max(abs(expected[-1][name] - expected[0][name]) for name in expected[0]) > 0.01  # they have moved


def test_shards_that_run_out_early_end_an_epoch_without_a_hang(world: Path) -> None:
    shards = [
        [len(b) for b in Loader(Dataset(world / "store"), "train", batch_size=60, shards=[s], num_shards=3).batches()]
        for s in range(3)
    ]
    assert any(sizes[-1] == 0 for sizes in shards)  # the last batch of "uneven": a rank has no rows for it
    assert len({len(sizes) for sizes in shards}) == 1
    assert (RunFolder(world / "uneven-3").result or {})["samples"] == sum(map(sum, shards))


def test_what_a_run_of_several_processes_leaves_is_an_ordinary_run(world: Path) -> None:
    run = RunFolder(world / "sgd-2")
    result = run.result or {}
    for split in ("validation", "test"):
        for task, metrics in evaluate(run.folder, split).items():
            assert metrics.as_dict() == pytest.approx(result[split][task], abs=1e-7)  # other batches, other rounding
            assert metrics.auc == result[split][task]["auc"]
    assert Predictor(run.folder).tasks == ("is_click", "long_view")
    assert not (run.folder / "best-sharded").exists()
    assert not [path for path in run.folder.rglob("*") if path.suffix in (".distcp", ".pt", ".pkl", ".metadata")]


@pytest.mark.parametrize(("name", "processes"), [("two", 2), ("three", 3)])
def test_metrics_of_parts_are_those_of_the_whole_to_the_last_digit(name: str, processes: int, world: Path) -> None:
    rows = predictions()
    whole = MetricAccumulator(("click", "like"))
    whole.update(rows["logits"], rows["labels"], rows["users"])
    expected = {task: metrics.as_dict() for task, metrics in whole.compute().items()}
    for rank in said(world, name):
        assert rank[-1] == {"done": expected}
    assert len(said(world, name)) == processes


def test_the_log_has_the_speed_and_the_waiting_of_every_rank(world: Path) -> None:
    lines = [line for line in RunFolder(world / "adam-3").history() if line["kind"] == "train"]
    for line in lines:
        assert len(line["samples_per_second_by_rank"]) == len(line["data_wait_by_rank"]) == 3
        assert line["samples_per_second"] == pytest.approx(sum(line["samples_per_second_by_rank"]))
    assert len({line["step"] for line in lines}) == len(lines)  # rank 0 alone writes


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_signal_to_any_rank_stops_all_after_a_checkpoint(world: Path) -> None:
    place = len(SCENARIOS)
    for rank in said(world, "two"):
        assert rank[place]["error"].startswith(f"stopped at step {STOPPED}; continue with: unimixer train --resume")
    found = sorted(path.name for path in (world / "columns-2" / "checkpoints").iterdir())
    assert found[-1] == f"step-{STOPPED:09d}"
    files = [path for path in (world / "columns-2").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask()}


def test_a_run_goes_on_with_another_number_of_ranks_and_another_plan(world: Path) -> None:
    assert said(world, "three")[0][len(SCENARIOS)] == {"done": str(world / "columns-3")}
    steps = [line["step"] for line in RunFolder(world / "columns-3").history() if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))  # none left out, none twice: the position in the data was kept
    assert losses(world / "columns-3") == pytest.approx(losses(world / "columns-1"), abs=1e-5)
    assert largest_difference(world / "columns-1", world / "columns-3") < 2e-4


def test_a_run_of_several_processes_goes_on_with_one(world: Path) -> None:
    run = resume(world / "columns-alone", quiet=True)
    assert losses(run.folder) == pytest.approx(losses(world / "columns-1"), abs=1e-5)
    assert largest_difference(world / "columns-1", run.folder) < 2e-4


def test_an_interrupted_run_is_put_together_by_hand(world: Path) -> None:
    run = RunFolder(world / "columns-together")
    source = consolidate_run(run)
    assert source.name == "best-sharded"
    metrics = evaluate(run.folder, "validation")
    logged = [m for m in run.history() if m["kind"] == "validation" and m["task"] == "is_click"]
    assert metrics["is_click"].auc == max(line["auc"] for line in logged)


@pytest.mark.parametrize(
    ("launch", "place", "message"),
    [
        ("two", 1, "distributed.data_shards=1: rank 1 of 2 processes would have no data; start at most 1 processes"),
        ("two", 2, "the processes disagree on recipe.training.seed: 0 on rank 0, 7 on rank 1"),
        ("three", 1, "foreign/checkpoints/step-000000005"),
    ],
    ids=["no data", "differing recipes", "another model"],
)
def test_a_mistake_is_one_sentence_on_every_rank(launch: str, place: int, message: str, world: Path) -> None:
    found = [rank[len(SCENARIOS) + place] for rank in said(world, launch)]
    assert len({str(one) for one in found}) == 1
    assert message in found[0]["error"]
    assert not (world / "starved-2").exists()


def test_a_finished_run_has_nothing_left_to_do(world: Path) -> None:
    found = [rank[len(SCENARIOS) + 2] for rank in said(world, "three")]
    assert found == [{"done": str(world / "adam-1")}] * 3


def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_nothing_had_been(world: Path, tmp_path: Path) -> None:
    acts = {"number": signal.SIGKILL, "rank": 1, "step": 6}
    overrides = (*SCENARIOS["adam"], "training.checkpoint_interval=2")
    jobs = [job(world, "adam", 2, *overrides, **acts) | {"folder": str(tmp_path / "run")}]
    ranks = run_jobs(2, jobs, tmp_path / "launch", restarts=2, agent=True)
    assert ranks == [[{"done": str(tmp_path / "run")}]] * 2
    run = RunFolder(tmp_path / "run")
    steps = [line["step"] for line in run.history() if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert losses(run.folder) == pytest.approx(losses(world / "adam-2"), abs=1e-6)
    assert largest_difference(run.folder, world / "adam-2") < 1e-6
    expected = (RunFolder(world / "adam-2").result or {})["test"]["is_click"]["auc"]
    assert (run.result or {})["test"]["is_click"]["auc"] == pytest.approx(expected, abs=1e-6)


def test_the_command_line_says_one_thing(world: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    two_stages = "temperature={schedule: two-stage, start: 0.9, end: 0.2}"
    recipe.write_text(json.dumps(values(world, "training.max_steps=2", two_stages)), encoding="utf-8")
    done = torchrun(2, "-m", "--", "unimixer", "train", str(recipe), "--run", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2  # one object, of rank 0
    assert RunFolder(tmp_path / "run").recipe.distributed.data_shards == 2
    assert (RunFolder(tmp_path / "run" / WARM_UP).result or {})["steps"] == 2
