from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unimixer import ops
from unimixer.backbones import build_backbone
from unimixer.errors import UnimixerError
from unimixer.mixing import (
    Discretizable,
    IdentityGlobal,
    IdentityLocal,
    Permutation,
    Unified,
    UniMixing,
    UniMixingLite,
    check_same_meaning,
    converted_state,
    discretize,
    fixed_mixing,
    from_rule,
    nearest_permutation,
    to_full,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    num_tokens=st.integers(1, 6),
    num_heads=st.integers(1, 6),
    head_dim=st.integers(1, 6),
    low_rank=st.booleans(),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    data=st.data(),
)
def test_the_rule_is_a_unimixing(
    num_tokens: int, num_heads: int, head_dim: int, low_rank: bool, temperature: float, data: st.DataObject
) -> None:
    block_size = data.draw(st.sampled_from([b for b in range(1, head_dim + 1) if head_dim % b == 0]))
    token_dim = num_heads * head_dim
    mixing = from_rule(
        num_tokens,
        token_dim,
        num_heads,
        block_size=block_size,
        rank=9 if low_rank else None,
        temperature=temperature,
    )
    x = normal(3, num_tokens, token_dim)
    torch.testing.assert_close(mixing(x).flatten(1), ops.token_mixing(x, num_heads).flatten(1), atol=1e-5, rtol=0)
    # The permutation of blocks is symmetric where H = T (and in degenerate cases, such as one token).
    assert num_heads != num_tokens or mixing.global_.symmetric


def test_a_rule_that_is_not_symmetric_makes_a_mixing_that_is_not() -> None:
    mixing = from_rule(num_tokens=3, token_dim=8, num_heads=2)
    weight = mixing.weights()[0]
    assert not mixing.global_.symmetric
    assert not torch.allclose(weight, weight.T)
    assert not torch.allclose(mixing(mixing(normal(2, 24))), normal(2, 24))  # it is not its own inverse


def test_blocks_that_do_not_fit_a_head_are_refused() -> None:
    with pytest.raises(UnimixerError, match=r"token_dim=10 must be divisible by num_heads=4; .* 8 or 12"):
        from_rule(num_tokens=4, token_dim=10, num_heads=4)
    with pytest.raises(UnimixerError, match=r"head width .*=4 must be divisible by block_size=3"):
        from_rule(num_tokens=4, token_dim=16, num_heads=4, block_size=3)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "rule"},
        {"init": "random"},
        {"init": "random", "symmetric": False},
        {"init": "random", "local": "free"},
        {"init": "random", "local": "shared"},
        {"init": "random", "constraint": "free"},
        {"init": "random", "temperature": 1.0},
        {"init": "random", "temperature": 0.6, "gate": 0.3},
        {"init": "random", "range_cap": 2.0, "symmetric": False},
        {"init": "random", "constraint": "unit-rows", "symmetric": False},
        {"constraint": "orthogonal", "symmetric": False},
    ],
    ids=str,
)
def test_lite_expanded_to_full_gives_equal_outputs_and_trains_on(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    lite, x = UniMixingLite(64, 2, rank=6, num_heads=4, **options), normal(5, 4, 16)
    full = to_full(lite)
    assert isinstance(full, UniMixing)
    torch.testing.assert_close(full(x), lite(x), atol=1e-5, rtol=1e-5)
    full(x).square().sum().backward()
    assert all(p.grad is not None for p in full.parameters())


def test_nearest_permutation_by_hand() -> None:
    # greedy would take 0.6 first and be left with 0.1; 0.5 + 0.55 is more than 0.6 + 0.1
    assert nearest_permutation(torch.tensor([[0.6, 0.5], [0.55, 0.1]])).tolist() == [1, 0]


@pytest.mark.parametrize("kind", [UniMixing, UniMixingLite])
def test_hardened_at_low_temperature_is_the_same_mixing(kind: type[Any]) -> None:
    mixing, x = kind(64, 2, num_heads=4, temperature=0.04), normal(5, 4, 16)
    soft = mixing(x)
    for form in ("permutation", "top-1", "top-3"):
        hard = discretize(mixing, form)
        torch.testing.assert_close(hard(x), soft, atol=1e-4, rtol=0)
        torch.testing.assert_close(x.flatten(1) @ hard.mixing_matrix().T, hard(x).flatten(1), atol=1e-5, rtol=0)
    assert not list(discretize(mixing, "permutation").parameters())
    assert torch.equal(discretize(mixing, "permutation")(x).flatten(1).sort().values, x.flatten(1).sort().values)


def test_a_mixing_of_another_class_says_itself_how_it_is_hardened() -> None:
    class Swap(Discretizable):
        def discretized(self, top_k: int | None) -> Unified:
            return Unified(self.local, Permutation(torch.tensor([1, 0]))) if top_k is None else self

    model = nn.Sequential(Swap(IdentityLocal(2, 1), IdentityGlobal(2)))
    assert discretize(model, "permutation")(torch.tensor([[3.0, 4.0]])).tolist() == [[4.0, 3.0]]
    assert discretize(model, "top-1")(torch.tensor([[3.0, 4.0]])).tolist() == [[3.0, 4.0]]


def test_hardened_permutation_composes_both_patterns_by_hand() -> None:
    swap, cycle = torch.eye(2).flip(0), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    soft = 0.9 * cycle + 0.1 / 3
    mixing = fixed_mixing(soft, torch.stack([swap * 0.8 + 0.1, torch.eye(2) * 0.8 + 0.1, swap * 0.8 + 0.1]))
    # blocks (1 2) (3 4) (5 6): inside (2 1) (3 4) (6 5), then block i takes block i + 1
    out = discretize(mixing, "permutation")(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]))
    assert out.tolist() == [[3.0, 4.0, 6.0, 5.0, 2.0, 1.0]]


