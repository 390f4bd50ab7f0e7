"""Per-token arithmetic: ``reference`` defines it, ``fused`` is what eager training on a CPU runs for large batches."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.ops.layout import SMALLEST_BATCH, is_batch_last, plain, product_dtype
from unimixer.ops.norm import Norm, fits, norm_of_sum
from unimixer.ops.per_token.fused import LinearFunction, NormedFFNFunction, PerTokenFFNFunction, forward
from unimixer.ops.per_token.reference import per_token_ffn_reference, per_token_linear, swiglu

__all__ = [
    "normed_ffn",
    "per_token_ffn",
    "per_token_ffn_reference",
    "per_token_linear",
    "per_token_linear_last",
    "swiglu",
]


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
        dtype = product_dtype(x_BTD)
        with torch.autocast("cpu", enabled=False):
            return forward(x_BTD, weights, None, dtype)
    output: Tensor = PerTokenFFNFunction.apply(x_BTD, *weights)  # type: ignore[no-untyped-call]
    return output


def normed_ffn(
    x_BTD: Tensor,
    up_TDU: Tensor,
    up_bias_TU: Tensor | None,
    down_THD: Tensor,
    down_bias_TD: Tensor | None,
    norm: Norm,
) -> Tensor:
    r"""The norm of the tokens and their FFN, :math:`N(x + \mathrm{FFN}(x))`; arguments as for :func:`per_token_ffn`.

    Example:
        >>> norm = Norm(torch.ones(1), None, 0.0, False)
        >>> normed_ffn(torch.ones(1, 1, 1), torch.tensor([[[2.0, 0.0]]]), None, torch.ones(1, 1, 1), None, norm)
        tensor([[[1.]]])
    """
    weights = up_TDU, up_bias_TU, down_THD, down_bias_TD
    if torch.is_grad_enabled() and fits(x_BTD, None, norm.weight) and x_BTD.dtype == up_TDU.dtype:
        output: Tensor = NormedFFNFunction.apply(x_BTD, *weights, *norm)  # type: ignore[no-untyped-call]
        return output
    return norm_of_sum(x_BTD, per_token_ffn(x_BTD, *weights), norm)


def per_token_linear_last(x_BTD: Tensor, weight_TDO: Tensor, bias_TO: Tensor | None = None) -> Tensor:
    """:func:`per_token_linear` with a batch-last result, where eager kernels on a CPU gain by that layout.

    Example:
        >>> per_token_linear_last(torch.ones(128, 2, 4), torch.ones(2, 4, 3)).stride()
        (1, 384, 128)
    """
    # first whether it is traced: a comparison of its batch would be a bound of the trace
    if plain(x_BTD) or x_BTD.shape[0] < SMALLEST_BATCH or not x_BTD.is_contiguous() or x_BTD.dtype != weight_TDO.dtype:
        return per_token_linear(x_BTD, weight_TDO, bias_TO)
    output: Tensor = LinearFunction.apply(x_BTD, weight_TDO, bias_TO)  # type: ignore[no-untyped-call]
    return output
