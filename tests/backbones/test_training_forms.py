"""Every registered backbone trains compiled, without a graph break, and under bf16."""

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_backbones import EVERY, EVERY_TRACED, pooled, shallow, small, tokens
from torch import Tensor, nn

from unimixer.backbones import Backbone


def loss_of(backbone: Backbone, head: nn.Module, x: Tensor) -> Tensor:
    labels = torch.arange(len(x)).remainder(2).float().unsqueeze(1)
    return F.binary_cross_entropy_with_logits(head(pooled(backbone, x)).float(), labels)


@EVERY_TRACED
def test_one_compilation_of_forward_and_backward_serves_all_steps_of_a_training(
    name: str, options: dict[str, Any]
) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    backbone, x = shallow(name, defaults=True, **options), tokens(6)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")  # fullgraph: a graph break is an error
    outputs, gradients = [], []
    for form in (backbone, compiled):
        torch.manual_seed(1)
        backbone.zero_grad()
        output = form(x)
        output.square().sum().backward()
        outputs.append(output.detach())
        gradients.append([p.grad for p in backbone.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    if not options.get("dropout"):  # another stream of random numbers
        torch.testing.assert_close(outputs[1], outputs[0], atol=1e-4, rtol=1e-4)
    for _ in range(2):
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)  # type: ignore[arg-type]
        backbone.zero_grad()
        compiled(tokens(6)).square().sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@EVERY
def test_trains_under_bf16_autocast(name: str, options: dict[str, Any]) -> None:
    backbone, x = small(name, **options), tokens(16)
    head = nn.Linear(backbone.out_dim, 1)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(backbone, head, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < 0.6 * losses[0]:
            break
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.isfinite(p).all() for p in backbone.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU, and none is here")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
@pytest.mark.parametrize("name", ["unimixer-lite", "tokenmixer-large"])
def test_compiled_to_machine_code_equals_eager(name: str) -> None:
    torch.compiler.reset()
    backbone, x = small(name), tokens(6)
    compiled = torch.compile(backbone, fullgraph=True)
    torch.testing.assert_close(compiled(x), backbone(x), atol=1e-4, rtol=1e-4)
