"""Checkpoints: tensors and JSON, never pickle; a folder that exists is complete."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.io import atomic_folder, read_errors, read_json


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``step-N`` atomically, then remove all but the newest ``keep`` checkpoints."""
    target = folder / f"step-{state['step']:09d}"
    tensors = {f"{name}.{key}": value for name, o in optimizers.items() for key, value in optimizer_tensors(o).items()}
    with atomic_folder(target, overwrite=True) as temporary:
        save_weights(temporary / "model.safetensors", model)
        _save(temporary / "optimizer.safetensors", tensors)
        _save(temporary / "random.safetensors", _random_tensors())
        (temporary / "state.json").write_text(json.dumps(dict(state), indent=1) + "\n", encoding="utf-8")
    prune(folder, keep)
    return target


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    found = sorted(folder.glob("step-*"))
    return found[-1] if found else None


def remove_leftovers(run: Path) -> None:
    """Remove what a killed process was about to write into a run folder."""
    for path in list(run.rglob(".*.tmp")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def load_checkpoint(
    checkpoint: Path, *, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restore weights, optimizers and random states; return the loop's state.

    Raises:
        UnimixerError: if a file is missing or damaged, or is that of another model.
    """
    state = load_state(checkpoint / "state.json")
    if (checkpoint / "tables.json").exists():  # several processes wrote it
        from unimixer.training.distributed.consolidate import checkpoint_of_many

        weights, tensors = checkpoint_of_many(checkpoint)
        check_weights(checkpoint, weights, model.state_dict())
        model.load_state_dict(weights)
    else:
        load_weights(checkpoint / "model.safetensors", model)
        tensors = load_tensors(checkpoint / "optimizer.safetensors")
        _set_random(load_tensors(checkpoint / "random.safetensors"))
    for name, optimizer in optimizers.items():
        restore_optimizer(optimizer, tensors_of(tensors, name))
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's parameters and buffers."""
    _save(path, model.state_dict())


def load_weights(path: Path, model: nn.Module) -> None:
    """Read weights written by :func:`save_weights`.

    Raises:
        UnimixerError: if names or shapes are those of another model; the message names the first difference.
    """
    model.load_state_dict(read_weights(path, model))


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, which must be those of the model; the model, which may be on ``meta``, is not changed."""
    tensors = load_tensors(path)
    check_weights(path, tensors, model.state_dict())
    return tensors


def check_weights(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise unless the tensors of a file have the names and shapes of a model's own."""
    for name, tensor in own.items():
        if name not in tensors:
            raise UnimixerError(f"{path}: has no {name!r}: it belongs to another model")
        if tensors[name].shape != tensor.shape:
            raise UnimixerError(
                f"{path}: {name!r} has shape {tuple(tensors[name].shape)}, this model needs {tuple(tensor.shape)}: "
                "it belongs to another model or other data"
            )
    extra = sorted(set(tensors) - set(own))
    if extra:
        raise UnimixerError(f"{path}: holds {extra[0]!r}, which this model does not have: it belongs to another model")


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with the checksum of their values."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"crc32": _checksum(plain)})


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors with their checksum."""
    _save(path, tensors)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, whose checksum must be right."""
    with read_errors(path), path.open("rb"):  # safetensors calls every file that it cannot open missing
        pass
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            intact = (file.metadata() or {}).get("crc32") == _checksum(tensors)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None
    if not intact:
        raise _damaged(path, "its checksum differs")
    return tensors


def weights_checksum(path: Path) -> str:
    """The checksum that a file of tensors carries, which names its content."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("crc32"))


def load_state(path: Path) -> dict[str, Any]:
    """The loop's state of a checkpoint."""
    return read_json(path, way_out=_way_out(path))


def _damaged(path: Path, reason: str) -> UnimixerError:
    return UnimixerError(f"{path}: damaged ({reason}); {_way_out(path)}")


def _way_out(path: Path) -> str:
    if path.parent.name.startswith("step-"):
        return f"remove {path.parent}, and --resume continues from the checkpoint before it"
    return "train the run again"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        values = tensors[name].reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(values.data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimizer by the number of its parameter and the name of the state."""
    entries = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in entries.items() for key, value in entry.items()}


def tensors_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one optimizer among those of all."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_tensors() -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state(), "python": torch.tensor(random.getstate()[1], dtype=torch.int64)}
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate((3, tuple(states["python"].tolist()), None))
    devices = len(states) - 2
    if devices and torch.cuda.device_count() == devices:
        torch.cuda.set_rng_state_all([states[f"cuda.{i}"] for i in range(devices)])
