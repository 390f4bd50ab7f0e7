"""Both mixtures against hand-worked examples and plain loops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mixtures import EVERY, D, E, T, build, rows
from torch import Tensor, nn

from unimixer.blocks import PerTokenExperts, PerTokenRouter, ReLUMoE, TopKMoE


def set_to(parameter: nn.Parameter, values: list[Any]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values).view(parameter.shape))


def two_experts() -> ReLUMoE:
    """One token of width 1, two experts of one unit: gelu(x) * 3 and gelu(2 x) * 5."""
    moe = ReLUMoE(1, 1, 2, num_experts=2, active_ratio=0.5, bias=False)
    set_to(moe.experts.up.weight, [1.0, 2.0])
    set_to(moe.experts.down, [3.0, 5.0])
    set_to(moe.infer_router.linear.weight, [1.0, -1.0])
    assert moe.train_router is not None
    set_to(moe.train_router.linear.weight, [0.5, 2.0])
    return moe


def test_two_experts_worked_out_by_hand() -> None:
    gelu_2, gelu_4 = 2 * 0.97724987, 4 * 0.99996833  # x times the normal distribution function
    moe, x = two_experts(), torch.tensor([[[2.0]]])
    # inference: gates relu(2, -2) = (2, 0)
    assert moe.eval()(x).item() == pytest.approx(2 * gelu_2 * 3, rel=1e-6)
    # training: dense gates relu(1, 4), so the mean gates are (1.5, 2)
    assert moe.train()(x).item() == pytest.approx(1.5 * gelu_2 * 3 + 2 * gelu_4 * 5, rel=1e-6)
    assert moe.counts is not None
    assert moe.counts.tolist() == [1, 2]  # of the sparse router's two gates one is open
    assert moe.penalty is not None
    assert moe.penalty.item() == pytest.approx(1e-8 * 2)


def test_alternate_rows_go_by_one_router_each() -> None:
    gelu_2, gelu_4 = 2 * 0.97724987, 4 * 0.99996833
    moe, x = two_experts(), torch.full((3, 1, 1), 2.0)
    moe.combine = "alternate"
    dense, sparse = gelu_2 * 3 + 4 * gelu_4 * 5, 2 * gelu_2 * 3
    torch.testing.assert_close(moe(x).flatten(), torch.tensor([dense, sparse, dense]))


def test_top_two_of_three_worked_out_by_hand() -> None:
    moe = TopKMoE(1, 1, 3, num_experts=3, num_active=3, expert="gelu", scale=2.0)
    set_to(moe.experts.up.weight, [1.0, 1.0, 1.0])
    set_to(moe.experts.down, [1.0, 10.0, 100.0])
    set_to(moe.router.linear.weight, [0.0, 0.549306144])  # log(3) / 2, so that x = 2 makes the gates 1/4 and 3/4
    gelu_2 = 2 * 0.97724987
    expected = gelu_2 * (1 + 2 * (10 / 4 + 100 * 3 / 4))
    assert moe(torch.tensor([[[2.0]]])).item() == pytest.approx(expected, rel=1e-5)


def naive_expert(experts: PerTokenExperts, x: Tensor, t: int, j: int) -> Tensor:
    """Expert j of token t on one row of tokens."""
    first, last = sum(experts.widths[:j]), sum(experts.widths[: j + 1])
    inner = x @ experts.up.weight[t]
    if experts.up.bias is not None:
        inner = inner + experts.up.bias[t]
    if experts.expert == "gelu":
        hidden = F.gelu(inner[first:last])
    else:
        up, gate = inner[first:last], inner[sum(experts.widths) + first : sum(experts.widths) + last]
        hidden = up * gate * torch.sigmoid(gate)
    output = hidden @ experts.down[t, first:last]
    return output if experts.down_bias is None else output + experts.down_bias[t, j]


def naive_router(router: PerTokenRouter, x: Tensor, t: int) -> Tensor:
    scores = x @ router.linear.weight[0 if router.shared else t]
    return scores if router.linear.bias is None else scores + router.linear.bias[0 if router.shared else t]


def naive_relu(moe: ReLUMoE, x: Tensor) -> Tensor:
    """Both mixtures apart, expert after expert, joined as the mode says."""

    def mixture(router: PerTokenRouter, b: int, t: int) -> Tensor:
        gates = naive_router(router, x[b, t], t).clamp(min=0)
        terms = [gates[j] * naive_expert(moe.experts, x[b, t], t, j) for j in range(E)]
        return torch.stack(terms).sum(0)

    def token(b: int, t: int) -> Tensor:
        sparse = mixture(moe.infer_router, b, t)
        if not moe.training or moe.train_router is None:
            return sparse
        dense = mixture(moe.train_router, b, t)
        return (dense + sparse) / 2 if moe.combine == "mean" else (sparse if b % 2 else dense)

    return torch.stack([torch.stack([token(b, t) for t in range(T)]) for b in range(len(x))])


def naive_topk(moe: TopKMoE, x: Tensor) -> Tensor:
    def token(b: int, t: int) -> Tensor:
        logits = naive_router(moe.router, x[b, t], t)
        chosen = sorted(range(len(logits)), key=lambda j: -logits[j].item())[: moe.num_selected]
        over = chosen if moe.gate == "selected" else range(len(logits))
        total = sum(logits[j].exp() for j in over)
        output = naive_expert(moe.experts, x[b, t], t, 0)
        for j in chosen:
            output = output + moe.scale * logits[j].exp() / total * naive_expert(moe.experts, x[b, t], t, 1 + j)
        return output

    return torch.stack([torch.stack([token(b, t) for t in range(T)]) for b in range(len(x))])


@EVERY
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_outputs_and_gradients_equal_those_of_plain_loops(name: str, options: dict[str, Any], mode: str) -> None:
    moe, x = build(name, **options).double().train(mode == "train"), rows().requires_grad_()
    naive = naive_relu if name == "relu-moe" else naive_topk
    weights = torch.randn(x.shape, dtype=torch.float64)
    found = {}
    for form in (moe, lambda x: naive(moe, x)):
        output = form(x)
        used = [p for n, p in moe.named_parameters() if mode == "train" or "train_router" not in n]
        found[form] = [output, *torch.autograd.grad((output * weights).sum(), [x, *used])]
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_all_units_of_equal_experts_are_one_product() -> None:
    torch.manual_seed(0)
    equal = PerTokenExperts(T, D, [3, 3, 3, 3])
    x, gates = rows(dtype=torch.float32), torch.rand(6, T, 4)
    each = [naive_expert(equal, x[0, 1], 1, j) for j in range(4)]
    torch.testing.assert_close(equal(x, gates)[0, 1], sum(g * e for g, e in zip(gates[0, 1], each, strict=True)))
