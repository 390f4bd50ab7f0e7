"""Poolings and towers against their equations."""

from __future__ import annotations

import torch

from unimixer.blocks import AttentionPooling, TaskTowers, build_pooling


def test_a_tower_is_an_mlp_of_its_own() -> None:
    towers = TaskTowers(6, 3, (5, 4))
    readout = torch.randn(7, 6)
    logits = towers(readout)
    assert logits.shape == (7, 3)
    for task in range(3):
        first, _, second, _, last = towers.towers[task]  # type: ignore[misc]
        silu = torch.nn.functional.silu
        torch.testing.assert_close(logits[:, task], last(silu(second(silu(first(readout)))))[:, 0])


def test_crosses_are_products_with_the_input_in_a_quarter_of_the_width() -> None:
    torch.manual_seed(0)
    towers = TaskTowers(8, 1, (), num_crosses=2)
    pooled = torch.randn(5, 8)
    crossed = pooled
    for cross in towers.crosses:
        down, up = cross.linear  # type: ignore[union-attr, misc]
        assert down.weight.shape == (2, 8)
        crossed = pooled * (crossed @ down.weight.T @ up.weight.T + up.bias) + crossed
    last = towers.towers[0][0]  # type: ignore[index]
    torch.testing.assert_close(towers(pooled), crossed @ last.weight.T + last.bias)


def test_poolings_are_what_their_names_say() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 4, 6)
    torch.testing.assert_close(build_pooling("mean", 6)(tokens), tokens.sum(1) / 4)
    assert torch.equal(build_pooling("flatten", 6)(tokens), tokens.reshape(3, 24))


def test_attention_pooling_starts_as_the_mean_and_weighs_by_a_softmax() -> None:
    torch.manual_seed(0)
    tokens, pooling = torch.randn(3, 4, 6), AttentionPooling(6)
    torch.testing.assert_close(pooling(tokens), tokens.mean(1))
    query = torch.randn(6)
    with torch.no_grad():
        pooling.query.copy_(query)
    for row, pooled in zip(tokens, pooling(tokens), strict=True):
        weights = torch.stack([torch.exp(token @ query / 6**0.5) for token in row])
        expected = sum(weight * token for weight, token in zip(weights / weights.sum(), row, strict=True))
        torch.testing.assert_close(pooled, expected)
