"""Compute effective ranks: how many directions the tokens of one sample use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unimixer.errors import UnimixerError

TINY = torch.finfo(torch.float64).tiny


def effective_rank(x: Tensor) -> Tensor:
    r"""Compute the entropy effective rank of every matrix.

    .. math:: p_i = \sigma_i \Big/ \sum_j \sigma_j, \qquad \mathrm{erank}(X) = \exp\Bigl(-\sum_i p_i \log p_i\Bigr)

    Roy and Vetterli (EUSIPCO 2007, "The effective rank"), taken of the tokens of one sample as RankUp
    (arXiv:2604.17878) does. It is between 1 and min(T, D), and does not change with the scale of the matrix. A matrix
    of zeros has 0.

    Shape:
        - x: ``(..., T, D)``; output: ``(...)``, float64

    Example:
        >>> effective_rank(torch.stack([torch.eye(3), torch.ones(3, 3)])).round(decimals=4)
        tensor([3., 1.], dtype=torch.float64)
    """
    return _entropy_rank(_singular_values(x))


def stable_rank(x: Tensor) -> Tensor:
    r"""Compute the stable rank of every matrix, :math:`\|X\|_F^2 / \|X\|_2^2`.

    RankElastor (arXiv:2605.23191) reports this number as its effective rank. It is never above the rank, counts
    squares of singular values, and so is smaller than :func:`effective_rank` if few directions are strong.

    Shape:
        - x: ``(..., T, D)``; output: ``(...)``, float64

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(1.5000, dtype=torch.float64)
    """
    return _squares_rank(_singular_values(x))


def _singular_values(x: Tensor) -> Tensor:
    if x.dim() < 2 or not x.numel():
        raise UnimixerError(f"x has shape {tuple(x.shape)}, expected matrices (..., T, D) with at least one number")
    if not bool(x.isfinite().all()):
        raise UnimixerError("x holds numbers that are not finite; a rank needs finite tokens")
    sigma: Tensor = torch.linalg.svdvals(x.double())
    return sigma


def _entropy_rank(sigma: Tensor) -> Tensor:
    share = sigma / sigma.sum(-1, keepdim=True).clamp(min=TINY)
    return torch.where(sigma[..., 0] > 0, torch.special.entr(share).sum(-1).exp(), 0.0)


def _squares_rank(sigma: Tensor) -> Tensor:
    relative = sigma / sigma[..., :1].clamp(min=TINY)  # first, so that squares of tiny numbers do not vanish
    return relative.square().sum(-1)


@dataclass(frozen=True)
class RankStatistics:
    """Effective ranks of the samples at one place of a network."""

    place: str
    """Name of the module."""
    kind: str
    """``tokens``, ``mixing``, ``attention``, ``FFN``, ``norm`` or ``block``."""
    num_tokens: int
    token_dim: int
    rows: int
    mean: float
    """Mean of :func:`effective_rank`."""
    deviation: float
    """Standard deviation over samples (0 for a single one)."""
    share: float
    """The mean divided by min(T, D)."""
    stable_mean: float
    """Mean of :func:`stable_rank`."""
    stable_deviation: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class RankMeter:
    """Accumulate the ranks of batches; all samples at a place have matrices of one shape."""

    def __init__(self, place: str, kind: str, shape: tuple[int, int]) -> None:
        self.place, self.kind, self.shape = place, kind, shape
        self._entropy: list[Tensor] = []
        self._stable: list[Tensor] = []

    def add(self, tokens: Tensor) -> None:
        """Add the samples of a batch ``(B, T, D)``."""
        if tokens.shape[1:] != self.shape:
            raise UnimixerError(f"{self.place}: tokens of shape {tuple(tokens.shape)} after some of {self.shape}")
        sigma = _singular_values(tokens)
        self._entropy.append(_entropy_rank(sigma))
        self._stable.append(_squares_rank(sigma))

    def statistics(self) -> RankStatistics:
        """Return mean and spread over all samples."""
        entropy, stable = torch.cat(self._entropy), torch.cat(self._stable)
        mean = float(entropy.mean())
        return RankStatistics(
            place=self.place,
            kind=self.kind,
            num_tokens=self.shape[0],
            token_dim=self.shape[1],
            rows=len(entropy),
            mean=mean,
            deviation=_deviation(entropy),
            share=mean / min(self.shape),
            stable_mean=float(stable.mean()),
            stable_deviation=_deviation(stable),
        )


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0
