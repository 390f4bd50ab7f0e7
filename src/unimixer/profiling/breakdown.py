"""The cost of a model by group: parameters, FLOPs of scoring an example, FLOPs of training on it and of a step."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unimixer.backbones import Backbone
from unimixer.backbones.rankelastor import GatedLinear, ResidualGatedFFN
from unimixer.blocks import (
    EventAttention,
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
from unimixer.features.embedding import PackedEmbedding
from unimixer.features.spec import FeatureSpec
from unimixer.mixing import Constrained, Global, Local, MatrixMixing, Mixing, Sum, Unified
from unimixer.profiling.flops import PRODUCTS, ModuleFlops, hollow_copy, separate_graph_nodes, sinkhorn_flops
from unimixer.ranker import Ranker, table_parameters

EMBEDDING, TOKENIZER, SEQUENCES, LOCAL, GLOBAL, SINKHORN, FFN, OTHER, TOWERS = GROUPS = (
    *("embedding lookup", "tokenizer", "sequences", "local mixing", "global mixing"),
    *("Sinkhorn", "FFN", "other layers", "towers"),
)
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
        unseen: FLOPs of ``step`` that torch's counter does not see: those of the Sinkhorn solver.
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
        groups: those that the model has, by name, in the order of :data:`GROUPS`.
        table_parameters: numbers in embedding tables.
    """

    groups: Mapping[str, Group]
    table_parameters: int = 0

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
    """Count a backbone alone; a gradient goes to its tokens.

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
    """Count a whole ranker on full sequences; looking up embeddings has no products.

    A model that reads events inside the stack or searches histories looks at numbers, so it must have memory; others
    may be on the meta device. Its tables may be tiny.
    """
    return _cost(ranker, lambda rows: (full_batch(ranker.spec, rows),), hollow=not ranker.embedding.reads_numbers)


def full_batch(spec: FeatureSpec, rows: int) -> Batch:
    """Make a batch of padding rows whose sequences all have their greatest length."""
    values, offsets = {}, {}
    for name, fields in spec.groups.items():
        longest = fields[0].max_length
        values[name] = torch.zeros(rows * longest, len(fields), dtype=torch.int32, device="cpu")
        offsets[name] = torch.arange(rows + 1, device="cpu") * longest
    ids = torch.zeros(rows, len(spec.ids), dtype=torch.int32, device="cpu")
    return Batch(ids, torch.zeros(rows, spec.dense_width, device="cpu"), values, offsets)


def _cost(model: nn.Module, inputs: Callable[[int], tuple[Any, ...]], *, hollow: bool) -> Cost:
    """Count two batches: the cost that does not grow with the rows is paid once a step."""
    scored = [_flops(model, inputs, rows, hollow=hollow, training=False) for rows in _ROWS]
    trained = [_flops(model, inputs, rows, hollow=hollow, training=True) for rows in _ROWS]
    step, unseen = _constraint_flops(model)
    tables = {id(p) for p in table_parameters(model)} if isinstance(model, Ranker) else set()
    parameters, more = _parameters(model, tables), _ROWS[1] - _ROWS[0]
    groups = {}
    for name in GROUPS:
        forward = (scored[1][name] - scored[0][name]) // more
        training = (trained[1][name] - trained[0][name]) // more
        once = trained[0][name] - _ROWS[0] * training + step[name]
        if parameters[name] or forward or training or once:
            groups[name] = Group(parameters[name], forward, training, once, unseen if name == SINKHORN else 0)
    return Cost(groups, sum(p.numel() for p in model.parameters() if id(p) in tables))


def _parameters(model: nn.Module, tables: set[int]) -> Counter[str]:
    """Count the dense parameters of every group, shared ones once."""
    seen, counts = set(tables), Counter[str]()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen and parameter.requires_grad:
                seen.add(id(parameter))
                counts[group_of(model, path)] += parameter.numel()
    return counts


def _flops(
    model: nn.Module, inputs: Callable[[int], tuple[Any, ...]], rows: int, *, hollow: bool, training: bool
) -> Counter[str]:
    """FLOPs of every group in one pass over a batch, backward included in training, constraints left out."""
    flops = Counter[str]()
    with torch.enable_grad(), FakeTensorMode() if hollow else nullcontext():
        copied = (hollow_copy(model) if hollow else copy.deepcopy(model)).train(training)
        modules = dict(copied.named_modules())
        for module in modules.values():
            if isinstance(module, Constrained):
                module._held = torch.empty_like(module.raw()).requires_grad_()
            elif isinstance(module, PackedEmbedding):
                _detach_lookups(module)
        arguments = inputs(rows)
        with separate_graph_nodes(), ModuleFlops(display=False, custom_mapping=PRODUCTS) as counter:
            outputs = [copied(*arguments)]
            if training:
                outputs += copied.pop_auxiliary_logits() if isinstance(copied, Ranker) else []
                sum(output.sum() for output in outputs).backward()
        for name, counts in counter.get_flop_counts().items():
            path = name.partition(".")[2]
            for packet, count in counts.items():
                # the two products of such a mixing: one a block, then one for all blocks
                local = isinstance(modules[path], MatrixMixing) and packet is torch.ops.aten.bmm
                flops[LOCAL if local else group_of(copied, path)] += count
    return flops


def _detach_lookups(tables: PackedEmbedding) -> None:
    """Stop gradients at the vectors: merging them by row has no products, and no shape that is known before."""
    tables.requires_grad_(False)
    lookup = tables.lookup
    tables.lookup = lambda *a: tuple(v.detach().requires_grad_() for v in lookup(*a))  # type: ignore[method-assign]
    tables.register_forward_hook(lambda module, args, vectors: vectors.detach().requires_grad_())


def _constraint_flops(model: nn.Module) -> tuple[Counter[str], int]:
    """FLOPs of the constraints, once a step whatever the batch, and those of them that torch's counter does not see."""
    flops, unseen = Counter[str](), 0
    with torch.enable_grad(), FakeTensorMode():
        for part in hollow_copy(model).modules():
            if not isinstance(part, Constrained):
                continue
            with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
                raw = part.raw()
                if raw.requires_grad:
                    raw.sum().backward()  # type: ignore[no-untyped-call]
            flops[LOCAL if isinstance(part, Local) else GLOBAL] += counter.get_total_flops()
            if part.constraint.kind == "sinkhorn":
                solver, seen = sinkhorn_flops(raw.shape[:-2].numel(), raw.shape[-1], symmetric=part.symmetric)
                flops[SINKHORN] += solver + seen
                unseen += solver
    return flops, unseen


