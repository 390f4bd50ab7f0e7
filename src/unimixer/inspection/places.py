"""Watching a backbone while it runs: tokens at every place of interest, and attention weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unimixer.backbones import Backbone
from unimixer.blocks import CrossAttention, PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE
from unimixer.mixing import Mixing, Unified

WEIGHTS = "weights"
"""Kind of what is seen where a global pattern depends on the tokens: its weights."""
LEAVES: dict[str, tuple[type[nn.Module], ...]] = {
    "mixing": (Mixing,),
    "FFN": (PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE),
    "attention": (CrossAttention,),
    "norm": (nn.LayerNorm, nn.RMSNorm),
}
"""Modules whose output is looked at and whose inside is not."""


class Seen(NamedTuple):
    """Something that passed by."""

    place: str
    """Name of the module; ``tokens in`` and ``tokens out`` are those of the backbone."""
    kind: str
    value: Tensor
    """Tokens ``(B, T', D')``, or weights ``(B, H, M, N)``."""


def places(backbone: Backbone) -> dict[str, str]:
    """Kind of every place by the name of its module.

    These are mixings, per-token FFNs and mixtures, attentions to events, norms, and the elements of lists of modules:
    ``FFN`` or ``mixing`` in a residual stream, ``block`` elsewhere. Any backbone that is put together from named
    modules has some; those that give no tokens are passed over when they run.

    Example:
        >>> from unimixer.backbones import RankMixer
        >>> list(places(RankMixer(num_tokens=4, token_dim=16, num_blocks=1)).values())
        ['mixing', 'FFN', 'norm', 'norm']
    """
    found: dict[str, str] = {}
    _walk(backbone, "", found)
    return found


def _walk(module: nn.Module, name: str, found: dict[str, str]) -> None:
    listed = isinstance(module, nn.ModuleList | nn.Sequential)
    for child_name, child in module.named_children():
        place = f"{name}.{child_name}" if name else child_name
        kind = next((kind for kind, types in LEAVES.items() if isinstance(child, types)), None)
        if kind is None and name.endswith("sublayers"):
            kind = "mixing" if any(isinstance(part, Mixing) for part in child.modules()) else "FFN"
        elif kind is None and child_name.endswith("ffn"):
            kind = "FFN"
        if kind is not None:
            found[place] = kind
            continue
        if listed and not isinstance(child, nn.Identity):
            found[place] = "block"
        _walk(child, place, found)


@contextmanager
def watch(backbone: Backbone) -> Iterator[list[Seen]]:
    """Collect what passes while the backbone runs, in order; whoever reads the list clears it. No hook stays behind.

    A module that runs several times in one forward is told apart by a number after its name.
    """
    seen: list[Seen] = []
    handles = []
    length = backbone.num_tokens * backbone.token_dim

    def see(place: str, kind: str, value: Any) -> None:
        if kind == "mixing" and isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == length:
            value = value.view(len(value), backbone.num_tokens, -1)  # the tokens were flattened for the mixing
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == (4 if kind == WEIGHTS else 3):
            calls = sum(kind == other.kind and place == other.place.partition(" (")[0] for other in seen)
            name = f"{place} ({calls + 1})" if calls else place
            seen.append(Seen(name, kind, value.detach().float()))

    def look(place: str, kind: str) -> Any:
        return lambda module, arguments, output: see(place, kind, output)

    def look_at_weights(place: str) -> Any:
        def hook(module: Unified, arguments: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                see(place, WEIGHTS, module.global_.weights(module.blocks(arguments[0])))

        return hook

    def arrive(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        see("tokens in", "tokens", arguments[0])

    try:
        handles.append(backbone.register_forward_pre_hook(arrive))
        for place, kind in places(backbone).items():
            handles.append(backbone.get_submodule(place).register_forward_hook(look(place, kind)))
        for place, module in backbone.named_modules():
            if isinstance(module, Unified) and module.global_.depends_on_input:
                handles.append(module.register_forward_pre_hook(look_at_weights(place)))
        handles.append(backbone.register_forward_hook(look("tokens out", "tokens")))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
