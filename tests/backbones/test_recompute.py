"""Every backbone with blocks gives the same numbers when backward computes them again, and remembers less."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_backbones import EVERY, small
from torch import Tensor

from unimixer.backbones import BACKBONES, Backbone
from unimixer.blocks import Auxiliary, pop_penalties, recompute_activations
from unimixer.blocks.recompute import Recomputing, compiled

WITHOUT_BLOCKS = {"mlp", "fm", "deepfm", "dlrm", "finalmlp"}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("unimixer-lite", {"ffn": "relu-moe", "ffn_options": {"coefficient": 0.1}}),
    ("rankmixer", {"ffn": "topk-moe", "ffn_options": {"balance_weight": 0.1}, "residual": "pre"}),
    ("unimixer", {"residual": "siamese", "sequence_dim": 6, "num_blocks": 1}),
    ("masknet", {"dropout": 0.5}),
    ("rankmixer", {"sequence_dim": 6}),
    ("tokenmixer-large", {"num_blocks": 3}),
    ("hiformer", {"num_task_tokens": 2}),
    ("dhen", {}),
]
SOME = pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
FEW = pytest.mark.parametrize(("name", "options"), CASES[:4], ids=[name for name, _ in CASES[:4]])


def inputs(backbone: Backbone, batch: int = 32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    tokens = torch.randn(batch, backbone.num_tokens, backbone.token_dim, generator=generator)
    if backbone.sequence_dim is None:
        return (tokens,)
    events = torch.randn(batch, 5, backbone.sequence_dim, generator=generator)
    return tokens, events, torch.arange(5).expand(batch, 5) < torch.arange(batch).unsqueeze(1) % 6


def remembered(backbone: Backbone, forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The output, and the bytes that its graph keeps beside parameters."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    return output, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def trained(backbone: Backbone, form: Callable[..., Tensor] | None = None) -> tuple[list[Tensor], int]:
    """Output, penalty, intermediates and gradients of a forward and backward, and the bytes remembered between."""
    torch.manual_seed(1)
    backbone.zero_grad()
    output, size = remembered(backbone, lambda: (form or backbone)(*inputs(backbone)))
    penalty, intermediates = pop_penalties(backbone), backbone.intermediates or []
    backbone.intermediates = None
    parts = [output, *intermediates] + ([] if penalty is None else [penalty])
    generator = torch.Generator().manual_seed(2)
    torch.autograd.backward(parts, [torch.randn(part.shape, generator=generator) for part in parts])
    return [*(part.detach() for part in parts), *(p.grad for p in backbone.parameters() if p.grad is not None)], size


@EVERY
def test_recomputed_blocks_give_the_same_bits_and_remember_less(name: str, options: dict[str, Any]) -> None:
    backbone = small(name, **options)
    names = list(backbone.state_dict())
    plain, before = trained(backbone)
    assert bool(recompute_activations(backbone)) == (name not in WITHOUT_BLOCKS)
    again, after = trained(backbone)
    assert list(backbone.state_dict()) == names
    assert len(again) == len(plain)
    assert all(map(torch.equal, plain, again))
    assert after == before if name in WITHOUT_BLOCKS else after < 0.8 * before or name == "dcnv2"
    assert after <= before


def test_a_deep_stack_remembers_one_tensor_a_sublayer_and_one_norm() -> None:
    backbone = small("rankmixer", num_blocks=8)
    recompute_activations(backbone)
    tokens = 32 * backbone.num_tokens * backbone.token_dim * 4
    assert trained(backbone)[1] == 16 * tokens


@SOME
def test_recomputing_leaves_no_penalty_and_counts_every_row_once(name: str, options: dict[str, Any]) -> None:
    totals = []
    for enabled in (False, True):
        backbone = small(name, **options)
        recompute_activations(backbone, enabled)
        trained(backbone)
        parts = [part for part in backbone.modules() if isinstance(part, Auxiliary)]
        assert all(part.penalty is None and part.counts is None for part in parts)
        totals.append([part.totals for part in parts if part.totals is not None])
    assert len(totals[0]) == (2 if options.get("ffn") == "relu-moe" else 0)
    assert all(map(torch.equal, *totals))


@SOME
def test_recomputes_under_bf16_autocast(name: str, options: dict[str, Any]) -> None:
    backbone = small(name, **options)
    results = []
    for enabled in (False, True):
        recompute_activations(backbone, enabled)

        def form(*given: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output: Tensor = backbone(*given)
            return output

        results.append(trained(backbone, form))
    assert all(map(torch.equal, results[0][0], results[1][0]))
    assert results[1][1] < results[0][1]


@FEW
def test_recomputes_in_one_compiled_graph(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, fullgraph=True, backend="aot_eager"))
    backbone = small(name, **options)
    results = []
    for enabled in (False, True):
        recompute_activations(backbone, enabled)
        results.append(trained(backbone, compiled(backbone)))
    for plain, again in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-5)
    assert results[1][1] < results[0][1]
    assert all(part.penalty is None for part in backbone.modules() if isinstance(part, Auxiliary))


def test_a_stack_inside_a_block_is_computed_again_with_that_block_alone() -> None:
    backbone = small("dhen", modules=("attention", "linear"), num_layers=2)
    assert recompute_activations(backbone) == 1
    assert [
        type(part).__name__ for part in backbone.modules() if isinstance(part, Recomputing) and part.recomputes
    ] == ["DHEN"]


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - WITHOUT_BLOCKS))
def test_evaluation_recomputes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small(name)
    assert recompute_activations(backbone) >= 1
    monkeypatch.setattr("unimixer.blocks.recompute.checkpoint", None)  # any call is an error
    backbone.eval()(*inputs(backbone)).sum().backward()
    backbone.train()
    with torch.no_grad():
        backbone(*inputs(backbone))
    with pytest.raises(TypeError):
        backbone(*inputs(backbone))
