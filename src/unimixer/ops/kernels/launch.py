"""What every launch of a kernel needs."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter: on a CPU, slowly, to be tested."""


def beside(x: Tensor) -> AbstractContextManager[object]:
    """The GPU of a tensor as the current one, which is where Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def precision() -> str:
    """How a product of float32 numbers is computed: as torch's own setting for matrix products has it."""
    if INTERPRETED:
        return "interpreted"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def power_of_two(number: int) -> int:
    """The power of two that is not below a number.

    Example:
        >>> [power_of_two(n) for n in (1, 3, 4, 5)]
        [1, 4, 4, 8]
    """
    return 1 << max(number - 1, 0).bit_length()


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype that autocast gives to matrix products, or in that of the first one."""
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[0].dtype
    return tuple(tensor.to(dtype) for tensor in tensors)
