"""What a model costs, by group: parameters, FLOPs of scoring an example, FLOPs of training on it and of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from unimixer.backbones import Backbone
from unimixer.backbones.rankelastor import GatedLinear, ResidualGatedFFN
from unimixer.blocks import (
    CrossAttention,
    PerTokenFFN,
    PerTokenSwiGLU,
    PostNorm,
    PreNorm,
    ReLUMoE,
    TopKMoE,
    UniMixerBlock,
)
from unimixer.blocks.cross_attention import EventFFN
from unimixer.features.batch import Batch
from unimixer.features.spec import FeatureSpec
from unimixer.mixing import Global, Local, Mixing, Unified
from unimixer.profiling import products
from unimixer.profiling.flops import hollow_copy
from unimixer.profiling.products import GROUPS, rule_of
from unimixer.ranker import Ranker, table_parameters

_ROWS = (2, 4)
"""Of the two batches whose difference is the cost of an example; batch norms refuse a single row."""


@dataclass(frozen=True)
class Group:
    """One part of a model.

    Args:
        parameters: dense ones.
        forward: FLOPs of the forward pass, an example.
        training: FLOPs of forward and backward, an example.
        step: FLOPs of training that are done once a step, whatever the batch.
        unseen: FLOPs of ``step`` that torch's counter does not see.
    """

    parameters: int = 0
    forward: int = 0
    training: int = 0
    step: int = 0
    unseen: int = 0


@dataclass(frozen=True)
class Cost:
    """A model's cost by group.

    Args:
        groups: those that the model has, by name, in the order of :data:`~unimixer.profiling.products.GROUPS`.
        table_parameters: numbers in embedding tables.
        uncounted: layers with matrices for which there is no formula, see :func:`~unimixer.profiling.products.rule`.
    """

    groups: Mapping[str, Group]
    table_parameters: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Dense parameters."""
        return sum(group.parameters for group in self.groups.values())

    @property
    def forward(self) -> int:
        """FLOPs of scoring an example; what follows from parameters alone is worked out before."""
        return sum(group.forward for group in self.groups.values())

    @property
    def training(self) -> int:
        """FLOPs of training on an example, without what is done once a step."""
        return sum(group.training for group in self.groups.values())

    def forward_batch(self, batch_size: int) -> int:
        """FLOPs of scoring a batch."""
        return batch_size * self.forward

    def training_batch(self, batch_size: int, *, seen: bool = False) -> int:
        """FLOPs of a training step; ``seen``: only those that torch's counter sees."""
        groups = self.groups.values()
        unseen = sum(group.unseen for group in groups) if seen else 0
        return sum(batch_size * group.training + group.step for group in groups) - unseen


def count_backbone(backbone: Backbone) -> Cost:
    """Cost of a backbone alone; a gradient goes to its tokens.

    Example:
        >>> from unimixer.backbones import RankMixer
        >>> cost = count_backbone(RankMixer(num_tokens=4, token_dim=16, hidden_dim=64, num_blocks=2))
        >>> cost.forward, cost.training  # 2 blocks, 4 tokens, 2 matrices of 16 x 64; three times that
        (32768, 98304)
    """

    def tokens(rows: int) -> tuple[Tensor, ...]:
        return (torch.zeros(rows, backbone.num_tokens, backbone.token_dim, device="cpu", requires_grad=True),)

    return _cost(backbone, tokens, hollow=True)


def count_ranker(ranker: Ranker) -> Cost:
    """Cost of a whole ranker on full sequences; looking up embeddings has no products.

    A model that reads events looks at their numbers, so it must have memory; others may be on the meta device. Its
    tables may be tiny.
    """
    return _cost(ranker, lambda rows: (full_batch(ranker.spec, rows),), hollow=not ranker.embedding.event_groups)


def full_batch(spec: FeatureSpec, rows: int) -> Batch:
    """A batch of padding rows whose sequences all have their greatest length."""
    values, offsets = {}, {}
    for name, fields in spec.groups.items():
        longest = fields[0].max_length
        values[name] = torch.zeros(rows * longest, len(fields), dtype=torch.int32, device="cpu")
        offsets[name] = torch.arange(rows + 1, device="cpu") * longest
    ids = torch.zeros(rows, len(spec.ids), dtype=torch.int32, device="cpu")
    return Batch(ids, torch.zeros(rows, spec.dense_width, device="cpu"), values, offsets)


@dataclass
class _Tally:
    forward: int = 0
    training: int = 0
    unseen: int = 0


