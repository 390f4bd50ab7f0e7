"""MMoE and PLE against their equations, written out with plain matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.blocks import TaskExperts, TaskTowers, build_task_experts
from unimixer.errors import UnimixerError

IN, TASKS, ROWS = 5, 3, 7


def built(name: str, **options: Any) -> TaskExperts:
    experts = build_task_experts(name, IN, TASKS, options)
    assert experts is not None
    return experts.double()


def expert(layers: nn.Module, x: Tensor) -> Tensor:
    """A layer after the other, each x W^T + b and x / (1 + e^-x)."""
    for layer in layers.children():
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + layer.bias
            x = x / (1 + torch.exp(-x))
    return x


def weights(matrix: Tensor, x: Tensor) -> Tensor:
    scores = torch.exp(x @ matrix.T)
    return scores / scores.sum(1, keepdim=True)


def mixture(g: Tensor, experts: list[Tensor]) -> Tensor:
    return torch.stack([g[:, [i]] * e for i, e in enumerate(experts)]).sum(0)


def mmoe(head: Any, x: Tensor) -> list[Tensor]:
    """Ma et al., KDD 2018: f^k(x) = sum_i g^k(x)_i f_i(x), g^k(x) = softmax(W_gk x)."""
    (level,) = head.levels
    experts = [expert(f, x) for f in level.shared_experts]
    return [mixture(weights(gate.linear.weight, x), experts) for gate in level.gates]


def ple(head: Any, x: Tensor) -> list[Tensor]:
    """Tang et al., RecSys 2020, Eq. (1)-(8): gates of the tasks, and of the shared part below the last level."""
    of_task, of_shared = [x] * TASKS, x
    for level in head.levels:
        every = [[expert(f, of_task[k]) for f in level.task_experts[k]] for k in range(TASKS)]
        common = [expert(f, of_shared) for f in level.shared_experts]
        gates = [weights(gate.linear.weight, of_task[k]) for k, gate in enumerate(level.gates)]
        of_task = [mixture(g, [*own, *common]) for g, own in zip(gates, every, strict=True)]
        if level.shared_gate is not None:
            matrix = torch.cat([part.weight for part in (*level.shared_gate.by_task, level.shared_gate.linear)])
            of_shared = mixture(weights(matrix, of_shared), [*(e for own in every for e in own), *common])
    return of_task


@pytest.mark.parametrize(
    ("name", "options", "textbook"),
    [
        ("mmoe", {"num_experts": 4, "expert_dims": (6,)}, mmoe),
        ("mmoe", {"num_experts": 1, "expert_dims": [6, 3]}, mmoe),
        ("ple", {"num_experts": 2, "num_shared_experts": 1, "num_levels": 1, "expert_dims": (4,)}, ple),
        ("ple", {"num_experts": 1, "num_shared_experts": 2, "num_levels": 3, "expert_dims": (4, 6)}, ple),
    ],
    ids=["mmoe", "mmoe of two layers", "cgc", "ple of three levels"],
)
def test_outputs_and_gradients_are_those_of_the_paper(
    name: str, options: dict[str, Any], textbook: Callable[[Any, Tensor], list[Tensor]]
) -> None:
    head, x = built(name, **options), torch.randn(ROWS, IN, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(TASKS, ROWS, head.out_dim, dtype=torch.float64)
    found = []
    for outputs in (head(x), textbook(head, x)):
        stacked = torch.stack(list(outputs))
        gradients = torch.autograd.grad((stacked * direction).sum(), [x, *head.parameters()])
        found.append((stacked, gradients))
    (ours, our_gradients), (theirs, their_gradients) = found
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b)


def test_parameters_are_those_of_experts_and_gates() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    of_expert = IN * 6 + 6
    assert count(built("mmoe", num_experts=4, expert_dims=[6])) == 4 * of_expert + TASKS * 4 * IN
    above = 6 * 6 + 6
    experts = TASKS * 2 + 1
    assert count(built("ple", num_experts=2, num_shared_experts=1, num_levels=2, expert_dims=[6])) == (
        experts * (of_expert + above) + TASKS * 3 * (IN + 6) + experts * IN
    )


def test_towers_read_the_mixed_experts_behind_the_crosses() -> None:
    experts = build_task_experts("mmoe", IN, 2, {"num_experts": 3, "expert_dims": [4]})
    assert experts is not None
    towers, x = TaskTowers(IN, 2, (8,), 1, experts), torch.randn(ROWS, IN)
    crossed = towers.crosses[0](x, x)
    expected = [tower(mixed) for tower, mixed in zip(towers.towers, experts(crossed), strict=True)]
    assert torch.equal(towers(x), torch.cat(expected, dim=1))


def test_experts_have_names_in_the_order_of_a_gates_weights() -> None:
    levels: Any = built("ple", num_experts=1, num_shared_experts=2, num_levels=2).levels
    first, last = levels
    tasks = ["a", "b", "c"]
    own = {"a": ["a 1", "shared 1", "shared 2"], "b": ["b 1", "shared 1", "shared 2"]}
    own["c"] = ["c 1", "shared 1", "shared 2"]
    assert last.expert_names(tasks) == own
    assert first.expert_names(tasks) == {**own, "shared": ["a 1", "b 1", "c 1", "shared 1", "shared 2"]}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moe", {}, "task_head='moe' is not one of shared_bottom, mmoe, ple; did you mean 'mmoe'"),
        ("mmoe", {"experts": 4}, "unknown option of task head 'mmoe': 'experts'"),
        ("mmoe", {"num_levels": 2}, "unknown option of task head 'mmoe': 'num_levels'"),
        ("mmoe", {"num_experts": 0}, "num_experts=0 is not a whole number from 1 on"),
        ("ple", {"num_levels": True}, "num_levels=True is not a whole number from 1 on"),
        ("ple", {"num_experts": "two"}, "num_experts='two' is not a whole number from 1 on"),
        ("ple", {"expert_dims": 64}, r"expert_dims=64 is not one or more whole numbers from 1 on, such as \[64\]"),
        ("ple", {"expert_dims": []}, r"expert_dims=\[\] is not one or more whole numbers"),
        ("shared_bottom", {"num_experts": 4}, "'shared_bottom' has no options; choose mmoe or ple, or leave them out"),
    ],
)
def test_a_head_that_does_not_exist_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        build_task_experts(name, IN, TASKS, options)


def test_one_task_has_nothing_to_divide_experts_among() -> None:
    with pytest.raises(UnimixerError, match="task_head='ple' divides experts among tasks and there is one task"):
        build_task_experts("ple", IN, 1)
