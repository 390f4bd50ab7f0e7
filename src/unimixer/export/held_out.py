"""Requests with the scores that they must get, kept in the bundle as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unimixer.errors import UnimixerError
from unimixer.export.graph import CANDIDATES, USER, Input, feed
from unimixer.features.batch import Batch
from unimixer.features.request import Request

FILE = "held_out.safetensors"


def save_requests(path: Path, inputs: tuple[Input, ...], requests: Sequence[Request], logits: Sequence[Tensor]) -> None:
    """Write requests and logits as ``NUMBER/NAME`` tensors."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for number, (request, expected) in enumerate(zip(requests, logits, strict=True)):
        for found, tensor in zip(inputs, feed(inputs, request), strict=True):
            tensors[f"{number}/{found.name}"] = tensor.contiguous().clone()
        tensors[f"{number}/logits"] = expected.contiguous().clone()
    save_file(tensors, path)


def load_requests(path: Path, inputs: tuple[Input, ...]) -> list[tuple[Request, Tensor]]:
    """The inverse of :func:`save_requests`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        count = len({name.partition("/")[0] for name in tensors})
        given = [{found.name: tensors[f"{n}/{found.name}"] for found in inputs} for n in range(count)]
        return [(to_request(inputs, found), tensors[f"{n}/logits"]) for n, found in enumerate(given)]
    except (SafetensorError, KeyError, OSError) as error:
        raise UnimixerError(
            f"{path}: not the held-out requests of this bundle ({error}); export the run again"
        ) from None


def to_request(inputs: Sequence[Input], given: Mapping[str, Tensor]) -> Request:
    """A request from the named tensors of a signature."""
    batches = {side: _side(side, inputs, given) for side in (USER, CANDIDATES)}
    return Request(batches[USER], batches[CANDIDATES])


def _side(side: str, inputs: Sequence[Input], given: Mapping[str, Tensor]) -> Batch:
    own = [found for found in inputs if found.side == side]
    lists = [found.name.removesuffix(".values") for found in own if found.name.endswith(".values")]
    values = {group: given[f"{group}.values"] for group in lists}
    offsets = {group: given.get(f"{group}.offsets", torch.tensor([0, len(values[group])])) for group in lists}
    rows = 1
    if side == CANDIDATES:
        axes = [len(given[f.name]) - (f.width is None) for f in own if f.rows in (CANDIDATES, f"{CANDIDATES} + 1")]
        rows = axes[0]
    ids = given.get(f"{side}.ids", torch.zeros(rows, 0, dtype=torch.int32))
    return Batch(ids, given.get(f"{side}.dense", torch.zeros(rows, 0)), values, offsets)
