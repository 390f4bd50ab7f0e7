"""Normalisation over the width of a token, by torch's own functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm_reference(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, added: Tensor | None = None
) -> Tensor:
    """The definition of :func:`unimixer.ops.rms_norm`, and its form under a compiler."""
    x = x if added is None else x + added
    wide = x if x.dtype == torch.float64 else x.float()
    weight = None if weight is None else weight.to(wide.dtype)
    return F.rms_norm(wide, (x.shape[-1],), weight, eps).to(x.dtype)


def layer_norm_reference(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    added: Tensor | None = None,
) -> Tensor:
    """The definition of :func:`unimixer.ops.layer_norm`, and its form under a compiler."""
    x = x if added is None else x + added
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)