def _cost(model: nn.Module, inputs: Callable[[int], tuple[Any, ...]], *, hollow: bool) -> Cost:
    """By two batches: what does not grow with the rows is done once a step."""
    scored = [_called(model, inputs, rows, hollow=hollow, training=False) for rows in _ROWS]
    trained = [_called(model, inputs, rows, hollow=hollow, training=True) for rows in _ROWS]
    tables = {id(p) for p in table_parameters(model)} if isinstance(model, Ranker) else set()
    parameters = _parameters(model, tables)
    found = {}
    more = _ROWS[1] - _ROWS[0]
    for name in GROUPS:
        forward = (scored[1][name].forward - scored[0][name].forward) // more
        training = (trained[1][name].training - trained[0][name].training) // more
        step = trained[0][name].training - _ROWS[0] * training
        if parameters[name] or forward or training or step:
            found[name] = Group(parameters[name], forward, training, step, trained[0][name].unseen)
    return Cost(found, sum(p.numel() for p in model.parameters() if id(p) in tables), tuple(_uncounted(model)))


def _parameters(model: nn.Module, tables: set[int]) -> dict[str, int]:
    """Dense parameters of every group, shared ones once."""
    seen, found = set(tables), dict.fromkeys(GROUPS, 0)
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen and parameter.requires_grad:
                seen.add(id(parameter))
                found[group_of(model, path)] += parameter.numel()
    return found


def _called(
    model: nn.Module, inputs: Callable[[int], tuple[Any, ...]], rows: int, *, hollow: bool, training: bool
) -> dict[str, _Tally]:
    """Products of every group in one pass over a batch, by the formula of every layer that is called."""
    found = {name: _Tally() for name in GROUPS}

    def note(name: str, rule: products.Rule) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, given: tuple[Any, ...], _output: Any) -> None:
            for product in rule(module, given):
                tally = found[product.group or name]
                tally.forward += product.forward
                tally.training += product.training
                tally.unseen += 0 if product.seen else product.training

        return hook

    with torch.enable_grad(), FakeTensorMode() if hollow else nullcontext():
        copied = (hollow_copy(model) if hollow else copy.deepcopy(model)).train(training)
        for path, module in copied.named_modules():
            rule = rule_of(module)
            if rule is not None:
                module.register_forward_hook(note(group_of(copied, path), rule))
        copied(*inputs(rows))
    return found


def group_of(model: nn.Module, path: str) -> str:
    """The group of a layer, by its place in a backbone or a ranker."""
    first, _, rest = path.partition(".")
    if not isinstance(model, Ranker):
        return _within(model, path)
    if first == "embedding":
        return products.SEQUENCES if rest.startswith("encoders") else products.EMBEDDING
    places = {"tokenizer": products.TOKENIZER, "events": products.SEQUENCES, "sequence_tokens": products.SEQUENCES}
    return _within(model.backbone, rest) if first == "backbone" else places.get(first, products.TOWERS)


def _within(backbone: nn.Module, path: str) -> str:
    """The outermost layer on the way to a place that is of a known kind; a sublayer that does not mix is an FFN."""
    module = backbone
    for name in path.split(".") if path else ():
        parent, module = module, module.get_submodule(name)
        for kinds, group in _KINDS:
            if isinstance(module, kinds):
                return group
        if _is_ffn(backbone, parent, module):
            return products.FFN
        if isinstance(module, Mixing) and not isinstance(module, Unified):
            return products.GLOBAL
    return products.GLOBAL if isinstance(module, Mixing) else products.OTHER


_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((CrossAttention, EventFFN), products.SEQUENCES),
    ((PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE, GatedLinear, ResidualGatedFFN), products.FFN),
    ((Global,), products.GLOBAL),
    ((Local,), products.LOCAL),
)


def _is_ffn(backbone: nn.Module, parent: nn.Module, module: nn.Module) -> bool:
    """Whether a layer is what a block has beside its mixing."""
    if isinstance(parent, UniMixerBlock):
        inside = module is parent.ffn
    else:
        streams = (part for part in backbone.modules() if isinstance(part, PostNorm | PreNorm))
        inside = any(parent is stream.sublayers for stream in streams)
    return inside and not any(isinstance(part, Mixing) for part in module.modules())


def _uncounted(model: nn.Module) -> Iterator[str]:
    """Layers of others that own matrices and are covered by no formula; this package's own are tested to be."""
    names = dict(model.named_modules())
    for path, module in names.items():
        own = type(module).__module__.startswith("unimixer.") or isinstance(module, nn.ParameterList)
        if own or not any(p.dim() > 1 for p in module.parameters(recurse=False)):
            continue
        around = [name for name in names if not name or path == name or path.startswith(f"{name}.")]
        if not any(rule_of(names[name]) is not None for name in around):
            yield f"{path or 'itself'} ({type(module).__name__})"
