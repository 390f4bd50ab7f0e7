"""Write the graph of a request as steps for the C kernels of :mod:`unimixer.ops.native.scoring`.

The steps of the user run once for a request and end with the user's share of all tokens; those of the candidates begin
with it. A model has this form if its stack runs with the samples last, its histories are pooled by their mean and its
towers are plain. Other models have none, and onnxruntime scores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unimixer.backbones.mixer import MixerBackbone
from unimixer.blocks.readout import MeanPooling, TaskTowers
from unimixer.bundles.batch_last import BatchLast, RowTokenizer
from unimixer.bundles.encoders import UserOrItemEncoder
from unimixer.bundles.graph import RequestRanker
from unimixer.bundles.step_writer import NoStepsError, Numbers, Writer
from unimixer.bundles.steps_of_stack import stream_steps
from unimixer.bundles.tokens import SplitLinear
from unimixer.ops.native.scoring import Floats, Form, Kind, Step, Whole


@dataclass(frozen=True)
class Steps:
    """A ranker as steps.

    Attributes:
        user: of the user.
        candidates: of the candidates.
        weights: of products, row by row.
        constants: all other numbers.
        orders: orders of rows.
        tables: widths of the embedding tables in the order of their numbers.
    """

    user: tuple[Step, ...]
    candidates: tuple[Step, ...]
    weights: Floats
    constants: Floats
    orders: Whole
    tables: tuple[int, ...]


def steps_of(graph: RequestRanker) -> Steps | None:
    """Write a graph as steps; None if it has no such form."""
    numbers, embedding = Numbers(), graph.ranker.embedding
    tables = tuple(sorted(int(width) for width in embedding.tables.packed))
    user, candidates = Writer(numbers), Writer(numbers)
    try:
        _check(graph)
        _user(graph, user, tables)
        _candidates(graph, candidates, tables)
    except NoStepsError:
        return None
    return Steps(user.finished(), candidates.finished(), *numbers.joined(), tables)


def _check(graph: RequestRanker) -> None:
    """Raise for a part that has no steps."""
    ranker, backbone = graph.ranker, graph.ranker.backbone
    embedding = ranker.embedding
    plain = (
        isinstance(backbone, MixerBackbone)
        and type(backbone).forward is MixerBackbone.forward
        and type(backbone).enter is MixerBackbone.enter
        and backbone.dots is None
        and isinstance(backbone.stack, BatchLast)
        and isinstance(graph.tokenizer, RowTokenizer)
        and not (embedding.encoder_of or embedding.event_groups or embedding.managed.tables)
        and isinstance(ranker.pool, MeanPooling | nn.Flatten)
        and ranker.sequence_tokens is None
        and ranker.logit_clamp is None
        and not ranker.links
        and isinstance(ranker.towers, TaskTowers)
        and not len(ranker.towers.crosses)
        and ranker.towers.experts is None
    )
    if not plain:
        raise NoStepsError


def _first_layer(graph: RequestRanker) -> SplitLinear:
    assert isinstance(graph.tokenizer, RowTokenizer)
    return graph.tokenizer.linear


def _user(graph: RequestRanker, write: Writer, tables: tuple[int, ...]) -> None:
    """The user's share of every token, with the bias."""
    names = [name for name in graph.names if name in graph.of_user]
    start, width = _fields(graph, graph.user, names, write, tables)
    linear = _first_layer(graph)
    tokens, _, token_dim = linear.user_weight.shape
    out = write.take(tokens * token_dim)
    for token in range(tokens):
        columns = [int(column) for column in linear.user_columns[token] if column < width]
        picked = write.picked(start, columns)
        weight = linear.user_weight[token, : len(columns)].T
        write.product(picked, weight, linear.bias[token], to=out + token * token_dim)
    write.add(Step(Kind.GIVE, first=out, out=tokens * token_dim))


