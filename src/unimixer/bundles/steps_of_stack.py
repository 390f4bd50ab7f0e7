"""Write the stack of a ranker with the samples last as steps, see :mod:`unimixer.bundles.steps`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimixer.blocks import PostNorm, PreNorm, Siamese, UniMixerBlock
from unimixer.bundles.batch_last import RowFFN, RowHeadMixing, RowMatrixMixing, RowNorm, RowPermutation, TokenGroup
from unimixer.bundles.step_writer import ONE, NoStepsError, Writer
from unimixer.ops.native.scoring import Form, Kind, Step


class Rows(NamedTuple):
    """Rows of tokens, to be read in an order."""

    start: int
    order: int = -1


class _Stack:
    """Write the parts of one stack."""

    def __init__(self, write: Writer, tokens: int, token_dim: int) -> None:
        self.write, self.tokens, self.token_dim, self.rows = write, tokens, token_dim, tokens * token_dim

    def stream(self, stream: nn.Module, x: int) -> int:
        """Write a residual stream."""
        if isinstance(stream, Siamese):
            return self._siamese(stream, x)
        if not isinstance(stream, PostNorm | PreNorm):
            raise NoStepsError
        parts = list(zip(stream.sublayers, stream.norms, strict=True))
        while parts:
            part, norm = parts.pop(0)
            if isinstance(stream, PreNorm):
                x = self._sum(x, self._sublayer(part, self._norm(norm, x)))
            elif isinstance(norm, nn.Identity):  # BareMixing
                x = self._plain(self._sublayer(part, x))
            elif not isinstance(part, RowFFN) and parts and isinstance(parts[0][0], RowFFN):
                x = self._block(x, self._sublayer(part, x), norm, *parts.pop(0))
            else:
                x = self._norm(norm, x, self._sublayer(part, x))
        return self._norm(stream.final_norm, x) if isinstance(stream, PreNorm) else x

    def _block(self, x: int, mixed: Rows, norm: nn.Module, ffn: nn.Module, last: nn.Module) -> int:
        """Write what follows the mixing in a block, one token after the other, so that a token stays in cache."""
        assert isinstance(ffn, RowFFN)
        to, first, second = self.write.take(self.rows), self._norm_step(norm), self._norm_step(last)
        for token, layers in enumerate(_token_layers(ffn, self.token_dim)):
            at = token * self.token_dim
            inside, own = self.write.take(self.token_dim), (x + at, mixed.start, mixed.order + at)
            if mixed.order < 0:
                own = (x + at, mixed.start + at, -1)
            self._add_norm(first, inside, *own)
            self._add_norm(second, to + at, inside, self._token(layers, inside, None), -1)
        return to

    def _siamese(self, stream: Siamese, x: int) -> int:
        y = x
        for index, block in enumerate(stream.blocks):
            assert isinstance(block, UniMixerBlock)
            inside = self._norm(stream.input_norms[index], x, Rows(self._norm(stream.y_norms[index], y)))
            mixed = self._norm(block.norm, inside, self._sublayer(block.mixing, inside))
            update = self._plain(self._sublayer(block.ffn, mixed))
            scaled = self._sum(-1, Rows(update), stream.scales[index])
            x, y = self._norm(stream.x_norms[index], x, Rows(scaled)), self._sum(y, Rows(update))
        return self._norm(stream.final_norm, x, Rows(self._norm(stream.final_y_norm, y)))

    def _plain(self, rows: Rows) -> int:
        """Return rows in their own order."""
        return rows.start if rows.order < 0 else self._sum(-1, rows)

    def _sum(self, x: int, added: Rows, factor: float = 1.0) -> int:
        if x < 0 and factor == 1.0 and added.order < 0:
            return added.start
        return self.write.sum(x, added.start, self.rows, order=added.order, factor=factor * ONE)

    def _norm(self, norm: nn.Module, x: int, added: Rows | None = None) -> int:
        """Normalize a sum."""
        if isinstance(norm, nn.Identity):
            return x if added is None else self._sum(x, added)
        to = self.write.take(self.rows)
        self._add_norm(replace(self._norm_step(norm), times=self.tokens), to, x, *(added or (-1, -1)))
        return to

    def _norm_step(self, norm: nn.Module) -> Step:
        """Keep the numbers of a norm; returns the step of one token, without its rows."""
        if not isinstance(norm, RowNorm):
            raise NoStepsError
        return Step(
            Kind.NORM,
            in_=self.token_dim,
            weight=self.write.constant(norm.weight),
            bias=-1 if norm.bias is None else self.write.constant(norm.bias),
            stride=self.write.constant(torch.tensor([norm.eps])),
            form=int(norm.centered),
        )

    def _add_norm(self, step: Step, to: int, x: int, source: int, order: int) -> None:
        self.write.add(replace(step, to=to, first=x, source=source, width=order))

    def _sublayer(self, part: nn.Module, x: int) -> Rows:
        """Write a mixing or an FFN."""
        if isinstance(part, RowFFN):
            return Rows(self._ffn(part, x))
        if isinstance(part, RowPermutation):
            size = self.rows // len(part.order)
            rows = (part.order.unsqueeze(1) * size + torch.arange(size)).flatten()
            return Rows(x, self.write.order(rows.tolist()))
        if isinstance(part, RowMatrixMixing):
            blocks = self.write.product(x, part.inside, None)
            size = part.inside.shape[1]
            return Rows(self.write.product(blocks, part.between, None, stride=size, width=size))
        if not isinstance(part, RowHeadMixing):
            raise NoStepsError
        to, size = self.write.take(self.rows), self.token_dim // len(part.heads)
        for head, matrix in enumerate(part.heads):
            at = head * size
            self.write.product(x + at, matrix, None, to=to + at, stride=self.token_dim, width=size)
        return Rows(to)

    def _ffn(self, ffn: RowFFN, x: int) -> int:
        """Write both layers of every token."""
        to = self.write.take(self.rows)
        for token, layers in enumerate(_token_layers(ffn, self.token_dim)):
            at = token * self.token_dim
            self._token(layers, x + at, to + at)
        return to

    def _token(self, layers: Layers, x: int, to: int | None) -> int:
        """Write both layers of one token."""
        form, (weight, bias), down = layers
        hidden = self.write.product(x, weight, bias, form=form)
        return self.write.product(hidden, *down, to=to)


Linear = tuple[Tensor, Tensor | None]
"""Weight ``(out, in)`` and bias."""
Layers = tuple[Form, Linear, Linear]


def _token_layers(ffn: RowFFN, token_dim: int) -> Iterator[Layers]:
    """Iterate over the layers of every token; of a SwiGLU "up" and gate are one."""
    for group in ffn.groups:
        assert isinstance(group, TokenGroup)
        count = group.down.weight.shape[0] // token_dim
        first = [group.up] if group.gate is None else [group.up, group.gate]
        form = Form.GELU if group.gate is None else Form.SWIGLU
        for number in range(count):
            ups = [_of_token(layer, number, count) for layer in first]
            biases = [bias for _, bias in ups if bias is not None]
            weight = torch.cat([matrix for matrix, _ in ups])
            yield form, (weight, torch.cat(biases) if biases else None), _of_token(group.down, number, count)


def _of_token(layer: nn.Module, number: int, count: int) -> Linear:
    """Return weight and bias of one token of a grouped convolution."""
    assert isinstance(layer, nn.Conv1d)
    bias = None if layer.bias is None else layer.bias.chunk(count)[number]
    return layer.weight.squeeze(-1).chunk(count)[number], bias


def stream_steps(write: Writer, stream: nn.Module, x: int, tokens: int) -> int:
    """Write a stream of tokens from row ``x`` on; returns the first row of its output."""
    return _Stack(write, tokens, write.sizes[x] // tokens).stream(stream, x)
