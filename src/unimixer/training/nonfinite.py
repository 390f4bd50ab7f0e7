"""Where a NaN came from, and the sentence that says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.features.batch import Batch
from unimixer.training.checkpoint import latest_checkpoint
from unimixer.training.distributed.sharded_dense import local


def diverged(step: int, what: str, checkpoints: Path) -> UnimixerError:
    """The error that ends a run at a step, with what is left of it."""
    kept = latest_checkpoint(checkpoints)
    left = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
    return UnimixerError(f"step {step}: {what}; {left}; lower the learning rates or set optimizer.clip_norm")


def first_nonfinite_module(model: nn.Module, batch: Batch) -> str | None:
    """Name of the first module, in the order of computation, whose output is not finite; None if all are."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not found and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def first_nonfinite_parameter(model: nn.Module) -> str | None:
    """Name of the first parameter that is not finite, of what this process holds."""
    return next((n for n, p in model.named_parameters() if not bool(local(p.detach()).isfinite().all())), None)
