"""Who gets which gradient, what is penalised, and how experts start."""

import pytest
import torch
import torch.nn.functional as F
from mixtures import D, H, T, build, rows
from torch import nn

from unimixer.blocks import PerTokenSwiGLU, ReLUMoE, TopKMoE


def test_both_routers_get_the_gradient_of_the_task_and_the_sparse_one_alone_the_penalty() -> None:
    for combine in ("mean", "alternate"):
        moe = build("relu-moe", combine=combine)
        moe(rows(dtype=torch.float32)).square().sum().backward(retain_graph=True)  # the penalty is not part of it
        for router in (moe.train_router, moe.infer_router):
            assert (router.linear.weight.grad.flatten(1).abs().amax(1) > 0).all()
        moe.zero_grad(set_to_none=True)
        moe.penalty.backward()
        assert moe.infer_router.linear.weight.grad.abs().max() > 0
        met = {n for n, p in moe.named_parameters() if p.grad is not None}
        assert met == {"infer_router.linear.weight", "infer_router.linear.bias"}


@pytest.mark.parametrize("combine", ["mean", "alternate"])
def test_both_mixtures_of_a_training_forward_compute_the_experts_once(combine: str) -> None:
    moe, seen = build("relu-moe", combine=combine), []
    for name, module in moe.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    moe(rows(dtype=torch.float32))
    assert sorted(name for name in seen if name) == sorted(["infer_router", "train_router", "experts", "experts.up"])


def test_inference_uses_the_sparse_router_alone() -> None:
    moe, x = build("relu-moe").eval(), rows(dtype=torch.float32)
    before = moe(x)
    nn.init.normal_(moe.train_router.linear.weight)
    assert torch.equal(moe(x), before)
    nn.init.normal_(moe.infer_router.linear.weight)
    assert not torch.equal(moe(x), before)


def test_the_penalty_is_the_mean_over_rows_and_tokens_of_the_sum_of_gates() -> None:
    moe, x = build("relu-moe", combine="mean", coefficient=0.01), rows(dtype=torch.float32)
    moe(x)
    gates = F.relu(moe.infer_router(x))
    torch.testing.assert_close(moe.penalty, 0.01 * gates.sum(-1).mean())
    assert moe.counts.tolist() == [int((gates > 0).sum()), gates.numel()]
    moe.combine = "alternate"  # only the rows that go by the sparse router
    moe(x)
    torch.testing.assert_close(moe.penalty, 0.01 * gates[1::2].sum(-1).mean())
    assert moe.counts.tolist() == [int((gates[1::2] > 0).sum()), gates.numel() // 2]


def test_a_balanced_penalty_weighs_an_expert_by_its_demand() -> None:
    moe, x = build("relu-moe", combine="mean", balanced=True, active_ratio=0.5), rows(dtype=torch.float32)
    moe.coefficient.fill_(1.0)
    moe(x)
    gates = F.relu(moe.infer_router(x))
    demand = (gates > 0).float().mean(0) / 0.5  # 1 for an expert that half of the rows use
    torch.testing.assert_close(moe.penalty, (gates * demand).sum() / (6 * T))


def test_experts_and_routers_start_by_their_own_fan_in() -> None:
    moe = ReLUMoE(64, 16, 100, num_experts=3)
    assert moe.experts.widths == (34, 33, 33)
    for piece, width in zip(moe.experts.down.split((34, 33, 33), 1), (34, 33, 33), strict=True):
        largest = piece.flatten(1).abs().amax(1)
        assert largest.max() <= width**-0.5
        assert largest.min() > 0.9 * width**-0.5
    assert moe.infer_router.linear.weight.abs().max() <= 16**-0.5


def test_an_expert_that_no_row_selects_gets_no_gradient() -> None:
    moe = TopKMoE(T, D, 20, num_experts=5, num_active=3)
    x = rows(dtype=torch.float32)
    with torch.no_grad():
        moe.router.linear.weight.zero_()
        moe.router.linear.weight[:, 0, :2] = 9.0  # routed experts 0 and 1 of every token win where x_0 > 0
    x[..., 0] = x[..., 0].abs() + 0.1
    moe(x).square().sum().backward()
    assert moe.experts.up.weight.grad is not None
    up, gate = moe.experts.up.weight.grad.chunk(2, -1)
    down = moe.experts.down.grad
    assert down is not None
    for grad in (up.unflatten(-1, (5, 4)), gate.unflatten(-1, (5, 4)), down.unflatten(1, (5, 4)).movedim(1, -2)):
        largest = grad.abs().movedim(-2, 0).flatten(1).amax(1)
        assert (largest[:3] > 0).all()  # the shared one and both that were selected
        assert (largest[3:] == 0).all()
    assert moe.router.linear.weight.grad is not None
    assert moe.router.linear.weight.grad[..., :2].abs().max() > 0
    assert moe.router.linear.weight.grad[..., 2:].abs().max() == 0


def test_gates_add_up_to_one_over_the_selected() -> None:
    moe = build("topk-moe", num_active=3)
    gates = moe.gates(torch.randn(50, T, 3))
    assert ((gates > 0).sum(-1) == 2).all()
    torch.testing.assert_close(gates.sum(-1), torch.ones(50, T))
    kept = build("topk-moe", num_active=3, gate="all").gates(torch.randn(50, T, 3))
    assert (kept.sum(-1) < 1).all()


@pytest.mark.parametrize("num_experts", [2, 4, 5])
def test_parameters_are_those_of_the_dense_layer_and_the_router(num_experts: int) -> None:
    moe = TopKMoE(T, D, H, num_experts=num_experts, num_active=2, gate="all")
    dense = PerTokenSwiGLU(T, D, H)
    without_biases = sum(p.numel() for n, p in dense.named_parameters() if "weight" in n)
    assert sum(p.numel() for p in moe.experts.parameters()) == without_biases
    assert sum(p.numel() for p in moe.router.parameters()) == T * D * (num_experts - 1)


def test_scale_makes_up_for_sparsity_unless_given() -> None:
    assert build("topk-moe", num_experts=8, num_active=4).scale == 2.0
    assert build("topk-moe", num_experts=8, num_active=2, count_shared=False).scale == 4.0
    assert build("topk-moe", num_active=3, scale=1).scale == 1.0


@pytest.mark.parametrize(("scale_on", "factor"), [("std", 0.01), ("var", 0.1)])
def test_the_small_start_is_that_of_the_down_matrices(scale_on: str, factor: float) -> None:
    plain = build("topk-moe", num_active=3)
    small = build("topk-moe", num_active=3, down_scale=0.01, scale_on=scale_on)
    torch.testing.assert_close(small.experts.down, plain.experts.down * factor)
    torch.testing.assert_close(small.experts.up.weight, plain.experts.up.weight)


def test_the_balance_loss_is_one_where_all_experts_are_used_alike() -> None:
    moe = TopKMoE(1, 2, 4, num_experts=4, num_active=2, gate="all", count_shared=False, balance_weight=0.5)
    even = torch.eye(4).unsqueeze(1) * 8  # every row prefers another expert
    one = torch.tensor([8.0, 7.0, 0.0, 0.0]).expand(4, 1, 4)
    moe.num_selected = 1
    moe.gates(even)
    assert moe.penalty is not None
    assert moe.penalty.item() == pytest.approx(0.5, rel=1e-3)
    moe.gates(one)
    assert moe.penalty is not None
    assert moe.penalty.item() > 0.5 * 2
    build_without = build("topk-moe", num_active=3)
    build_without(rows(dtype=torch.float32))
    assert build_without.penalty is None
