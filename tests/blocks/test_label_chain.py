"""Chains of labels: products of probabilities, exact at any size."""

from __future__ import annotations

import pytest
import torch

from unimixer.blocks import chain_links, joint_logits
from unimixer.errors import UnimixerError

TASKS = ["click", "buy", "like"]


def test_a_joint_probability_is_the_product_along_the_chain() -> None:
    logits = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    links = chain_links({"buy": "like", "like": "click"}, TASKS)
    click, buy, like = logits.sigmoid().unbind(1)
    expected = torch.stack([click, click * like * buy, click * like], dim=1)
    joint = joint_logits(logits, links).sigmoid()
    torch.testing.assert_close(joint, expected)
    direction = torch.randn(50, 3, dtype=torch.float64)
    (ours,) = torch.autograd.grad((joint * direction).sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad((expected * direction).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_two_labels_may_follow_one() -> None:
    links = chain_links({"buy": "click", "like": "click"}, TASKS)
    probabilities = joint_logits(torch.zeros(1, 3), links).sigmoid()
    assert probabilities.tolist() == [[0.5, 0.25, 0.25]]


@pytest.mark.parametrize("size", [30.0, 90.0, 300.0])
def test_large_logits_stay_finite_with_a_gradient(size: float) -> None:
    logits = torch.tensor([[size, size], [-size, -size], [size, -size]], requires_grad=True)
    joint = joint_logits(logits, ((1, 0),))[:, 1]
    # e^-z + e^-z is twice e^-z, of two rare events both must happen, and the certain one decides nothing
    expected = torch.tensor([size - torch.log(torch.tensor(2.0)).item(), -2 * size, -size])
    torch.testing.assert_close(joint, expected)
    (gradient,) = torch.autograd.grad(joint.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("chain", "soft", "message"),
    [
        ({"like": "clik"}, [], "unknown task of chain 'clik'; did you mean 'click'"),
        ({"share": "click"}, [], "unknown task of chain 'share'"),
        ({"like": "like"}, [], "chain: like -> like is a circle"),
        ({"like": "click", "click": "buy", "buy": "like"}, [], "chain: like -> click -> buy -> like is a circle"),
        ({"like": "click"}, ["like"], "chain: 'like' is a soft label"),
    ],
)
def test_a_chain_that_is_none_is_refused(chain: dict[str, str], soft: list[str], message: str) -> None:
    with pytest.raises(UnimixerError, match=message):
        chain_links(chain, TASKS, soft)