def group_of(model: nn.Module, path: str) -> str:
    """Find the group of a layer by its path in a backbone or a ranker."""
    first, _, rest = path.partition(".")
    if not isinstance(model, Ranker):
        return _within(model, path)
    if first == "embedding":
        return SEQUENCES if rest.startswith("encoders") else EMBEDDING
    rooms = {"tokenizer": TOKENIZER, "events": SEQUENCES, "sequence_tokens": SEQUENCES}
    return _within(model.backbone, rest) if first == "backbone" else rooms.get(first, TOWERS)


def _within(backbone: nn.Module, path: str) -> str:
    """Find the group of the outermost layer of a known kind on a path; a sublayer that does not mix is an FFN."""
    module = backbone
    for name in path.split(".") if path else ():
        parent, module = module, module.get_submodule(name)
        for kinds, group in _KINDS:
            if isinstance(module, kinds):
                return group
        if _is_ffn(backbone, parent, module):
            return FFN
        if isinstance(module, Mixing) and not isinstance(module, Unified | Sum):
            return GLOBAL
    return GLOBAL if isinstance(module, Mixing) else OTHER


_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((EventAttention, EventFFN), SEQUENCES),
    ((PerTokenFFN, PerTokenSwiGLU, ReLUMoE, TopKMoE, GatedLinear, ResidualGatedFFN), FFN),
    ((Global,), GLOBAL),
    ((Local,), LOCAL),
)


def _is_ffn(backbone: nn.Module, parent: nn.Module, module: nn.Module) -> bool:
    """Whether a layer is the part of a block beside its mixing."""
    if isinstance(parent, UniMixerBlock):
        inside = module is parent.ffn
    else:
        streams = (part for part in backbone.modules() if isinstance(part, PostNorm | PreNorm))
        inside = any(parent is stream.sublayers for stream in streams)
    return inside and not any(isinstance(part, Mixing) for part in module.modules())
