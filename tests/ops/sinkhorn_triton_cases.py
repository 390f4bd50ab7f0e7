"""The Triton kernel of Sinkhorn scaling against its reference; ``test_sinkhorn_triton.py`` runs this file in a process.

Triton decides at its import whether it interprets or compiles, so a process does one of the two: in the interpreter
(``TRITON_INTERPRET=1``) all tensors are on the CPU, else they are on a GPU. The file needs torch, Triton and pytest.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from unimixer import ops
from unimixer.backbones import build_backbone
from unimixer.ops.sinkhorn import triton
from unimixer.ops.sinkhorn.newton import scale
from unimixer.ops.sinkhorn.triton import sinkhorn_scaling

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(DEVICE)


def scores(*shape: int, tau: float, symmetric: bool, factor: float = 1.0) -> Tensor:
    raw = normal(*shape, scale=factor) / tau
    return (raw + raw.mT) / 2 if symmetric else raw


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("size", "tau", "batch"), [(1, 1.0, 2), (2, 0.1, 3), (3, 0.05, 3), (24, 0.3, 1)])
def test_sinkhorn_scaling(size: int, tau: float, batch: int, symmetric: bool) -> None:
    given = scores(batch, size, size, tau=tau, symmetric=symmetric)
    plan = sinkhorn_scaling(given, symmetric, 1e-5, 200)
    expected, steps = scale(given, symmetric, 1e-5, 200)
    assert steps.max() < 200
    assert max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2)) < 2e-5
    torch.testing.assert_close(plan, expected, atol=2e-5, rtol=0)
    assert not symmetric or torch.equal(plan, plan.mT)


@pytest.mark.parametrize("symmetric", [True, False])
def test_sinkhorn_scaling_of_a_rule_over_several_tiles_and_of_scores_of_range_ten_thousand(symmetric: bool) -> None:
    rule = ops.permutation_matrix(ops.token_mixing_permutation(10, 10, 10)).to(DEVICE)
    noisy = rule + scores(100, 100, tau=1.0, symmetric=symmetric, factor=0.1)
    for given in (noisy / 0.3, scores(9, 9, tau=3e-4, symmetric=symmetric)):
        plan = sinkhorn_scaling(given, symmetric, 1e-5, 200)
        torch.testing.assert_close(plan, scale(given, symmetric, 1e-5, 200)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_sinkhorn_scaling_keeps_masks_and_confines_what_is_not_a_number(symmetric: bool) -> None:
    given = scores(3, 5, 5, tau=1.0, symmetric=symmetric)
    given[0, 0, 3:] = given[0, 3:, 0] = -torch.inf
    given[1, 1, 2] = torch.nan
    plan = sinkhorn_scaling(given, symmetric, 1e-5, 200)
    assert plan[1].isnan().all()
    assert plan[0, 0, 3:].max() < 1e-20
    torch.testing.assert_close(plan[::2], scale(given[::2], symmetric, 1e-5, 200)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_unfinished_scaling_is_rounded_to_sums_of_one(symmetric: bool) -> None:
    plan = sinkhorn_scaling(scores(2, 6, 6, tau=0.03, symmetric=symmetric), symmetric, 1e-5, 5)
    assert max((plan.sum(axis) - 1).abs().max().item() for axis in (-1, -2)) < 1e-5
    assert plan.min() >= 0
    assert not symmetric or torch.equal(plan, plan.mT)


MODELS: dict[str, dict[str, Any]] = {
    "unimixer": {"num_tokens": 4, "token_dim": 16, "block_size": 4},
    "unimixer-lite": {"num_tokens": 3, "token_dim": 12, "matrices": "blocks", "block_size": 2, "rank": 4},
}


@pytest.mark.parametrize(("name", "autocast"), [("unimixer", False), ("unimixer-lite", False), ("unimixer-lite", True)])
def test_a_backbone_is_the_same_with_the_kernel(name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build_backbone(name, **MODELS[name]).to(DEVICE)
    x = normal(5, MODELS[name]["num_tokens"], MODELS[name]["token_dim"])
    found = {}
    for kernel in (False, True):
        monkeypatch.setattr(triton, "supports", lambda _, kernel=kernel: kernel)
        backbone.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            output = backbone(x)
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).to(output))
        found[kernel] = [output.detach(), *(p.grad.clone() for p in backbone.parameters() if p.grad is not None)]
    for value, wanted in zip(found[True], found[False], strict=True):
        assert value.dtype == wanted.dtype
        tolerance = (0.1 if autocast else 1e-4) * wanted.abs().max().item() + 3e-5  # Sinkhorn's own is 1e-5
        torch.testing.assert_close(value, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [3, 40])
def test_gradients_through_the_kernel_are_those_of_float64(
    size: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, upstream = normal(2, size, size), normal(2, size, size)
    gradients = []
    for wide in (True, False):
        monkeypatch.setattr(triton, "supports", lambda _, wide=wide: not wide)
        leaf = (logits.double() if wide else logits.clone()).requires_grad_()
        ops.sinkhorn(leaf, tau=0.3, symmetric=symmetric, tolerance=1e-6).backward(upstream.to(leaf.dtype))
        assert leaf.grad is not None
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(gradients[1], gradients[0], atol=2e-4, rtol=0)


@pytest.mark.skipif(INTERPRETED, reason="a CPU has no CUDA graphs")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_cuda_graph_captures_forward_and_backward(count: int, symmetric: bool) -> None:
    logits = normal(count, 12, 12).requires_grad_()
    upstream = normal(count, 12, 12)

    def step() -> Tensor:
        return torch.autograd.grad(ops.sinkhorn(logits, tau=0.3, symmetric=symmetric), logits, upstream)[0]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradient = step()
    gradient.zero_()
    graph.replay()
    torch.testing.assert_close(gradient, expected)


@pytest.mark.skipif(INTERPRETED, reason="a CPU has no CUDA graphs")
def test_a_cuda_graph_captures_a_backbone_in_evaluation_and_follows_its_parameters() -> None:
    backbone = build_backbone("unimixer", **MODELS["unimixer"]).to(DEVICE).eval()
    x = normal(5, 4, 16)
    with torch.no_grad():
        backbone(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = backbone(x)
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        graph.replay()
        torch.testing.assert_close(output, backbone(x), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(INTERPRETED, reason="a CPU never takes the kernel")
def test_the_reference_takes_what_the_kernel_cannot() -> None:
    assert triton.supports(normal(2, 2))
    assert not triton.supports(normal(2, 2).double())
    assert not triton.supports(normal(300, 300))
    assert not triton.supports(normal(2, 2).cpu())
