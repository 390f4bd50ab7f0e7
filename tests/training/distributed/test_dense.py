"""Dense parameters cut over processes train what one process trains, for every backbone and in every form."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from built_once import built_once
from launch import change, largest_difference, losses, run_jobs, said
from needs import needs_torchrec
from safetensors.torch import load_file
from tiny import tiny_values
from toy import toy_tables

from unimixer.api import evaluate
from unimixer.backbones import BACKBONES, build_backbone
from unimixer.blocks import RMSNorm
from unimixer.data.prepare import prepare
from unimixer.ranker import TABLES
from unimixer.settings import parse
from unimixer.training.config import Recipe
from unimixer.training.consolidate import consolidate_run
from unimixer.training.distributed.dense import _placement, layers, whole_parameters
from unimixer.training.run import RunFolder
from unimixer.training.train import resume, train

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.timeout(600)]

ATTENTION = {"sequences": "cross_attention", "width": 8}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"backbone": name, "width": 8} for name in BACKBONES},
    "siamese": {"backbone": "unimixer", "width": 8, "options": {"residual": "siamese"}},
    "attention": {"backbone": "unimixer-lite", **ATTENTION},
    "attention, siamese": {"backbone": "unimixer-lite", **ATTENTION, "options": {"residual": "siamese"}},
    "queries": {"backbone": "hyformer", **ATTENTION},
    "auxiliary": {"backbone": "tokenmixer-large", "width": 8, "options": {"num_blocks": 4}},
    "dots": {"backbone": "rankmixer", "width": 8, "options": {"dots": True}},
    "mixture": {"backbone": "rankmixer", "width": 8, "options": {"ffn": "relu-moe"}},
    "top-k mixture": {"backbone": "rankmixer", "width": 16, "options": {"ffn": "topk-moe"}},
    "recomputed": {"backbone": "unimixer-lite", "width": 8, "recompute": True, "options": {"num_blocks": 3}},
}

FSDP, SIX = "distributed.dense=fsdp", "distributed.data_shards=6"
SGD = ("optimizer.dense=sgd", "optimizer.sparse=sgd", "optimizer.dense_lr=0.1", "optimizer.embedding_lr=1.0")
SCENARIOS: dict[str, tuple[str, ...]] = {
    "sgd": (
        *("distributed.data_shards=3", "training.batch_size=60", *SGD, "training.gradient_accumulation_steps=3"),
        "optimizer.clip_norm=0.05",
    ),
    "adam": (
        *(SIX, "optimizer.dense=adamw", "optimizer.weight_decay=0.01", "optimizer.mixing_lr=0.01"),
        *("temperature.end=0.5", "optimizer.clip_norm=0.1", "training.activation_checkpointing=true"),
        *("model.task_head=mmoe", "model.task_head_options={num_experts: 2, expert_dims: [8]}"),
        "loss_weighting.kind=gradnorm",
    ),
    "mixture": (
        *(SIX, *SGD, "model.options.ffn=relu-moe", "model.options.ffn_options={num_experts: 2, combine: mean}"),
        "model.managed_embeddings={item_id: 12}",
    ),
    "bfloat16": (SIX, *SGD, "training.precision=bfloat16"),
    "muon": (
        *(SIX, "optimizer.dense=muon", "optimizer.weight_decay=0.01", "optimizer.mixing_lr=0.01"),
        *("temperature.end=0.5", "averaging.kind=ema", "averaging.decay=0.6"),
        *("model.task_head=ple", "model.task_head_options={num_experts: 1, expert_dims: [8]}"),
        "loss_weighting.kind=uncertainty",
    ),
}
LOSS = {"sgd": 1e-6, "adam": 1e-5, "mixture": 1e-6, "bfloat16": 2e-2, "muon": 1e-5}
"""Largest difference of the loss of any step from that of one process."""
WEIGHTS = {"sgd": 1e-6, "adam": 2e-4, "mixture": 1e-6, "bfloat16": 2e-2, "muon": 1e-3}
"""The same for weights; see the runs whose dense parameters are not cut."""
RESUMED = ("cut-3", "cut-ddp-3", "not-cut-3")
STOPPED = 5
"""Step after which a run is asked to stop."""


def values(folder: Path, *overrides: str) -> dict[str, Any]:
    return tiny_values(folder / "store", *overrides)


def job(folder: Path, name: str, target: str, *more: str, **acts: Any) -> dict[str, Any]:
    start = str(folder / "starts" / name)
    return {
        "kind": "train",
        "values": values(folder, *SCENARIOS[name], *more),
        "start": start,
        "folder": str(folder / target),
        **acts,
    }


def one_process(folder: Path) -> None:
    """The dataset, the weights that all begin with, and the runs to compare with."""
    prepare(toy_tables(), folder / "store")
    for name, overrides in SCENARIOS.items():
        first = parse(Recipe, values(folder, *overrides, "training.max_steps=1"), where=name)
        start = train(first, folder=folder / "starts" / name, quiet=True).folder
        recipe = parse(Recipe, values(folder, *overrides, FSDP), where=name)  # one process has nothing to cut
        train(recipe, folder=folder / f"{name}-1", start_from=start, quiet=True)


def two_processes(folder: Path) -> None:
    stops = {"number": signal.SIGTERM, "rank": 1, "step": STOPPED}
    often = "training.checkpoint_interval=2"
    jobs = [job(folder, name, f"{name}-2", FSDP) for name in SCENARIOS]
    jobs += [job(folder, "adam", "adam-ddp")]
    jobs += [job(folder, "adam", "cut", FSDP, often, **stops), job(folder, "adam", "not-cut", often, **stops)]
    jobs += [job(folder, "muon", "muon-ddp"), job(folder, "muon", "muon-cut", FSDP, often, **stops)]
    jobs += [job(folder, "sgd", "compiled", FSDP, "training.compile=true")]
    # a loss that is not finite at the second step, and weights that are not after the first
    jobs += [job(folder, "sgd", "poisoned", FSDP, "optimizer.dense_lr=1e30")]
    huge = ("tasks={is_click: 1e4, long_view: 1}", "optimizer.dense_lr=3e38", "optimizer.clip_norm=1e9")
    jobs += [job(folder, "sgd", "broken", FSDP, *huge, "training.eval_interval=1")]
    jobs += [{"kind": "gradients", "dataset": str(folder / "store"), "cases": CASES}]
    write(folder, 2, jobs)


def three_processes(folder: Path) -> None:
    jobs = [job(folder, name, f"{name}-3", FSDP) for name in SCENARIOS]
    for name, source, dense in (
        *(("cut-3", "cut", "fsdp"), ("cut-ddp-3", "cut", "ddp"), ("not-cut-3", "not-cut", "fsdp")),
        *(("cut-alone", "cut", "fsdp"), ("cut-together", "cut", "fsdp")),
        *(("muon-cut-3", "muon-cut", "fsdp"), ("muon-alone", "muon-cut", "fsdp"), ("muon-mean", "muon-cut", "fsdp")),
    ):
        shutil.copytree(folder / source, folder / name)
        change(folder / name, dense=dense)
    jobs += [{"kind": "resume", "folder": str(folder / name)} for name in (*RESUMED, "muon-cut-3")]
    few = ("unimixer", "attention, siamese", "auxiliary", "mixture", "wukong")
    jobs += [{"kind": "gradients", "dataset": str(folder / "store"), "cases": {name: CASES[name] for name in few}}]
    write(folder, 3, jobs)


def write(folder: Path, processes: int, jobs: Sequence[dict[str, Any]]) -> None:
    said = run_jobs(processes, jobs, folder / f"launch-{processes}")
    (folder / f"said-{processes}.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "sharded-dense", one_process, two_processes, three_processes)


def assert_same_training(one: Path, many: Path, name: str) -> None:
    """Assert equal curves and weights, within what rounding does to the scenario."""
    assert len(losses(one)) == len(losses(many)) > STOPPED
    assert losses(many) == pytest.approx(losses(one), abs=LOSS[name])
    assert largest_difference(one, many) < WEIGHTS[name]


@pytest.mark.parametrize("name", ["unimixer", "rankmixer", "tokenmixer-large", "dhen", "wukong", "transformer"])
def test_layers_are_apart_and_hold_nearly_all_of_a_backbone(name: str) -> None:
    backbone = build_backbone(name, num_tokens=8, **BACKBONES[name].dimensions(64, num_tokens=8))
    found = layers(backbone)
    parameters = [parameter for layer in found for parameter in layer.parameters()]
    assert len(found) > 1
    assert len(set(parameters)) == len(parameters)
    assert not [layer for layer in found if isinstance(layer, RMSNorm)]  # too small to be gathered by themselves
    whole = sum(parameter.numel() for parameter in {*whole_parameters(backbone)} - {*parameters})
    assert sum(map(torch.Tensor.numel, parameters)) + whole > 0.7 * sum(p.numel() for p in backbone.parameters())


def test_a_parameter_is_cut_along_an_axis_of_equal_parts_if_there_is_one() -> None:
    cuts = {(16, 8, 10): 2, (16, 10, 10): 1, (15, 10, 10): 0, (16, 8): 0, (3,): 0}
    for shape, axis in cuts.items():
        assert _placement(5)(torch.nn.Parameter(torch.empty(shape))).dim == axis


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_parts_are_those_of_the_whole(case: str, world: Path) -> None:
    for processes in (2, 3):
        for rank in said(world, f"said-{processes}"):
            assert rank[-1]["done"].get(case, {"difference": 0.0})["difference"] < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_a_process_holds_its_part_of_weights_and_of_their_adam_and_the_mixings(case: str, world: Path) -> None:
    for processes, most in ((2, 1.02), (3, 1.25)):  # eight tokens are two halves, or parts of three, three and two
        ranks = [rank[-1]["done"].get(case) for rank in said(world, f"said-{processes}")]
        for found in filter(None, ranks):
            assert found["own"] - found["whole"] <= most * (found["all"] - found["whole"]) / processes
            assert found["moments"] == 2 * found["learned"] > 0
        if ranks[0]:
            assert sum(found["own"] - found["whole"] for found in ranks) == ranks[0]["all"] - ranks[0]["whole"]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_parts_train_what_one_process_trains(name: str, processes: int, world: Path) -> None:
    assert_same_training(world / f"{name}-1", world / f"{name}-{processes}", name)
    one, many = (RunFolder(world / f"{name}-{n}").result or {} for n in (1, processes))
    same = ("steps", "samples", "dense_parameters", "table_parameters")
    assert [one[key] for key in same] == [many[key] for key in same]


def test_parts_train_what_processes_train_that_hold_all(world: Path) -> None:
    assert_same_training(world / "adam-ddp", world / "adam-2", "adam")


@pytest.mark.parametrize("run", RESUMED)
def test_a_run_goes_on_with_other_ranks_and_parameters_cut_or_not(run: str, world: Path) -> None:
    assert {"done": str(world / run)} in said(world, "said-3")[0]
    steps = [line["step"] for line in RunFolder(world / run).history() if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert_same_training(world / "adam-1", world / run, "adam")


def test_muon_and_the_mean_of_weights_go_on_with_other_ranks_or_one(world: Path) -> None:
    assert_same_training(world / "muon-1", world / "muon-ddp", "muon")
    assert {"done": str(world / "muon-cut-3")} in said(world, "said-3")[0]
    assert_same_training(world / "muon-1", world / "muon-cut-3", "muon")
    assert_same_training(world / "muon-1", resume(world / "muon-alone", quiet=True).folder, "muon")


def test_a_checkpoint_of_parts_becomes_the_mean_of_its_weights(world: Path) -> None:
    run = RunFolder(world / "muon-mean")
    shutil.rmtree(run.sharded_best)
    consolidate_run(run)
    tensors = load_file(run.checkpoints / f"step-{STOPPED:09d}" / "optimizer.safetensors")
    means, best = [name for name in tensors if name.startswith("averaging.")], load_file(run.best_weights)
    dense = [name for name in best if TABLES not in name]
    assert len(means) == len(dense) - len([name for name in dense if name.endswith((".temperature", ".ids", ".rows"))])
    assert all(any(torch.equal(tensors[mean], best[name]) for name in dense) for mean in means)


def test_a_run_with_parts_goes_on_with_one_process(world: Path) -> None:
    assert_same_training(world / "adam-1", resume(world / "cut-alone", quiet=True).folder, "adam")


def test_a_checkpoint_of_parts_is_that_of_processes_that_hold_all(world: Path) -> None:
    step = f"checkpoints/step-{STOPPED:09d}"
    for file in ("model.safetensors", "optimizer.safetensors"):
        cut, not_cut = (load_file(world / run / step / file) for run in ("cut", "not-cut"))
        assert {name: tensor.shape for name, tensor in cut.items()} == {n: t.shape for n, t in not_cut.items()}
        assert max(float((cut[name] - not_cut[name]).abs().max()) for name in cut) < 2e-4


def test_a_killed_process_that_holds_parts_is_started_again(world: Path, tmp_path: Path) -> None:
    acts = {"number": signal.SIGKILL, "rank": 1, "step": STOPPED}
    killed = job(world, "adam", "killed", FSDP, "training.checkpoint_interval=2", **acts)
    run = tmp_path / "run"
    ranks = run_jobs(2, [killed | {"folder": str(run)}], tmp_path / "launch", restarts=1)
    assert ranks == [[{"done": str(run)}]] * 2
    steps = [line["step"] for line in RunFolder(run).history() if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert largest_difference(world / "adam-2", run) < 1e-6


def test_an_interrupted_run_with_parts_is_put_together_by_hand(world: Path) -> None:
    run = RunFolder(world / "cut-together")
    consolidate_run(run)
    metrics = evaluate(run.folder, "validation")
    logged = [m for m in run.history() if m["kind"] == "validation" and m["task"] == "is_click"]
    assert metrics["is_click"].auc == max(line["auc"] for line in logged)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (-4, "distributed.dense=fsdp does not go with training.compile"),
        (-3, "the loss is not finite; the first module with an output that is not finite is"),
        (-2, "step 1: parameter "),
    ],
    ids=["compiled", "diverged", "broken"],
)
def test_what_parts_cannot_do_is_one_sentence_on_every_rank(place: int, message: str, world: Path) -> None:
    found = [rank[place]["error"] for rank in said(world, "said-2")]
    assert message in found[0]
    assert len(set(found)) == 1
