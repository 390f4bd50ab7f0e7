"""Record tokens and attention weights while a backbone runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unimixer.backbones import Backbone
from unimixer.blocks import EventAttention, PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE
from unimixer.inspection.matrices import row_entropy
from unimixer.mixing import Mixing, Unified

WEIGHTS = "weights"
"""Kind of the weights of a global pattern that depends on the tokens."""
LEAVES: dict[str, tuple[type[nn.Module], ...]] = {
    "mixing": (Mixing,),
    "FFN": (PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE),
    "attention": (EventAttention,),
    "norm": (nn.LayerNorm, nn.RMSNorm),
}
"""Modules whose output is recorded, but not the outputs of their parts."""


class Activation(NamedTuple):
    """Tokens or weights of one forward pass at one place of a backbone."""

    place: str
    """Name of the module; ``tokens in`` and ``tokens out`` are those of the backbone."""
    kind: str
    value: Tensor
    """Tokens ``(B, T', D')``, or weights ``(B, H, M, N)``."""


def places(backbone: Backbone) -> dict[str, str]:
    """Name every place whose tokens are recorded, with its kind.

    Places are mixings, per-token FFNs and mixtures, attentions to events, norms, and the elements of lists of modules:
    ``FFN`` or ``mixing`` in a residual stream, ``block`` elsewhere. A module whose output is no tokens is skipped when
    it runs.

    Example:
        >>> from unimixer.backbones import RankMixer
        >>> list(places(RankMixer(num_tokens=4, token_dim=16, num_blocks=1)).values())
        ['mixing', 'FFN', 'norm', 'norm']
    """
    kinds: dict[str, str] = {}
    _collect(backbone, "", kinds)
    return kinds


def _collect(module: nn.Module, name: str, kinds: dict[str, str]) -> None:
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child_name, child in module.named_children():
        place = f"{name}.{child_name}" if name else child_name
        kind = next((kind for kind, types in LEAVES.items() if isinstance(child, types)), None)
        if kind is None and name.endswith("sublayers"):
            kind = "mixing" if any(isinstance(part, Mixing) for part in child.modules()) else "FFN"
        elif kind is None and child_name.endswith("ffn"):
            kind = "FFN"
        if kind is not None:
            kinds[place] = kind
            continue
        if listed and not isinstance(child, nn.Identity):
            kinds[place] = "block"
        _collect(child, place, kinds)


@contextmanager
def watch(backbone: Backbone) -> Iterator[list[Activation]]:
    """Record activations in order while the backbone runs, in a list that the caller clears.

    Hooks are removed at the end. A module that runs several times in one forward pass has a number after its name.
    """
    activations: list[Activation] = []
    handles = []
    length = backbone.num_tokens * backbone.token_dim

    def record(place: str, kind: str, value: Any) -> None:
        if kind == "mixing" and isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == length:
            value = value.view(len(value), backbone.num_tokens, -1)  # the tokens were flattened for the mixing
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == (4 if kind == WEIGHTS else 3):
            calls = sum(kind == other.kind and place == other.place.partition(" (")[0] for other in activations)
            name = f"{place} ({calls + 1})" if calls else place
            activations.append(Activation(name, kind, value.detach().float()))

    def output_hook(place: str, kind: str) -> Any:
        return lambda module, arguments, output: record(place, kind, output[0] if isinstance(output, tuple) else output)

    def weights_hook(place: str) -> Any:
        def hook(module: Unified, arguments: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                record(place, WEIGHTS, module.global_.weights(module.blocks(arguments[0])))

        return hook

    def record_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        record("tokens in", "tokens", arguments[0])

    try:
        handles.append(backbone.register_forward_pre_hook(record_input))
        for place, kind in places(backbone).items():
            handles.append(backbone.get_submodule(place).register_forward_hook(output_hook(place, kind)))
        for place, module in backbone.named_modules():
            if isinstance(module, Unified) and module.global_.depends_on_input:
                handles.append(module.register_forward_pre_hook(weights_hook(place)))
        handles.append(backbone.register_forward_hook(output_hook("tokens out", "tokens")))
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class AttentionReport:
    """Statistics of attention weights over some samples."""

    place: str
    rows: int
    mean: Tensor
    """Mean weights ``(H, M, N)``."""
    row_maximum: float
    """Largest weight of a row, mean over rows, heads and samples."""
    row_entropy: float | None
    """Entropy of a row divided by that of a flat one, likewise; None if rows are no distributions."""

    def as_json(self) -> dict[str, Any]:
        """Return the numbers without the matrices."""
        heads, out, blocks = self.mean.shape
        sizes = {"heads": heads, "out_blocks": out, "blocks": blocks}
        sharpness = {"row_maximum": self.row_maximum, "row_entropy": self.row_entropy}
        return {"place": self.place, "rows": self.rows, **sizes, **sharpness}


class AttentionMeter:
    """Accumulate attention weights of batches, ``(B, H, M, N)``.

    The mean matrix of sharp rows that differ between samples is flat, so sharpness is measured sample by sample.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._rows = 0
        self._sum: Tensor | float = 0.0
        self._maximum = 0.0
        self._entropy: float | None = 0.0

    def add(self, weights: Tensor) -> None:
        """Add the samples of a batch."""
        wide = weights.double()
        self._rows += len(wide)
        self._sum = self._sum + wide.sum(0)
        self._maximum += wide.amax(-1).mean((1, 2)).sum().item()
        entropy = row_entropy(wide)
        if entropy is None or self._entropy is None:
            self._entropy = None
        else:
            self._entropy += entropy.mean((1, 2)).sum().item()

    def report(self) -> AttentionReport:
        """Return the means over all samples."""
        assert isinstance(self._sum, Tensor)
        entropy = None if self._entropy is None else self._entropy / self._rows
        mean = (self._sum / self._rows).to(torch.float32)
        return AttentionReport(self.place, self._rows, mean, self._maximum / self._rows, entropy)
