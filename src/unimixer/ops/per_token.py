"""Per-token arithmetic: a linear map with its own weights for every token, the gate of SwiGLU, RMS normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def per_token_linear(x_BTD: Tensor, weight_TDO: Tensor, bias_TO: Tensor | None = None) -> Tensor:
    r"""Token t goes through its own map: :math:`y_t = x_t W_t + b_t`.

    One batched product over tokens; the result is a view of a (T, B, O) tensor, so a second map needs no copy.

    Shape:
        - x_BTD: ``(B, T, D)``; weight_TDO: ``(T, D, O)``; bias_TO: ``(T, O)``
        - output: ``(B, T, O)``

    Example:
        >>> per_token_linear(torch.ones(1, 2, 1), torch.tensor([[[2.0]], [[3.0]]]))
        tensor([[[2.],
                 [3.]]])
    """
    x_TBD = x_BTD.transpose(0, 1)
    if bias_TO is None:
        return torch.bmm(x_TBD, weight_TDO).transpose(0, 1)
    return torch.baddbmm(bias_TO.unsqueeze(1), x_TBD, weight_TDO).transpose(0, 1)


def swiglu(up: Tensor, gate: Tensor) -> Tensor:
    r"""The gated activation :math:`up \cdot \mathrm{Swish}(gate)`, with :math:`\mathrm{Swish}(z) = z\,\sigma(z)`.

    Example:
        >>> swiglu(torch.tensor([2.0]), torch.tensor([0.0]))
        tensor([0.])
    """
    return up * F.silu(gate)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    r"""Divide by the root mean square over the last axis: :math:`x / \sqrt{\mathrm{mean}(x^2) + \epsilon} \cdot w`.

    The statistics are float32 (or wider) whatever the input; the result has the dtype of the input.

    Example:
        >>> rms_norm(torch.tensor([3.0, 4.0]), eps=0.0)
        tensor([0.8485, 1.1314])
    """
    wide = x if x.dtype == torch.float64 else x.float()
    weight = None if weight is None else weight.to(wide.dtype)
    return F.rms_norm(wide, (x.shape[-1],), weight, eps).to(x.dtype)
