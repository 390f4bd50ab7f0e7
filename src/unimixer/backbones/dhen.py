"""DHEN: in every layer several kinds of interaction on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unimixer.backbones.base import FieldBackbone, FieldShape
from unimixer.backbones.mlp import count_hidden, hidden_layers
from unimixer.blocks import CrossLayer, PostNorm, Recomputing
from unimixer.errors import UnimixerError, check_choice, check_divisible, check_positive, unknown
from unimixer.mixing import Compression, Convolution, FactorizationMixing, SharedLinear, SoftmaxAttention, Unified

KINDS = ("dot", "linear", "attention", "dcn", "convolution")


class DotModule(nn.Module):
    r"""All :math:`n^2` inner products, then a network that gives m rows: :math:`\mathrm{MLP}(\mathrm{vec}(X X^T))`.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, m, d)``

    Example:
        >>> DotModule(num_tokens=4, token_dim=6, num_outputs=3, hidden_dims=(8,))(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 3, 6])
    """

    def __init__(self, num_tokens: int, token_dim: int, num_outputs: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.mixing = FactorizationMixing(num_tokens, token_dim)
        self.hidden = hidden_layers(num_tokens**2, hidden_dims, batch_norm=False, dropout=0.0)
        self.output = nn.Linear(hidden_dims[-1] if hidden_dims else num_tokens**2, num_outputs * token_dim)
        self.num_outputs = num_outputs

    def forward(self, tokens: Tensor) -> Tensor:
        """Multiply all pairs and transform."""
        rows: Tensor = self.output(self.hidden(self.mixing(tokens).flatten(1)))
        return rows.view(tokens.shape[0], self.num_outputs, tokens.shape[2])


class CrossModule(nn.Module):
    r"""One cross of the flattened tokens with themselves, :math:`x \odot (W x + b) + x`.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, n, d)``

    Example:
        >>> CrossModule(4 * 6, rank=2)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """

    def __init__(self, length: int, rank: int | None) -> None:
        super().__init__()
        self.cross = CrossLayer(length, rank)

    def forward(self, tokens: Tensor) -> Tensor:
        """Cross."""
        flat = tokens.flatten(1)
        crossed: Tensor = self.cross(flat, flat)
        return crossed.view(tokens.shape)


def attention_module(num_tokens: int, token_dim: int, num_heads: int, hidden_dim: int) -> nn.Module:
    """A Transformer encoder layer: self-attention and a network shared by all tokens, each with residual and norm.

    Example:
        >>> attention_module(num_tokens=4, token_dim=6, num_heads=2, hidden_dim=8)(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 4, 6])
    """
    query, key, value, output = (SharedLinear(num_tokens, token_dim, token_dim) for _ in range(4))
    attention = Unified(value, SoftmaxAttention(query, key, num_heads=num_heads))
    ffn = nn.Sequential(nn.Linear(token_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, token_dim))
    return PostNorm([(nn.Sequential(attention, output), ffn)], token_dim, nn.LayerNorm)


class DHENLayer(nn.Module):
    r"""Modules side by side on the same input, their outputs joined, a shortcut around them.

    .. math:: X' = \mathrm{LN}\big( \mathrm{Ensemble}_i\, \mathrm{Interaction}_i(X) + \mathrm{ShortCut}(X) \big)

    DHEN (arXiv:2203.11014), "hierarchical ensemble". The shortcut is the identity where the number of rows stays, else
    linear; the norm acts over d.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, rows, d)``

    Example:
        >>> DHENLayer([Compression(4, 6, 3), Compression(4, 6, 3)], 4, 6, 3, "sum")(torch.zeros(2, 4, 6)).shape
        torch.Size([2, 3, 6])
    """

    def __init__(
        self, interactions: Sequence[nn.Module], num_tokens: int, token_dim: int, rows: int, ensemble: str
    ) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.interactions = nn.ModuleList(interactions)
        self.shortcut = nn.Identity() if rows == num_tokens else Compression(num_tokens, token_dim, rows)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run every module and join them."""
        shortcut = self.shortcut(tokens)
        outputs = [interaction(tokens).to(shortcut.dtype) for interaction in self.interactions]
        joined = torch.cat(outputs, dim=1) if self.ensemble == "concat" else torch.stack(outputs).sum(0)
        output: Tensor = self.norm(joined + shortcut)
        return output