def test_top_k_keeps_the_largest_entries_and_the_sum_of_every_row() -> None:
    matrix = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.1, 0.5]])
    hard = discretize(fixed_mixing(matrix, torch.ones(1, 1, 1)), "top-2")
    expected = torch.tensor([[0.625, 0.375, 0.0], [0.0, 2 / 3, 1 / 3], [4 / 9, 0.0, 5 / 9]])
    torch.testing.assert_close(hard.mixing_matrix(), expected)
    whole = discretize(fixed_mixing(matrix, torch.ones(1, 1, 1)), "top-9")  # more than there are
    torch.testing.assert_close(whole.mixing_matrix(), matrix)


def test_hardening_replaces_mixings_inside_a_model_and_leaves_the_original() -> None:
    torch.manual_seed(0)
    model, x = (
        build_backbone("unimixer-lite", num_tokens=4, token_dim=16, init="random", matrices="blocks"),
        normal(3, 4, 16),
    )
    before = model(x)
    hard = discretize(model, "top-2")
    assert not any(isinstance(part, UniMixingLite) for part in hard.modules())
    assert not torch.allclose(hard(x), before)  # random matrices at tau 0.1 are not sparse: scores change
    torch.testing.assert_close(model(x), before)
    with pytest.raises(UnimixerError, match="form='top-0' is not known; use 'permutation' or 'top-K'"):
        discretize(model, "top-0")


@pytest.mark.parametrize("target", ["unimixer", "unimixer-lite"])
def test_rankmixer_weights_start_a_unimixer(target: str) -> None:
    torch.manual_seed(0)
    sizes = {"num_tokens": 4, "token_dim": 16, "hidden_dim": 24}
    source = build_backbone("rankmixer", **sizes)
    model = build_backbone(target, **sizes, matrices="blocks", ffn="gelu", norm="layer", init_scale=2.0)
    model.load_state_dict(converted_state(source.state_dict(), model))
    x = normal(5, 4, 16)
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (model(x) - x.roll(1, 0)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_lite_weights_start_a_full_unimixer() -> None:
    torch.manual_seed(0)
    sizes = {"num_tokens": 4, "token_dim": 16, "hidden_dim": 24}
    source = build_backbone("unimixer-lite", **sizes, matrices="blocks", init="random")
    with torch.device("meta"):
        rehearsed = converted_state(source.state_dict(), build_backbone("unimixer", **sizes))
    assert not any(tensor.is_meta for tensor in rehearsed.values())
    model = build_backbone("unimixer", **sizes)
    model.load_state_dict(converted_state(source.state_dict(), model))
    torch.testing.assert_close(model(normal(5, 4, 16)), source(normal(5, 4, 16)), atol=1e-5, rtol=1e-5)


def test_weights_of_another_model_are_refused() -> None:
    rankmixer = build_backbone("rankmixer", num_tokens=4, token_dim=16)
    narrow = build_backbone("unimixer", num_tokens=4, token_dim=16, ffn="gelu", norm="layer", hidden_dim=8)
    with pytest.raises(UnimixerError, match=r"has shape .*, this model needs .*; give both models the same sizes"):
        converted_state(rankmixer.state_dict(), narrow)
    with pytest.raises(UnimixerError, match="differ in more than mixings"):
        converted_state(rankmixer.state_dict(), build_backbone("unimixer", num_tokens=4, token_dim=16))
    with pytest.raises(UnimixerError, match="which this model does not have"):
        converted_state(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict(), nn.Sequential(nn.Linear(2, 2)))


def test_the_same_numbers_under_another_constraint_are_refused() -> None:
    gated = {"num_heads": 4, "gate": 0.3}
    source = UniMixing(64, 2, **gated)
    check_same_meaning(source, UniMixing(64, 2, **gated, temperature=0.6, range_cap=2.0))
    check_same_meaning(UniMixingLite(64, 2, **gated, rank=6), source)
    with pytest.raises(UnimixerError, match="was trained with constraint='sinkhorn', and this model has 'free'"):
        check_same_meaning(source, UniMixing(64, 2, **gated, constraint="free"))
