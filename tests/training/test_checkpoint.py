"""Checkpoints come back bit for bit, and damaged or foreign ones are refused in one sentence."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unimixer.errors import UnimixerError
from unimixer.training.checkpoint import Checkpointer, remove_leftovers
from unimixer.training.run import RunFolder
from unimixer.training.tensor_files import latest_checkpoint, load_weights, read_weights, save_tensors


def small(width: int = 3, *, name: str = "linear") -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(width, 2), "norm": nn.BatchNorm1d(2)})


def optimizers_of(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    return {"dense": torch.optim.Adam(model.parameters(), fused=True), "other": torch.optim.SGD(model.parameters())}


def moved(model: nn.Module, optimizers: dict[str, torch.optim.Optimizer], steps: int = 2) -> None:
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizers["dense"].step()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "config.yaml").touch()
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    return run


@pytest.fixture
def saved(run: RunFolder) -> Path:
    model = small()
    optimizers = optimizers_of(model)
    moved(model, optimizers)
    Checkpointer(run, model, optimizers).save_checkpoint({"step": 7, "best": 0.1}, keep=2)
    return run.checkpoints / "step-000000007"


def test_weights_optimizers_state_and_random_numbers_come_back(run: RunFolder, saved: Path) -> None:
    expected = torch.rand(3), random.random()
    model = small()
    optimizers = optimizers_of(model)
    assert Checkpointer(run, model, optimizers).load_checkpoint(saved) == {"step": 7, "best": 0.1}
    assert (torch.equal(torch.rand(3), expected[0]), random.random()) == (True, expected[1])
    twin = small()
    others = optimizers_of(twin)
    torch.manual_seed(0)
    small()
    moved(twin, others)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(optimizers["dense"].state.values(), others["dense"].state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in b)


def test_buffers_are_weights_too(tmp_path: Path) -> None:
    model, other = small(), small()
    model.get_buffer("norm.running_mean").fill_(5.0)
    save_tensors(tmp_path / "w.safetensors", model.state_dict())
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(other.get_buffer("norm.running_mean"), torch.full((2,), 5.0))


def test_the_newest_checkpoint_is_that_of_the_last_step(run: RunFolder) -> None:
    assert latest_checkpoint(run.checkpoints) is None
    for step in (9, 10, 100):
        Checkpointer(run, small(), {}).save_checkpoint({"step": step}, keep=2)
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["step-000000010", "step-000000100"]
    assert latest_checkpoint(run.checkpoints) == run.checkpoints / "step-000000100"


def test_half_written_checkpoints_do_not_count_and_are_removed(saved: Path) -> None:
    half = saved.with_name(".step-000000009.123.tmp")
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    (saved.parent / ".metrics.jsonl.77.tmp").write_text("half")
    assert latest_checkpoint(saved.parent) == saved
    remove_leftovers(saved.parent)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_write_that_fails_leaves_no_checkpoint(run: RunFolder) -> None:
    with pytest.raises(TypeError):
        Checkpointer(run, small(), {}).save_checkpoint({"step": 1, "bad": object()}, keep=2)
    assert list(run.checkpoints.iterdir()) == []


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, small().state_dict())
    with pytest.raises(
        UnimixerError, match=r"'linear\.weight' has shape \(2, 3\), this model needs \(2, 4\): it belongs"
    ):
        load_weights(path, small(4))
    with pytest.raises(UnimixerError, match=r"has no 'other\.weight': it belongs to another model"):
        load_weights(path, small(name="other"))
    model = small()
    del model["norm"]  # type: ignore[operator]
    with pytest.raises(UnimixerError, match=r"holds 'norm\.bias', which this model does not have"):
        load_weights(path, model)


def test_weights_are_checked_against_a_model_without_memory(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", small().state_dict())
    with torch.device("meta"):
        model = small()
    assert read_weights(tmp_path / "w.safetensors", model)["linear.weight"].shape == (2, 3)
    assert model.get_parameter("linear.weight").is_meta


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10  # inside the numbers: the file keeps its form
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_file_is_refused_with_the_way_to_the_checkpoint_before(
    name: str, damage: Any, run: RunFolder, saved: Path
) -> None:
    damage(saved / name)
    model = small()
    with pytest.raises(UnimixerError, match=rf"{name}: damaged \(.*\); remove {saved}, and --resume continues"):
        Checkpointer(run, model, optimizers_of(model)).load_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "{", "\udcff"])
def test_a_damaged_state_is_refused(text: str, run: RunFolder, saved: Path) -> None:
    (saved / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnimixerError, match=r"state\.json: damaged"):
        Checkpointer(run, small(), {}).load_checkpoint(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_a_missing_file_is_refused(name: str, run: RunFolder, saved: Path) -> None:
    (saved / name).unlink()
    model = small()
    with pytest.raises(UnimixerError, match=f"{name}: no such file"):
        Checkpointer(run, model, optimizers_of(model)).load_checkpoint(saved)


def test_nothing_is_pickled(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}
    assert json.loads((saved / "state.json").read_text())["step"] == 7
