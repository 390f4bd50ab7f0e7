"""Sinkhorn scaling as one launch for all matrices of a batch, without a step that the host waits for."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.ops.kernels.launch import beside, power_of_two


def sinkhorn_scaling(scores: Tensor, symmetric: bool, tolerance: float, max_iterations: int) -> Tensor:
    """The plans of ``implicit.solve``, its reference, by a Triton kernel: one program solves one matrix.

    Same steps, same tolerance, same rounding where ``max_iterations`` is reached; a Newton step takes conjugate
    gradients for the factorisation of the Hessian. The reference asks the device at every step whether all matrices
    are solved; here each program knows, so the step of a training can be captured in a CUDA graph as far as this goes.
    A program reads its matrix from the cache again and again, some 100 times for an ordinary one.

    Shape:
        - scores: ``(..., N, N)``, float32, N up to 256
        - output: ``(..., N, N)``
    """
    from unimixer.ops.kernels.programs import sinkhorn as programs

    size = scores.shape[-1]
    scores = scores.contiguous()
    plans = torch.empty_like(scores)
    tolerance = max(tolerance, 16 * torch.finfo(scores.dtype).eps)
    if scores.numel():
        with beside(scores):
            programs.scale[(scores.numel() // size**2,)](
                scores,
                plans,
                torch.empty_like(scores),
                scores.new_empty(scores.numel() // size * 2),
                size,
                tolerance,
                max_iterations,
                SYMMETRIC=symmetric,
                **tiles(size),
            )
    return plans


def tiles(size: int) -> dict[str, int]:
    """Width and height of a tile, and warps for one matrix. Not tuned on a GPU.

    Example:
        >>> tiles(4), tiles(200)
        ({'N': 4, 'R': 4, 'num_warps': 1}, {'N': 256, 'R': 32, 'num_warps': 8})
    """
    width = power_of_two(size)
    height = min(width, max(1, 8192 // width))
    return {"N": width, "R": height, "num_warps": min(8, max(1, width * height // 1024))}
