"""Costs by group from shapes against torch's counter on a real run, and against hand-worked numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unimixer.backbones import BACKBONES, Backbone, build_backbone, count_parameters
from unimixer.blocks.auxiliary import Auxiliary
from unimixer.data.dataset import Dataset
from unimixer.data.loader import Loader
from unimixer.mixing import Compression, Constrained
from unimixer.ops.sinkhorn.newton import scale
from unimixer.profiling.breakdown import Cost, count_backbone, count_ranker, full_batch
from unimixer.profiling.flops import PRODUCTS, TYPICAL_STEPS, count_flops
from unimixer.ranker import Ranker, count_dense

T, D = 4, 32
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BACKBONES),
    ("unimixer", {"ffn": "relu-moe", "local": "shared"}),
    ("unimixer", {"symmetric": False}),
    ("unimixer-lite", {"ffn": "topk-moe", "residual": "pre"}),
    ("rankmixer", {"ffn": "swiglu", "residual": "siamese"}),
    ("fat", {"num_basis": 6, "top_k": 3}),
    ("hiformer", {"rank": None, "num_task_tokens": 1}),
    ("wukong", {"fm": "attentive"}),
    ("dhen", {"modules": ("dcn", "convolution", "linear")}),
    ("finalmlp", {"first_context": (0, 2), "batch_norm": True}),
]


def seen(model: nn.Module, given: Any) -> int:
    """FLOPs of a training step that torch's counter sees."""
    with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
        model.train()(given).square().sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_a_backbone_counts_as_torch_sees_it(name: str, options: dict[str, Any]) -> None:
    backbone = build_backbone(name, num_tokens=T, token_dim=D, **options)
    cost = count_backbone(backbone)
    assert cost.parameters == count_parameters(backbone)
    assert cost.forward == count_flops(backbone)
    for batch in (4, 96):  # both layouts
        tokens = torch.randn(batch, T, D, requires_grad=True)
        step = seen(backbone, tokens)
        assert cost.training_batch(batch, seen=True) == pytest.approx(step, rel=0.01)
        assert cost.forward_batch(batch) == batch * cost.forward


def test_long_attention_that_runs_fused_counts_what_backward_repeats() -> None:
    backbone = build_backbone("transformer", num_tokens=40, token_dim=D, num_blocks=1)
    tokens = torch.randn(3, 40, D, requires_grad=True)
    step = seen(backbone, tokens)
    cost = count_backbone(backbone)
    assert cost.training_batch(3, seen=True) == step
    assert cost.groups["global mixing"].training > 3 * cost.groups["global mixing"].forward


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone": "unimixer-lite"},
        {"backbone": "rankmixer", "sequence_encoder": "transformer"},
        {"backbone": "rankmixer", "sequence_encoder": "din"},
        {"backbone": "rankmixer", "sequence_encoder": "dien"},
        {
            "backbone": "rankmixer",
            "sequence_encoder": "din",
            "sequence_search": {"clicks": {"kind": "soft", "top_k": 2}},
        },
        {"backbone": "tokenmixer-large", "num_tokens": 6},
        {"backbone": "rankmixer", "sequences": "cross_attention"},
        {"backbone": "unimixer", "sequences": "tokens", "num_tokens": 6},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
def test_a_ranker_counts_as_torch_sees_it(arguments: dict[str, Any], toy_dataset: Dataset) -> None:
    options = {"token_dim": 24}
    ranker = Ranker(toy_dataset.transform.spec, **{"num_tokens": 4, "options": options, **arguments})
    cost, batch = count_ranker(ranker), full_batch(ranker.spec, 8)
    assert cost.parameters == count_dense(ranker)
    assert cost.table_parameters + cost.parameters == sum(p.numel() for p in ranker.parameters())
    assert cost.training_batch(8, seen=True) == seen(ranker, batch)
    read = arguments.get("sequences", arguments.get("sequence_encoder", "pooled")) != "pooled"
    assert ("sequences" in cost.groups) == read
    assert cost.groups["towers"].forward == 2 * 2 * (24 * 64 + 64)


def test_groups_of_unimixing_follow_the_papers_algebra() -> None:
    # length 128 in 32 blocks of 4: N b^2 and N^2 b multiply-adds, SwiGLU 3 D h a token; one matrix solved a pattern
    backbone = build_backbone("unimixer", num_tokens=T, token_dim=D, num_blocks=3, hidden_dim=8, block_size=4)
    groups = count_backbone(backbone).groups
    assert groups["local mixing"].forward == 3 * 2 * 32 * 4 * 4
    assert groups["global mixing"].forward == 3 * 2 * 32 * 32 * 4
    assert groups["FFN"].forward == 3 * 2 * T * 3 * D * 8
    assert groups["local mixing"].parameters == 3 * 32 * 4 * 4
    assert groups["global mixing"].parameters == 3 * 32 * 32
    for name in ("local mixing", "global mixing", "FFN"):
        assert groups[name].training == 3 * groups[name].forward
        assert groups[name].step == 0
    assert groups["Sinkhorn"].forward == groups["Sinkhorn"].training == 0
    assert groups["Sinkhorn"].step == groups["Sinkhorn"].unseen > 3 * TYPICAL_STEPS * 4 * 32**2


