"""Files of named tensors with a checksum, and the folders of checkpoints: never pickle."""

from __future__ import annotations

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
from unimixer.io import read_errors, read_json

# ---- tensors ----


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors with the checksum of their values."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"crc32": _checksum(plain)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file and verify their checksum."""
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


def stored_checksum(path: Path) -> str:
    """Read the checksum that a file of tensors carries; it identifies the content."""
    with safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("crc32"))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        values = tensors[name].reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(values.data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


# ---- weights ----


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the weights of a file into a model.

    Raises:
        UnimixerError: if names or shapes belong to another model; the message names the first difference.
    """
    model.load_state_dict(read_weights(path, model))


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read weights and check that they fit a model, which may be on ``meta`` and stays unchanged."""
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


# ---- optimizers ----


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the tensors of an optimizer's state by the number of the parameter and the key of the state."""
    entries = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in entries.items() for key, value in entry.items()}


def select_tensors(tensors: Mapping[str, Tensor], optimizer: str) -> dict[str, Tensor]:
    """Select the tensors of one optimizer among those of all."""
    prefix = f"{optimizer}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what :func:`optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# ---- folders of checkpoints ----


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the newest complete checkpoint."""
    checkpoints = sorted(folder.glob("step-*"))
    return checkpoints[-1] if checkpoints else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)


def load_state(path: Path) -> dict[str, Any]:
    """Read the state of the training loop from a checkpoint."""
    return read_json(path, way_out=_way_out(path))


def _damaged(path: Path, reason: str) -> UnimixerError:
    return UnimixerError(f"{path}: damaged ({reason}); {_way_out(path)}")


def _way_out(path: Path) -> str:
    if path.parent.name.startswith("step-"):
        return f"remove {path.parent}, and --resume continues from the checkpoint before it"
    return "train the run again"
