r"""Convert streams of blocks to a form with the samples last, for ONNX graphs.

Tokens are ``(T, D, B)`` from the first block to the last. Blocks of features are then whole rows, so a mixing is two
products without a transposition, and a map of its own for every token is a convolution of width one with T groups:
runtimes have its bias added, and its rows spread over threads, where they would add it in a pass of its own after a
batched product. A few tokens at a time go through an FFN, so that the activations between its layers stay in cache, as
in :mod:`unimixer.ops.per_token.fused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.blocks import PerTokenFFN, PerTokenSwiGLU, PostNorm, PreNorm, Siamese, UniMixerBlock
from unimixer.blocks.norms import LayerNorm, RMSNorm
from unimixer.bundles.tokens import SplitTokenizer
from unimixer.mixing import HeadUniMixing, IdentityLocal, MatrixMixing, Mixing, Permutation, TokenMixing, Unified

GROUP = 2**11
"""Hidden activations of one candidate in a group of tokens; a group is at least one token. With 500 candidates they
take 4 MB in float32, which fit a core's own cache and its share of the common one."""

STREAMS = (PostNorm, PreNorm, Siamese)


class RowNorm(nn.Module):
    r"""Normalize tokens with the samples last by RMS normalization; with ``centered`` by layer normalization.

    Shape:
        - x_TDB: ``(T, D, B)``; output: the same
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, norm: RMSNorm | LayerNorm) -> None:
        super().__init__()
        self.centered, self.eps = isinstance(norm, LayerNorm), float(norm.eps or 0.0)
        self.register_buffer("weight", norm.weight.detach().unsqueeze(-1))
        bias = norm.bias if isinstance(norm, LayerNorm) else None
        self.register_buffer("bias", None if bias is None else bias.detach().unsqueeze(-1))

    def forward(self, x_TDB: Tensor) -> Tensor:
        """Normalise the width of every token."""
        if self.centered:
            x_TDB = x_TDB - x_TDB.mean(1, keepdim=True)
        scale = torch.rsqrt((x_TDB * x_TDB).mean(1, keepdim=True) + self.eps)
        normed = x_TDB * scale * self.weight
        return normed if self.bias is None else normed + self.bias


class RowMatrixMixing(nn.Module):
    """Mix tokens with the samples last by constant matrices, as :func:`unimixer.ops.unimixing`.

    Shape:
        - x_TDB: ``(T, D, B)``; output: the same
    """

    between: Tensor
    inside: Tensor

    def __init__(self, mixing: MatrixMixing) -> None:
        super().__init__()
        between, inside = mixing.weights()
        size = between.shape[0], inside.shape[-1], inside.shape[-1]
        self.register_buffer("between", between.detach().clone())
        self.register_buffer("inside", inside.detach().mT.expand(size).contiguous())

    def forward(self, x_TDB: Tensor) -> Tensor:
        """Mix inside blocks, then between them."""
        blocks = torch.bmm(self.inside, x_TDB.reshape(*self.inside.shape[:2], -1))
        return (self.between @ blocks.flatten(1)).reshape(x_TDB.shape)


class RowHeadMixing(nn.Module):
    """Mix every head of tokens with the samples last by its constant matrix, as :func:`unimixer.ops.head_unimixing`.

    Shape:
        - x_TDB: ``(T, D, B)``; output: the same
    """

    heads: Tensor

    def __init__(self, mixing: HeadUniMixing) -> None:
        super().__init__()
        self.register_buffer("heads", mixing.global_.weights().detach().clone())

    def forward(self, x_TDB: Tensor) -> Tensor:
        """Mix the rows of every head."""
        rows = x_TDB.reshape(x_TDB.shape[0], len(self.heads), -1).transpose(0, 1)
        return torch.bmm(self.heads, rows).transpose(0, 1).reshape(x_TDB.shape)


class RowPermutation(nn.Module):
    """Move blocks of features, which are whole rows here.

    Shape:
        - x_TDB: ``(T, D, B)``; output: the same
    """

    order: Tensor

    def __init__(self, mixing: Unified) -> None:
        super().__init__()
        assert isinstance(mixing.global_, Permutation)
        self.register_buffer("order", mixing.global_.permutation.clone())

    def forward(self, x_TDB: Tensor) -> Tensor:
        """Move blocks."""
        return x_TDB.reshape(len(self.order), -1, x_TDB.shape[-1])[self.order].reshape(x_TDB.shape)


class TokenGroup(nn.Module):
    """Apply both layers of some tokens."""

    def __init__(self, ffn: PerTokenFFN | PerTokenSwiGLU, tokens: slice) -> None:
        super().__init__()
        first = ffn.up if isinstance(ffn, PerTokenFFN) else ffn.up_gate
        weight, bias = first.weight[tokens], None if first.bias is None else first.bias[tokens]
        width = ffn.down.weight.shape[1]
        self.up = per_token_conv(weight[..., :width], None if bias is None else bias[:, :width])
        self.gate: nn.Module | None = None
        if isinstance(ffn, PerTokenSwiGLU):
            self.gate = per_token_conv(weight[..., width:], None if bias is None else bias[:, width:])
        self.down = per_token_conv(ffn.down.weight[tokens], None if ffn.down.bias is None else ffn.down.bias[tokens])

    def forward(self, rows: Tensor) -> Tensor:
        """Map the rows of these tokens, ``(1, t * D, B)``."""
        up: Tensor = self.up(rows)
        hidden = F.gelu(up) if self.gate is None else up * F.silu(self.gate(rows))
        output: Tensor = self.down(hidden)
        return output


class RowFFN(nn.Module):
    """Apply :func:`unimixer.ops.per_token_ffn` to tokens with the samples last, a group of tokens at a time.

    Shape:
        - x_TDB: ``(T, D, B)``; output: the same
    """

    def __init__(self, ffn: PerTokenFFN | PerTokenSwiGLU, group: int = GROUP) -> None:
        super().__init__()
        first = ffn.up if isinstance(ffn, PerTokenFFN) else ffn.up_gate
        tokens, width, between = first.weight.shape
        size = max(1, group // between)
        self.sizes = [min(size, tokens - start) * width for start in range(0, tokens, size)]
        self.groups = nn.ModuleList(TokenGroup(ffn, slice(start, start + size)) for start in range(0, tokens, size))

    def forward(self, x_TDB: Tensor) -> Tensor:
        """Apply every token's two layers."""
        parts = torch.split(x_TDB.flatten(0, 1).unsqueeze(0), self.sizes, dim=1)
        done = [group(part) for group, part in zip(self.groups, parts, strict=True)]
        return torch.cat(done, dim=1).reshape(x_TDB.shape)


