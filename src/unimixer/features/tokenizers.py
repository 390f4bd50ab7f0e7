"""Turn the vector E into T tokens of width D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unimixer.blocks import PerTokenLinear
from unimixer.errors import UnimixerError, check_choice, check_positive
from unimixer.features.fields import DOMAINS, FieldSlice

TOKENIZERS = ("chunk", "semantic", "random", "field")


class ChunkTokenizer(nn.Module):
    r"""Cut E into T equal slices, each with its own linear layer.

    .. math:: x_i = W_i\, E[d(i-1) : di] + b_i

    arXiv:2604.00590, features to tokens. E is padded with zeros to a multiple of T. With ``permutation`` the fields
    are laid out in another fixed order first (RankUp, arXiv:2604.17878: a random order of fields).

    Shape:
        - E: ``(B, E)``; output: ``(B, T, D)``
    """

    def __init__(
        self,
        slices: Sequence[FieldSlice],
        *,
        num_tokens: int,
        token_dim: int,
        generator: torch.Generator | None = None,
        batch_last: bool = False,
    ) -> None:
        super().__init__()
        check_positive(num_tokens=num_tokens, token_dim=token_dim)
        width = sum(field.width for field in slices)
        self.num_tokens, self.piece_dim = num_tokens, -(-width // num_tokens)
        self.padding = self.piece_dim * num_tokens - width
        self.linear = PerTokenLinear(num_tokens, self.piece_dim, token_dim, batch_last=batch_last)
        self.order: Tensor | None
        self.register_buffer("order", None if generator is None else _shuffled(slices, generator))

    def forward(self, embedded: Tensor) -> Tensor:
        if self.order is not None:
            embedded = embedded[:, self.order]
        padded = F.pad(embedded, (0, self.padding)) if self.padding else embedded
        tokens: Tensor = self.linear(padded.reshape(-1, self.num_tokens, self.piece_dim))
        return tokens


def _shuffled(slices: Sequence[FieldSlice], generator: torch.Generator) -> Tensor:
    """Return the columns of E with the fields in a random order, each field's columns together."""
    starts = _starts(slices)
    order = torch.randperm(len(slices), generator=generator, device="cpu").tolist()
    return torch.tensor([column for i in order for column in range(starts[i], starts[i + 1])])


def _starts(slices: Sequence[FieldSlice]) -> list[int]:
    """Return the first column of every field in E, and the width of E."""
    return [0, *accumulate(field.width for field in slices)]


class SemanticTokenizer(nn.Module):
    r"""Build one token per group of fields of a domain by its own two-layer MLP, and a global token from all fields.

    .. math:: x_0 = \mathrm{MLP}_g(E), \qquad x_t = \mathrm{MLP}_t([\, e_f : f \in G_t \,])

    TokenMixer-Large (arXiv:2602.06563). The source groups by hand; here the T - 1 groups are shared out over the
    domains in proportion to their widths, at least one each, and cut between fields. The activation (SiLU) and the
    hidden width (D) are ours: the source does not state them.

    Shape:
        - E: ``(B, E)``; output: ``(B, T, D)``, the global token first
    """

    def __init__(self, slices: Sequence[FieldSlice], *, num_tokens: int, token_dim: int) -> None:
        super().__init__()
        groups = semantic_groups(slices, num_tokens - 1)
        starts = _starts(slices)
        columns = [[c for i in group for c in range(starts[i], starts[i + 1])] for group in groups]
        widest = max(len(c) for c in columns)
        # column E (one past the end) is a zero that pads the groups to one width
        table = torch.tensor([c + [starts[-1]] * (widest - len(c)) for c in columns])
        self.columns: Tensor
        self.register_buffer("columns", table, persistent=False)
        self.hidden = PerTokenLinear(len(groups), widest, token_dim)
        with torch.no_grad():  # each group by its own fan-in
            self.hidden.weight.mul_(torch.tensor([(widest / len(c)) ** 0.5 for c in columns]).view(-1, 1, 1))
        self.output = PerTokenLinear(len(groups), token_dim, token_dim)
        self.global_token = nn.Sequential(nn.Linear(starts[-1], token_dim), nn.SiLU(), nn.Linear(token_dim, token_dim))

    def forward(self, embedded: Tensor) -> Tensor:
        groups = F.pad(embedded, (0, 1))[:, self.columns]
        tokens: Tensor = self.output(F.silu(self.hidden(groups)))
        return torch.cat([self.global_token(embedded).unsqueeze(1), tokens], dim=1)


def semantic_groups(slices: Sequence[FieldSlice], num_groups: int) -> list[list[int]]:
    """Share groups out over the domains by width (largest remainder), then cut each domain between its fields."""
    domains = [d for d in DOMAINS if any(p.domain == d for p in slices)]
    members = {d: [i for i, p in enumerate(slices) if p.domain == d] for d in domains}
    if not len(domains) <= num_groups <= len(slices):
        raise UnimixerError(
            f"num_tokens={num_groups + 1} does not fit the semantic tokenizer: with {len(domains)} domains and "
            f"{len(slices)} fields it must lie between {len(domains) + 1} and {len(slices) + 1}"
        )
    counts = dict.fromkeys(domains, 1)
    width = {d: sum(slices[i].width for i in members[d]) for d in domains}
    for _ in range(num_groups - len(domains)):
        open_ = [d for d in domains if counts[d] < len(members[d])]
        counts[max(open_, key=lambda d: width[d] / counts[d])] += 1
    groups = []
    for domain in domains:
        fields, count = members[domain], counts[domain]
        groups += [fields[len(fields) * g // count : len(fields) * (g + 1) // count] for g in range(count)]
    return groups


class FieldTokenizer(nn.Module):
    r"""Build one token per field: its embedding, through a linear layer of its own where D differs from its width.

    Shape:
        - E: ``(B, F * width)``; output: ``(B, F, D)``
    """

    def __init__(self, slices: Sequence[FieldSlice], *, token_dim: int) -> None:
        super().__init__()
        widths = {field.width for field in slices}
        if len(widths) > 1:
            raise UnimixerError(
                f"the field tokenizer needs fields of one width, found {sorted(widths)}; drop embedding_dims, "
                "or choose another tokenizer"
            )
        self.num_tokens, self.width = len(slices), widths.pop()
        same = self.width == token_dim
        self.linear: nn.Module = nn.Identity() if same else PerTokenLinear(self.num_tokens, self.width, token_dim)

    def forward(self, embedded: Tensor) -> Tensor:
        tokens: Tensor = self.linear(embedded.reshape(-1, self.num_tokens, self.width))
        return tokens


def build_tokenizer(
    name: str,
    slices: Sequence[FieldSlice],
    *,
    num_tokens: int,
    token_dim: int,
    generator: torch.Generator | None = None,
    batch_last: bool = False,
) -> nn.Module:
    """Make a tokenizer by name; ``generator`` draws the order of the ``random`` one.

    With ``batch_last`` one that cuts E into slices lays tokens out for a backbone that wants them so.
    """
    check_choice("tokenizer", name, TOKENIZERS)
    if name == "semantic":
        return SemanticTokenizer(slices, num_tokens=num_tokens, token_dim=token_dim)
    if name == "field":
        return FieldTokenizer(slices, token_dim=token_dim)
    drawn = generator or torch.Generator().manual_seed(0)
    order = drawn if name == "random" else None
    return ChunkTokenizer(slices, num_tokens=num_tokens, token_dim=token_dim, generator=order, batch_last=batch_last)
