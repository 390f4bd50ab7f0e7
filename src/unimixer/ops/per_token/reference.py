"""Per-token arithmetic by plain operations: a linear map with its own weights for every token, gates, two layers."""

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


def per_token_ffn_reference(
    x_BTD: Tensor,
    up_TDU: Tensor,
    up_bias_TU: Tensor | None,
    down_THD: Tensor,
    down_bias_TD: Tensor | None,
) -> Tensor:
    """The definition of :func:`unimixer.ops.per_token_ffn`, and its form under a compiler."""
    wide = per_token_linear(x_BTD, up_TDU, up_bias_TU)
    gated = up_TDU.shape[-1] == 2 * down_THD.shape[-2]
    hidden = swiglu(*wide.chunk(2, dim=-1)) if gated else F.gelu(wide)
    return per_token_linear(hidden, down_THD, down_bias_TD)