def _candidates(graph: RequestRanker, write: Writer, tables: tuple[int, ...]) -> None:
    names = [name for name in graph.names if name not in graph.of_user]
    start, width = _fields(graph, graph.candidates, names, write, tables)
    linear, ranker = _first_layer(graph), graph.ranker
    tokens, token_dim = linear.bias.shape
    x = write.take(tokens * token_dim)
    for token in linear.user_tokens:
        write.add(Step(Kind.REPEAT, to=x + token * token_dim, first=token * token_dim, out=token_dim))
    for index, token in enumerate(linear.item_tokens):
        columns = [int(column) for column in linear.item_columns[index] if column < width]
        picked, weight = write.picked(start, columns), linear.item_weight[index, : len(columns)].T
        write.product(picked, weight, token * token_dim, to=x + token * token_dim)
    stack = ranker.backbone.stack
    assert isinstance(stack, BatchLast)
    x = stream_steps(write, stack.stream, x, tokens)
    if isinstance(ranker.pool, MeanPooling):
        pooled = write.take(token_dim)
        write.add(Step(Kind.MEAN, to=pooled, first=x, out=token_dim, times=tokens))
        x = pooled
    logits = write.take(len(ranker.towers.towers))
    for number, tower in enumerate(ranker.towers.towers):
        _tower(write, tower, x, logits + number)
    write.add(Step(Kind.GIVE, first=logits, out=len(ranker.towers.towers)))


def _tower(write: Writer, tower: nn.Module, x: int, to: int) -> None:
    layers = [layer for layer in tower.modules() if not isinstance(layer, nn.Sequential)]
    *hidden, last = layers
    for linear, activation in zip(hidden[::2], hidden[1::2], strict=True):
        if not isinstance(linear, nn.Linear) or not isinstance(activation, nn.SiLU):
            raise NoStepsError
        x = write.product(x, linear.weight, linear.bias, form=Form.SILU)
    if not isinstance(last, nn.Linear):
        raise NoStepsError
    write.product(x, last.weight, last.bias, to=to)


def _fields(
    graph: RequestRanker, encoder: UserOrItemEncoder, names: Sequence[str], write: Writer, tables: tuple[int, ...]
) -> tuple[int, int]:
    """Embed the named fields of a side; return the first of their rows, and how many there are."""
    embedding = graph.ranker.embedding
    widths = {field.name: field.width for field in embedding.slices}
    start = write.take(total := sum(widths[name] for name in names))
    ids = {field.name: (column, field) for column, field in enumerate(encoder.ids)}
    lists = list(encoder.groups)
    pooled = {f.name: (g, column, f) for g, fields in encoder.groups.items() for column, f in enumerate(fields)}
    dense, at = {}, 0
    for field in encoder.dense:
        dense[field.name] = at
        at += field.width
    to = start
    for name in names:
        width = widths[name]
        if name in ids:
            column, of = ids[name]
            table_row = {"source": tables.index(width), "stride": embedding.tables.first_row(of.table)}
            write.add(Step(Kind.IDS, to=to, first=column, out=width, **table_row))
        elif name in pooled:
            group, column, listed = pooled[name]
            table_row = {"source": tables.index(width), "stride": embedding.tables.first_row(listed.table)}
            size = len(encoder.groups[group])
            write.add(
                Step(Kind.LIST, to=to, first=column, out=width, width=size, times=lists.index(group), **table_row)
            )
        elif name in encoder.scalars:
            assert encoder.numeric is not None
            row, numeric = encoder.scalars.index(name), encoder.numeric
            weight = write.constant(torch.cat([numeric.weight[row], numeric.bias[row], numeric.missing[row]]))
            write.add(Step(Kind.NUMBER, to=to, first=dense[name], out=width, weight=weight))
        else:
            _vector(write, encoder.vectors[encoder.vector_names.index(name)], dense[name], to, width)
        to += width
    return start, total


def _vector(write: Writer, projection: nn.Module, column: int, to: int, width: int) -> None:
    """Project a vector of numbers, or take the learned one where it is missing."""
    linear, missing = projection.linear, projection.missing
    assert isinstance(linear, nn.Linear)
    assert isinstance(missing, Tensor)
    numbers = write.take(linear.in_features)
    write.add(Step(Kind.VECTOR, to=numbers, first=column, out=linear.in_features))
    write.product(numbers, linear.weight, linear.bias, to=to)
    write.add(Step(Kind.MISSING, to=to, first=column, out=width, weight=write.constant(missing)))