def per_token_conv(weight_TDO: Tensor, bias_TO: Tensor | None) -> nn.Conv1d:
    """Make a linear map for every token, as one convolution of ``(1, T * D, B)`` to ``(1, T * O, B)``."""
    tokens, width, out = weight_TDO.shape
    conv = nn.Conv1d(tokens * width, tokens * out, 1, groups=tokens, bias=bias_TO is not None, device="meta")
    conv.weight = nn.Parameter(weight_TDO.detach().mT.reshape(tokens * out, width, 1).contiguous())
    if bias_TO is not None:
        conv.bias = nn.Parameter(bias_TO.detach().flatten().contiguous())
    return conv


class RowTokenizer(nn.Module):
    """Compute the tokens of a :class:`~unimixer.bundles.tokens.SplitTokenizer` with the samples last.

    Shape:
        - user: ``(1, E_u)``; items: ``(B, E_c)``
        - output: ``(B, T, D)``, a view of ``(T, D, B)``
    """

    columns: Tensor

    def __init__(self, tokenizer: SplitTokenizer) -> None:
        super().__init__()
        self.linear = linear = tokenizer.linear
        # padding columns of a token have zero weights: any number will do
        columns = linear.item_columns.flatten()
        self.register_buffer("columns", columns.where(columns < linear.item_width, 0))
        self.items = per_token_conv(linear.item_weight, None)
        kinds = groupby(range(len(linear.bias)), key=lambda token: token in linear.item_tokens)
        self.runs = [(of_item, len(list(tokens))) for of_item, tokens in kinds]

    def forward(self, user: Tensor | None, items: Tensor) -> Tensor:
        """Compute all tokens in their order."""
        once = self.linear.user_share(user).permute(1, 2, 0)
        alone, mine = once[self.linear.user_tokens], once[self.linear.item_tokens]
        theirs: Tensor = self.items(items.T[self.columns].unsqueeze(0))
        both = {False: alone.expand(-1, -1, items.shape[0]), True: theirs.reshape(*mine.shape[:2], -1) + mine}
        taken, parts = {False: 0, True: 0}, []
        for of_item, count in self.runs:
            parts.append(both[of_item][taken[of_item] : taken[of_item] + count])
            taken[of_item] += count
        return torch.cat(parts).permute(2, 0, 1)


class BatchLast(nn.Module):
    """Run a stream with the samples last; input and output are tokens as of any stream.

    Shape:
        - tokens: ``(B, T, D)``; output: ``(B, T, D)``
    """

    def __init__(self, stream: nn.Module) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, tokens: Tensor, events: None = None, mask: None = None) -> Tensor:
        """Run the stream, which has no attention to events."""
        output: Tensor = self.stream(tokens.permute(1, 2, 0))
        return output.permute(2, 0, 1)


def use_batch_last(module: nn.Module) -> int:
    """Convert the streams inside a module, in place, to their form with samples last; return the number converted.

    A stream has this form if all its parts have: norms, per-token FFNs without experts, mixings by constant matrices or
    by a permutation. A stream that attends to events, or mixes by the content of the tokens, stays as it is.
    """
    converted = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, STREAMS) and all(_form(part) is not None for _, _, part in _parts(child)):
                for owner, name_inside, part in list(_parts(child)):
                    setattr(owner, name_inside, _form(part))
                setattr(parent, name, BatchLast(child))
                converted += 1
    return converted


def _parts(stream: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Iterate over the sublayers and norms of a stream with their owners and names."""
    for name, child in stream.named_children():
        if isinstance(child, nn.ModuleList | UniMixerBlock):
            yield from _parts(child)
        else:
            yield stream, name, child


def _form(part: nn.Module) -> nn.Module | None:
    """Convert one part to its form with samples last; None if it has no such form."""
    if isinstance(part, nn.Identity):
        return part
    if isinstance(part, RMSNorm | LayerNorm):
        return RowNorm(part)
    if isinstance(part, PerTokenFFN | PerTokenSwiGLU):
        return RowFFN(part)
    return _mixing_form(part) if isinstance(part, Mixing) else None


def _mixing_form(mixing: Mixing) -> nn.Module | None:
    if isinstance(mixing, MatrixMixing):
        return RowMatrixMixing(mixing)
    if isinstance(mixing, HeadUniMixing):
        return RowHeadMixing(mixing)
    if not isinstance(mixing, Unified) or (isinstance(mixing, TokenMixing) and mixing.num_heads != mixing.num_tokens):
        return None
    moves = isinstance(mixing.local, IdentityLocal) and isinstance(mixing.global_, Permutation)
    return RowPermutation(mixing) if moves else None
