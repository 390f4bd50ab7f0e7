"""GPU kernels in Triton beside their references, and the one place that chooses between the two.

The reference is the default. **No kernel here has run on a GPU yet**: their arithmetic is tested against the references
in Triton's interpreter, on a CPU, and they compile for NVIDIA architectures, which says nothing about their speed. A
kernel becomes the default where it was measured to win; ``benchmarks/gpu_mfu.py`` is the measurement.

To choose, set ``UNIMIXER_KERNELS=triton`` before the first import, or call :func:`select`; compile, capture and export
a model after that, since a graph keeps what was chosen when it was traced. Triton itself is imported at the first use
of a kernel.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from unimixer.errors import MissingExtraError, check_choice
from unimixer.ops.kernels.launch import INTERPRETED
from unimixer.ops.kernels.sinkhorn import sinkhorn_scaling
from unimixer.ops.kernels.swiglu import per_token_swiglu
from unimixer.ops.kernels.unimixing import unimixing

__all__ = [
    "available",
    "chosen",
    "per_token_swiglu",
    "select",
    "selected",
    "sinkhorn_scaling",
    "unimixing",
]

CHOICES = ("reference", "triton")
LARGEST_MATRIX = 256
"""Largest matrix that one program scales."""
WIDEST_BLOCK = 16
"""Widest block that is mixed inside a tile."""
_INSTALLED = importlib.util.find_spec("triton") is not None
_choice = os.environ.get("UNIMIXER_KERNELS", "reference")
check_choice("UNIMIXER_KERNELS", _choice, CHOICES)


def available(device: torch.device | str) -> bool:
    """Whether the kernels can run there: Triton is installed, and it is an NVIDIA GPU of capability 8.0 or more.

    Example:
        >>> available("meta")
        False
    """
    device = torch.device(device)
    if not _INSTALLED or device.type not in ("cuda", "cpu"):
        return False
    if device.type == "cpu":
        return INTERPRETED
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def select(choice: str) -> None:
    """Use ``"triton"`` kernels for CUDA tensors from here on, or the ``"reference"`` everywhere.

    Example:
        >>> select("reference")
        >>> selected()
        'reference'
    """
    global _choice
    check_choice("choice", choice, CHOICES)
    if choice == "triton" and not _INSTALLED:
        raise MissingExtraError("UNIMIXER_KERNELS=triton", "gpu")
    _choice = choice


def selected() -> str:
    """What was chosen."""
    return _choice


def chosen(x: Tensor, *, matrix: int = 1, block: int = 1) -> bool:
    """Whether a kernel shall take this tensor; where one cannot, by dtype, place or size, the reference does.

    Args:
        x: the operation's first argument.
        matrix: width of the matrices to scale.
        block: width of the blocks to mix.
    """
    if _choice != "triton" or not (x.is_cuda or (INTERPRETED and x.is_cpu)):
        return False
    if not _INSTALLED:
        raise MissingExtraError("UNIMIXER_KERNELS=triton", "gpu")
    return x.dtype in (torch.float32, torch.bfloat16) and matrix <= LARGEST_MATRIX and block <= WIDEST_BLOCK