def test_factors_of_a_low_rank_matrix_are_multiplied_once_a_step() -> None:
    backbone = build_backbone(
        "unimixer-lite", num_tokens=T, token_dim=D, num_blocks=1, matrices="blocks", rank=5, num_basis=2
    )
    cost, blocks, width = count_backbone(backbone), T * T, D // T
    assert cost.groups["global mixing"].step == 3 * 2 * blocks * 5 * blocks
    assert cost.groups["local mixing"].step == 3 * 2 * blocks * 2 * width**2
    assert cost.training_batch(10) == 10 * cost.training + sum(group.step for group in cost.groups.values())


def test_the_solver_takes_about_as_many_steps_as_are_counted() -> None:
    torch.manual_seed(0)
    for name in ("unimixer", "unimixer-lite"):
        backbone = build_backbone(name, num_tokens=16, token_dim=64, init="random")
        taken = []
        for part in (part for part in backbone.modules() if isinstance(part, Constrained)):
            raw = part.raw().detach() / part.temperature
            taken.append(scale((raw + raw.mT) / 2, True, 1e-5, 100)[1].float().mean().item())
        assert sum(taken) / len(taken) == pytest.approx(TYPICAL_STEPS, rel=0.25)


class Odd(Backbone):
    """A backbone of someone else, with a layer that this package does not know."""

    family, default_tokenizer = "odd", "chunk"

    def __init__(self, *, layer: nn.Module) -> None:
        super().__init__(num_tokens=T, token_dim=D)
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(D, D))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.relu(tokens @ self.weight)


def test_a_layer_of_your_own_counts_as_any_other() -> None:
    cost = count_backbone(Odd(layer=Squared()))
    assert (cost.forward, cost.training) == (2 * T * D * D, 6 * T * D * D)
    assert cost.groups["other layers"].parameters == D * D


class Both(nn.Module):
    """Two layers that read one tensor, one of which returns it as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing, self.linear, self.identity = Compression(T, D, T), nn.Linear(D, D), nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixing(tokens) + self.identity(tokens) + self.linear(tokens)


def test_modules_that_read_one_tensor_keep_their_own_products() -> None:
    groups = count_backbone(Odd(layer=Both())).groups
    assert groups["global mixing"].training == 3 * groups["global mixing"].forward == 3 * 2 * T * T * D
    assert groups["other layers"].training == 3 * groups["other layers"].forward == 3 * 2 * T * D * D


def test_counting_changes_nothing_and_needs_no_memory(toy_dataset: Dataset) -> None:
    ranker = Ranker(toy_dataset.transform.spec, num_tokens=4, options={"token_dim": 24}).eval()
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    batch = next(iter(Loader(toy_dataset, "train", batch_size=16, num_workers=0).batches()))
    scores = ranker(batch)
    real = count_ranker(ranker)
    with torch.device("meta"):
        hollow = count_ranker(Ranker(toy_dataset.transform.spec, num_tokens=4, options={"token_dim": 24}))
    assert real == hollow
    assert torch.equal(ranker(batch), scores)
    assert not ranker.training
    assert all(torch.equal(value, before[name]) for name, value in ranker.state_dict().items())
    assert not any(module._forward_hooks for module in ranker.modules())


def test_a_huge_model_is_counted_in_no_time() -> None:
    with torch.device("meta"):
        cost: Cost = count_backbone(build_backbone("rankmixer", num_tokens=32, token_dim=4096, num_blocks=8))
    assert cost.parameters > 34e9
    assert cost.training == 3 * cost.forward == 3 * 2 * 8 * 32 * 2 * 4096 * 4 * 4096


def test_a_penalty_of_a_mixture_adds_no_products() -> None:
    backbone = build_backbone("rankmixer", num_tokens=T, token_dim=D, ffn="relu-moe")
    assert any(isinstance(part, Auxiliary) for part in backbone.modules())
    cost = count_backbone(backbone)
    assert cost.groups["FFN"].training > 3 * cost.groups["FFN"].forward  # both routers run in training


def test_the_numbers_reach_a_toy_dataset(toy_folder: Path) -> None:
    spec = Dataset(toy_folder).transform.spec
    batch = full_batch(spec, 3)
    assert len(batch) == 3
    assert {name: values.shape[0] for name, values in batch.sequence_values.items()} == {
        name: 3 * fields[0].max_length for name, fields in spec.groups.items()
    }
