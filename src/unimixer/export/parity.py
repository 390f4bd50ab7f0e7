"""Whether a written graph gives the scores of the model that it was written from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.export.graph import Input, feed
from unimixer.export.requests import missing, repeated, unknown, without_sequences
from unimixer.export.runners import Runner
from unimixer.features.request import Request
from unimixer.ranker import Ranker

TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "int8": 0.1}
"""Largest difference of a probability, by precision."""


@dataclass(frozen=True)
class Difference:
    """How far the scores of one kind of request are from the model's."""

    requests: int
    candidates: int
    logit: float
    probability: float


def expected_logits(ranker: Ranker, request: Request) -> Tensor:
    """What the trained model gives, on the batch that training would have seen."""
    with torch.no_grad():
        logits: Tensor = ranker(request.batch())
    return logits.float()


def cases(requests: list[Request], largest: int) -> dict[str, list[Request]]:
    """Every kind of request that a graph must be right for."""
    sizes = [repeated(request, size) for request in requests for size in (1, 2)]
    some = [case for request in requests[:2] for case in (request, repeated(request, 1))]
    return {
        "held out": requests,
        "one and two candidates": sizes,
        f"{largest} candidates": [repeated(requests[0], largest)],
        "empty sequences": [without_sequences(request) for request in some],
        "unknown ids": [unknown(request) for request in some],
        "missing values": [missing(request) for request in some],
    }


def differences(
    inputs: tuple[Input, ...],
    runner: Runner,
    expected: Callable[[Request], Tensor],
    kinds: Mapping[str, list[Request]],
) -> dict[str, Difference]:
    """Score every kind of request by the written graph and by the model."""
    found = {}
    for kind, requests in kinds.items():
        logit = probability = 0.0
        for request in requests:
            logits, probabilities = runner(feed(inputs, request))
            wanted = expected(request)
            logit = _worst(logit, logits, wanted)
            probability = _worst(probability, probabilities, wanted.sigmoid())
        found[kind] = Difference(len(requests), sum(map(len, requests)), logit, probability)
    return found


def _worst(so_far: float, found: np.ndarray, expected: Tensor) -> float:
    if found.shape != tuple(expected.shape) or not np.isfinite(found).all():
        return float("inf")
    return max(so_far, float(np.abs(found - expected.numpy()).max()))


def check(found: Mapping[str, Difference], tolerance: float) -> None:
    """Raise where a kind of request is further off than the tolerance; the message names the worst.

    Raises:
        UnimixerError: the kind, the difference and the tolerance.
    """
    kind = max(found, key=lambda name: found[name].probability)
    if not found[kind].probability <= tolerance:
        raise UnimixerError(
            f"the exported graph differs from the model by {found[kind].probability:.2g} in a probability "
            f"({kind}), the tolerance is {tolerance:.0e}; nothing was written"
        )
