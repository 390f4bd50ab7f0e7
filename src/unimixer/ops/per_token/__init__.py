"""Per-token arithmetic: ``reference`` defines it, ``fused`` is what eager training on a CPU runs for large batches."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.ops.layout import is_batch_last, plain
from unimixer.ops.per_token.fused import PerTokenFFNFunction, forward
from unimixer.ops.per_token.reference import per_token_ffn_reference, per_token_linear, swiglu

__all__ = ["per_token_ffn", "per_token_ffn_reference", "per_token_linear", "swiglu"]


def per_token_ffn(
    x_BTD: Tensor,
    up_TDU: Tensor,
    up_bias_TU: Tensor | None,
    down_THD: Tensor,
    down_bias_TD: Tensor | None,
) -> Tensor:
    r"""Two layers with own weights for every token, SwiGLU where the first is twice as wide as the second, else GELU.

    Of a gated first layer all of "up" comes first. Batch-last tokens go through in groups, see ``fused``.

    Shape:
        - x_BTD: ``(B, T, D)``; up_TDU: ``(T, D, U)``; down_THD: ``(T, H, D)`` with U = H (GELU) or U = 2 H (SwiGLU)
        - output: ``(B, T, D)``

    Example:
        >>> per_token_ffn(torch.ones(1, 1, 1), torch.tensor([[[2.0, 0.0]]]), None, torch.ones(1, 1, 1), None)
        tensor([[[0.]]])
    """
    weights = up_TDU, up_bias_TU, down_THD, down_bias_TD
    if plain(x_BTD) or not is_batch_last(x_BTD) or x_BTD.dtype != up_TDU.dtype:
        return per_token_ffn_reference(x_BTD, *weights)
    if not torch.is_grad_enabled():
        return forward(x_BTD, weights, None)
    output: Tensor = PerTokenFFNFunction.apply(x_BTD, *weights)  # type: ignore[no-untyped-call]
    return output
