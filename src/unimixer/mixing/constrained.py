"""What UniMixing and UniMixing-Lite share: constraints on raw matrices, the temperature, the cache of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unimixer import ops
from unimixer.errors import check_choice, check_divisible, check_positive
from unimixer.mixing.base import Mixing

LOCALS = ("doubly_stochastic", "shared", "free")


class ConstrainedMixing(Mixing):
    r"""A learned mixing whose matrices are symmetric, doubly stochastic, and as sparse as the temperature makes them.

    .. math:: \tilde W = (W + W^T) / 2, \qquad \bar W = \mathrm{Sinkhorn}(\tilde W / \tau)

    arXiv:2604.00590, "UniMixing". One temperature for the global and the local matrices (the paper is silent). It is a
    buffer, saved with the weights; :func:`set_temperature` changes it.

    In evaluation mode, and where no gradient is recorded, the constrained weights are computed once and cached, with
    a copy of the values that they follow from: a change of parameters or temperature, by whatever means, is seen
    (version counters miss fused optimizers). The cache is never saved, moved or copied.
    """

    temperature: Tensor

    def __init__(
        self,
        length: int,
        block_size: int,
        *,
        temperature: float,
        symmetric: bool,
        doubly_stochastic: bool,
        local: str,
    ) -> None:
        super().__init__(length)
        check_divisible("length", length, by="block_size", divisor=block_size)
        check_positive(temperature=temperature)
        check_choice("local", local, LOCALS)
        self.block_size, self.num_blocks_mixed = block_size, length // block_size
        self.symmetric, self.doubly_stochastic, self.local = symmetric, doubly_stochastic, local
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self._cache: tuple[list[Tensor], tuple[Tensor, Tensor]] | None = None

    def raw_weights(self) -> tuple[Tensor, Tensor]:
        """The raw global matrix ``(N, N)`` and local matrices ``(N, b, b)``, ``(1, b, b)`` where they are shared."""
        raise NotImplementedError

    def weights(self) -> tuple[Tensor, Tensor]:
        """The global and local weights after their constraints, from the cache where that is allowed."""
        recorded = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        if self.training or recorded or torch.compiler.is_compiling():
            return self._constrained()
        sources = [*self.parameters(), self.temperature]
        cache = self._cache
        if cache is None or not all(map(_same, cache[0], sources)):
            with torch.inference_mode(False), torch.no_grad():
                cache = self._cache = [source.clone() for source in sources], self._constrained()
        return cache[1]

    def _constrained(self) -> tuple[Tensor, Tensor]:
        raw_global, raw_local = self.raw_weights()
        return self._constrain(raw_global), raw_local if self.local == "free" else self._constrain(raw_local)

    def _constrain(self, raw: Tensor) -> Tensor:
        if self.doubly_stochastic:
            return ops.sinkhorn(raw, tau=self.temperature, symmetric=self.symmetric)
        return (raw + raw.mT) / 2 if self.symmetric else raw

    def mix(self, x_BL: Tensor) -> Tensor:
        """Mix flattened tokens."""
        global_NN, local_Nbb = self.weights()
        return ops.unimixing(x_BL, global_NN.to(x_BL.dtype), local_Nbb.to(x_BL.dtype))

    def mixing_matrix(self, x: Tensor | None = None) -> Tensor:
        """The generalised Kronecker product of the current weights."""
        with torch.no_grad():
            return ops.unimixing_matrix(*self.weights())

    def train(self, mode: bool = True) -> ConstrainedMixing:
        """Switch the mode; training drops the cache."""
        if mode:
            self._cache = None
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> ConstrainedMixing:
        self._cache = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return (
            f"length={self.length}, block_size={self.block_size}, symmetric={self.symmetric}, "
            f"doubly_stochastic={self.doubly_stochastic}, local={self.local!r}"
        )


def _same(kept: Tensor, current: Tensor) -> bool:
    alike = kept.dtype == current.dtype and kept.device == current.device and kept.shape == current.shape
    return alike and torch.equal(kept, current)


def set_temperature(module: nn.Module, tau: float) -> None:
    """Set the temperature of every constrained mixing inside a module; their caches are dropped.

    Example:
        >>> from unimixer.mixing import UniMixing
        >>> mixing = UniMixing(length=8, block_size=2, init="identity")
        >>> set_temperature(mixing, 0.05)
        >>> round(mixing.temperature.item(), 3)
        0.05
    """
    check_positive(temperature=tau)
    for part in module.modules():
        if isinstance(part, ConstrainedMixing):
            part.temperature.fill_(tau)
            part._cache = None