@dataclass(frozen=True, kw_only=True)
class DHENOptions(FieldShape):
    """Keyword arguments of :class:`DHEN`; their meaning is there."""

    num_layers: int = 2
    modules: Sequence[str] = ("dot", "attention", "linear")
    num_outputs: int = 16
    ensemble: str = "concat"
    dot_dims: Sequence[int] = (512,)
    num_heads: int = 1
    attention_hidden_dim: int | None = None
    cross_rank: int | None = None
    head_dims: Sequence[int] = (512,)


class DHEN(Recomputing, FieldBackbone):
    r"""A deep stack of ensembles of interaction modules.

    .. math:: X_{l+1} = \mathrm{LN}\big( \mathrm{Ensemble}_i\, \mathrm{Interaction}_i(X_l) +
              \mathrm{ShortCut}(X_l) \big)

    DHEN (arXiv:2203.11014). Every module gives m rows of width d. Silent in what we could read, hence ours: which
    modules by default, m, and the insides of modules: ``"dot"`` is all inner products and a network, ``"linear"``
    :math:`W X`; the others end in such a linear map to m rows after a Transformer encoder layer (``"attention"``), a
    cross of the layer's input with itself (``"dcn"``) or a 5 x 5 convolution over the n x d matrix (``"convolution"``).
    The last rows are flattened into a final network, as Wukong (arXiv:2403.02545) does.

    Args:
        num_tokens: n of the first layer, one token a field.
        token_dim: d.
        num_layers: layers.
        modules: kinds of interaction, each at most once.
        num_outputs: m, rows from every module.
        ensemble: ``"concat"`` gives m rows a module to the next layer, ``"sum"`` m rows in all.
        dot_dims: hidden widths of the network of ``"dot"``, with ReLU.
        num_heads: heads of ``"attention"``, a divisor of d.
        attention_hidden_dim: hidden width inside ``"attention"`` (default: ``2 * token_dim``).
        cross_rank: rank of the weights of ``"dcn"``, None for full rank: :math:`(n d)^2` numbers.
        head_dims: widths of the final network, with ReLU; empty gives its input.

    Shape:
        - tokens: ``(B, n, d)``; output: ``(B, head_dims[-1])``

    Example:
        >>> model = DHEN(num_tokens=4, token_dim=16, modules=("dcn", "linear"), num_outputs=3, head_dims=(8,))
        >>> model(torch.zeros(2, 4, 16)).shape
        torch.Size([2, 8])
    """

    Options: ClassVar[Any] = DHENOptions
    family: ClassVar[str] = "ensemble"

    def __init__(self, **options: Any) -> None:
        chosen = DHENOptions(**options)
        check_positive(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            num_layers=chosen.num_layers,
            num_outputs=chosen.num_outputs,
        )
        check_choice("ensemble", chosen.ensemble, ("concat", "sum"))
        check_divisible("token_dim", chosen.token_dim, by="num_heads", divisor=chosen.num_heads)
        _check_modules(chosen.modules)
        hidden_dim = 2 * chosen.token_dim if chosen.attention_hidden_dim is None else chosen.attention_hidden_dim
        check_positive(attention_hidden_dim=hidden_dim)
        rows = chosen.num_outputs * (len(chosen.modules) if chosen.ensemble == "concat" else 1)
        pooled = rows * chosen.token_dim
        super().__init__(
            num_tokens=chosen.num_tokens,
            token_dim=chosen.token_dim,
            out_dim=chosen.head_dims[-1] if chosen.head_dims else pooled,
        )
        inside: dict[str, Callable[[int], nn.Module]] = {
            "attention": lambda n: attention_module(n, chosen.token_dim, chosen.num_heads, hidden_dim),
            "dcn": lambda n: CrossModule(n * chosen.token_dim, chosen.cross_rank),
            "convolution": lambda n: Convolution(n, chosen.token_dim),
        }

        def interaction(kind: str, n: int) -> nn.Module:
            if kind == "dot":
                return DotModule(n, chosen.token_dim, chosen.num_outputs, chosen.dot_dims)
            compression = Compression(n, chosen.token_dim, chosen.num_outputs)
            return compression if kind == "linear" else nn.Sequential(inside[kind](n), compression)

        self.layers = nn.Sequential(
            *(
                DHENLayer([interaction(kind, n) for kind in chosen.modules], n, chosen.token_dim, rows, chosen.ensemble)
                for n in (chosen.num_tokens, *(rows for _ in range(chosen.num_layers - 1)))
            )
        )
        self.head = hidden_layers(pooled, chosen.head_dims, batch_norm=False, dropout=0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run the stack and the final network."""
        self.check_tokens(tokens)
        for layer in self.layers:
            tokens = self.run(layer, tokens)
        output: Tensor = self.head(tokens.flatten(1))
        return output

    @classmethod
    def formula(cls, **arguments: Any) -> int:
        r"""A layer on n rows: :math:`m n` a module but "dot", plus what is inside; the shortcut, the norm of 2 d.

        Inside: dot a network from :math:`n^2` to :math:`m d`; attention :math:`4 d^2`, its network and two norms; dcn
        :math:`(n d)^2 + n d` or :math:`2 n d r + n d`; convolution 25.
        """
        chosen = DHENOptions(**arguments)
        d, m, rank = chosen.token_dim, chosen.num_outputs, chosen.cross_rank
        rows = m * (len(chosen.modules) if chosen.ensemble == "concat" else 1)
        hidden = 2 * d if chosen.attention_hidden_dim is None else chosen.attention_hidden_dim

        def layer(n: int) -> int:
            cost = {
                "dot": count_hidden(n * n, (*chosen.dot_dims, m * d), batch_norm=False),
                "linear": m * n,
                "attention": m * n + 4 * d * d + count_hidden(d, (hidden, d), batch_norm=False) + 4 * d,
                "dcn": m * n + n * d + ((n * d) ** 2 if rank is None else 2 * n * d * int(rank)),
                "convolution": m * n + 25,
            }
            return sum(cost[kind] for kind in chosen.modules) + (0 if n == rows else rows * n) + 2 * d

        stack = layer(chosen.num_tokens) + (chosen.num_layers - 1) * layer(rows)
        return stack + count_hidden(rows * d, chosen.head_dims, batch_norm=False)

    @classmethod
    def dimensions(
        cls, width: float, *, num_tokens: int, token_dim: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """One hidden layer of ``width`` in the network of ``"dot"`` and in the final one; rows and modules stay.

        The two are rounded apart from each other, so that a small model grows in smaller steps.
        A cross of full rank has a rank of a quarter of ``width`` here, or the matrices alone could exceed a budget.
        """
        return {
            "token_dim": 16 if token_dim is None else token_dim,
            "dot_dims": (max(1, int(width)),),
            "cross_rank": max(1, round(width / 4)),
            "head_dims": (max(1, int(width + 0.5)),),
        }


def _check_modules(modules: Sequence[str]) -> None:
    if isinstance(modules, str) or not modules or len(set(modules)) < len(modules):
        raise UnimixerError(f"modules={modules!r} must name at least one of {', '.join(KINDS)}, each at most once")
    for kind in modules:
        if kind not in KINDS:
            raise unknown("module", kind, KINDS)
