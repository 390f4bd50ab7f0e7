"""Normalisation over the width of a token: ``reference`` defines it, ``fused`` runs on batch-last tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from unimixer.ops.layout import is_batch_last, plain
from unimixer.ops.native import Norm
from unimixer.ops.norm.fused import NormFunction
from unimixer.ops.norm.reference import layer_norm_reference, rms_norm_reference

__all__ = ["Norm", "fits", "layer_norm", "layer_norm_reference", "norm_of_sum", "rms_norm", "rms_norm_reference"]


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, added: Tensor | None = None) -> Tensor:
    r"""Divide by the root mean square over the last axis: :math:`x / \sqrt{\mathrm{mean}(x^2) + \epsilon} \cdot w`.

    The statistics are float32 (or wider) whatever the input; the result has the dtype of the input. With ``added``, of
    the shape of x, the sum of both is normalized.

    Example:
        >>> rms_norm(torch.tensor([3.0, 4.0]), eps=0.0)
        tensor([0.8485, 1.1314])
    """
    if weight is not None and fits(x, added, weight):
        return _apply(x, added, weight, None, eps, False)
    return rms_norm_reference(x, weight, eps, added)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    added: Tensor | None = None,
) -> Tensor:
    r"""Subtract the mean and divide by the deviation: :math:`(x - m) / \sqrt{\mathrm{var}(x) + \epsilon} \cdot w + b`.

    With ``added``, of the shape of x, the sum of both is normalized.

    Example:
        >>> layer_norm(torch.tensor([3.0, 5.0]), eps=0.0)
        tensor([-1.,  1.])
    """
    if weight is not None and fits(x, added, weight):
        return _apply(x, added, weight, bias, eps, True)
    return layer_norm_reference(x, weight, bias, eps, added)


def norm_of_sum(x: Tensor, added: Tensor, norm: Norm) -> Tensor:
    """Normalize ``x + added`` by either norm."""
    added = added.to(x.dtype)  # autocast halves it
    if norm.centred:
        return layer_norm(x, norm.weight, norm.bias, norm.eps, added)
    return rms_norm(x, norm.weight, norm.eps, added)


def fits(x: Tensor, added: Tensor | None, weight: Tensor) -> bool:
    """Whether the fused form takes these tokens: eager, batch-last, of the dtype of the weight."""
    same = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    same = same and (added is None or (added.dtype == x.dtype and added.shape == x.shape))
    return not plain(x) and x.dim() == 3 and same and is_batch_last(x)


def _apply(x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    output: Tensor = NormFunction.apply(x, added, weight, bias, eps, centred)  # type: ignore[no-untyped-call]
    return output
