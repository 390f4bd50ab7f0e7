"""A run goes on from another on any number of processes, and every id keeps its vector and its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from launch import largest_difference, losses, run_jobs
from needs import needs_torchrec
from tiny import tensors_of, tiny_recipe, tiny_values
from toy import day_tables

from unimixer.data.extend import extend
from unimixer.data.prepare import prepare
from unimixer.training.consolidate import read_sharded_checkpoint
from unimixer.training.run import RunFolder
from unimixer.training.train import train

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.timeout(600)]

OVERRIDES = (
    *("distributed.data_shards=2", "distributed.sharding=row_wise", "training.batch_size=64"),
    *("optimizer.dense_lr=0.01", "optimizer.embedding_lr=0.05", "training.new_rows=mean"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days that one process and two processes have learned, then one more day on either number."""
    folder = tmp_path_factory.mktemp("world")
    prepare(day_tables(*range(6)), folder / "data")
    values = tiny_values(folder / "data", *OVERRIDES)
    train(tiny_recipe(folder / "data", *OVERRIDES), folder=folder / "first-1", quiet=True)
    run_jobs(2, [{"kind": "train", "values": values, "folder": str(folder / "first-2")}], folder / "a")
    extend(folder / "data", day_tables(6))
    jobs = [
        {"kind": "train", "values": values, "folder": str(folder / f"{source}-2"), "continued": str(folder / source)}
        for source in ("first-1", "first-2")
    ]
    run_jobs(2, jobs, folder / "b")
    for source in ("first-1", "first-2"):
        recipe = tiny_recipe(folder / "data", *OVERRIDES)
        train(recipe, folder=folder / f"{source}-1", continued=folder / source, quiet=True)
    return folder


@pytest.mark.parametrize("source", ["first-1", "first-2"])
def test_two_processes_go_on_as_one_does(source: str, world: Path) -> None:
    one, two = world / f"{source}-1", world / f"{source}-2"
    assert len(losses(one)) == len(losses(two)) > 0
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert largest_difference(one, two) < 2e-4


@pytest.mark.parametrize("source", ["first-1", "first-2"])
def test_two_processes_begin_with_the_vector_of_every_id(source: str, world: Path) -> None:
    """Their first checkpoint is the file that one process writes, and their first loss is its loss."""
    begin = [world / f"{source}-{n}" / "checkpoints" for n in (1, 2)]
    assert [path.exists() for path in begin] == [True, True]
    last = sorted(begin[1].glob("step-*"))[-1]
    _, states = read_sharded_checkpoint(last)
    alone = tensors_of(sorted(begin[0].glob("step-*"))[-1])
    for name, tensor in states.items():
        if name.startswith("sparse.0.") and tensor.dim():
            torch.testing.assert_close(tensor, alone[f"optimizer.safetensors:{name}"], atol=1e-4, rtol=1e-3)
    assert int(states["sparse.0.step"]) == int(alone["optimizer.safetensors:sparse.0.step"])
    assert RunFolder(world / f"{source}-2").warm_start_facts["tables"]["item_id"]["lost"] == 0
