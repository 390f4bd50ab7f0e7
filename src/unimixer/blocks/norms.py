"""Normalization over the width of a token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_choice


class RMSNorm(nn.RMSNorm):
    r""":class:`torch.nn.RMSNorm` with statistics in float32 whatever the autocast.

    .. math:: y = x \odot g \big/ \sqrt{\tfrac{1}{D} \sum_d x_d^2 + \epsilon}

    Source: Zhang and Sennrich (arXiv:1910.07467).

    Args:
        token_dim: D.
        eps: :math:`\epsilon`.

    Shape:
        - x, added: ``(..., D)``; output: the shape and dtype of x

    Example:
        >>> import torch
        >>> RMSNorm(2)(torch.tensor([3.0, 4.0]))
        tensor([0.8485, 1.1314], grad_fn=<MulBackward0>)
    """

    def __init__(self, token_dim: int, eps: float = 1e-6) -> None:
        super().__init__(token_dim, eps=eps)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Normalise the last axis of x, or of a sum."""
        return ops.rms_norm(x, self.weight, self.eps or 0.0, added)

    def arguments(self) -> ops.Norm:
        """Its numbers, for an operation that ends with this norm."""
        return ops.Norm(self.weight, None, self.eps or 0.0, centred=False)


class LayerNorm(nn.LayerNorm):
    """:class:`torch.nn.LayerNorm` that leaves batch-last tokens as they lie in memory.

    Shape:
        - x, added: ``(..., D)``; output: the shape of x

    Example:
        >>> import torch
        >>> LayerNorm(2)(torch.tensor([3.0, 5.0])).detach().round()
        tensor([-1.,  1.])
    """

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Normalise the last axis of x, or of a sum."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps, added)

    def arguments(self) -> ops.Norm:
        """Its numbers, for an operation that ends with this norm."""
        return ops.Norm(self.weight, self.bias, self.eps, centred=True)


NORMS: dict[str, Any] = {"rms": RMSNorm, "layer": LayerNorm}


def build_norm(name: str, token_dim: int) -> nn.Module:
    """Build a norm by name: ``"rms"`` or ``"layer"``."""
    check_choice("norm", name, tuple(NORMS))
    norm: nn.Module = NORMS[name](token_dim)
    return norm


def norm_of_sum(norm: nn.Module, x: Tensor, added: Tensor) -> Tensor:
    """Normalize ``x + added``, in one pass over memory where the norm can; any other module gets the sum.

    Example:
        >>> import torch
        >>> norm_of_sum(RMSNorm(2), torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0])).detach()
        tensor([0.8485, 1.1314])
    """
    output: Tensor = norm(x, added) if isinstance(norm, RMSNorm | LayerNorm) else norm(x + added)
    return output


def norm_of_layer(norm: nn.Module, x: Tensor, layer: nn.Module) -> Tensor:
    """Normalize ``x + layer(x)``, as one operation of batch-last tokens where the layer has a ``normed_sum``.

    A layer or norm with a forward hook is called by itself, so that the hook hears of it, and so is every one under a
    mode that watches operations, such as a counter of FLOPs, which does not see what one operation does inside.

    Example:
        >>> import torch
        >>> norm_of_layer(RMSNorm(2), torch.tensor([1.5, 2.0]), nn.Identity()).detach()
        tensor([0.8485, 1.1314])
    """
    together = isinstance(norm, RMSNorm | LayerNorm) and hasattr(layer, "normed_sum")
    if not together or ops.plain(x) or not ops.is_batch_last(x) or _hooked(layer, norm) or ops.operations_watched():
        return norm_of_sum(norm, x, layer(x))
    first: Any = layer
    last: Any = norm
    output: Tensor = first.normed_sum(x, last.arguments())
    return output


def _hooked(*modules: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
