"""Constraints on raw matrices, the temperature, and the cache of what they give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_positive


class Constrained(nn.Module):
    r"""Learned matrices that are symmetric, doubly stochastic, and as sparse as the temperature makes them.

    .. math:: \tilde W = (W + W^T) / 2, \qquad \bar W = \mathrm{Sinkhorn}(\tilde W / \tau)

    arXiv:2604.00590, "UniMixing". The temperature is a buffer, saved with the weights; :func:`set_temperature` changes
    it, the same for global and local matrices (the paper is silent).

    In evaluation mode, and where no gradient is recorded, the constrained matrices are computed once and cached, with
    a copy of the values that they follow from: a change of parameters or temperature, by whatever means, is seen
    (version counters miss fused optimizers). The cache is never saved, moved or copied.
    :func:`~unimixer.mixing.constrained_once` computes them once for several forwards of training.
    """

    temperature: Tensor

    def __init__(self, *, temperature: float, symmetric: bool, doubly_stochastic: bool) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.symmetric, self.doubly_stochastic = symmetric, doubly_stochastic
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self._cache: tuple[list[Tensor], Tensor] | None = None
        self._held: Tensor | None = None

    def raw(self) -> Tensor:
        """The matrices before their constraints, ``(..., n, n)``."""
        raise NotImplementedError

    def matrices(self) -> Tensor:
        """The matrices after their constraints: those that are held, or from the cache where that is allowed."""
        if self._held is not None:
            return self._held
        recorded = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if self.training or recorded or torch.compiler.is_compiling() or _capturing(self.temperature):
            return self._constrain(self.raw())
        sources = [*self.parameters(), self.temperature]
        cache = self._cache
        if cache is None or not all(map(_same, cache[0], sources)):
            with torch.inference_mode(False), torch.no_grad():
                cache = self._cache = [source.clone() for source in sources], self._constrain(self.raw())
        return cache[1]

    def _constrain(self, raw: Tensor) -> Tensor:
        if self.doubly_stochastic:
            return ops.sinkhorn(raw, tau=self.temperature, symmetric=self.symmetric)
        return (raw + raw.mT) / 2 if self.symmetric else raw

    def constraints(self) -> str:
        """The constraints in words."""
        words = {"doubly stochastic": self.doubly_stochastic, "symmetric": self.symmetric}
        return ", ".join(word for word, holds in words.items() if holds) or "unconstrained"

    def train(self, mode: bool = True) -> Constrained:
        """Switch the mode; training drops the cache."""
        if mode:
            self._cache = None
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Constrained:
        self._cache = self._held = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None, "_held": None}


def _capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph captures what follows: it cannot compare a cache, and has to follow later parameters."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _same(kept: Tensor, current: Tensor) -> bool:
    alike = kept.dtype == current.dtype and kept.device == current.device and kept.shape == current.shape
    return alike and torch.equal(kept, current)


def set_temperature(module: nn.Module, tau: float) -> None:
    """Set the temperature of every constrained matrix inside a module; their caches are dropped.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> mixing = UniMixing(length=8, block_size=2, init="identity")
        >>> set_temperature(mixing, 0.05)
        >>> round(mixing.temperature.item(), 3)
        0.05
    """
    check_positive(temperature=tau)
    for part in module.modules():
        if isinstance(part, Constrained):
            part.temperature.fill_(tau)
            part._cache = None
