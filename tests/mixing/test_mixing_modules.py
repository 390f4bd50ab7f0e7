import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.errors import UnimixerError
from unimixer.mixing import (
    Constrained,
    MatrixMixing,
    Mixing,
    TokenMixing,
    UniMixing,
    UniMixingLite,
    freeze,
    set_temperature,
)

T, D, B = 4, 16, 4  # tokens, width, block size


def build(kind: str, **options: Any) -> MatrixMixing:
    options = {"num_heads": T, **options}
    if kind == "lite":
        return UniMixingLite(T * D, B, **{"rank": 6, "num_basis": 3, **options})
    return UniMixing(T * D, B, **options)


def tokens(batch: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(seed))


def caches(mixing: MatrixMixing) -> list[Any]:
    return [part._cache for part in mixing.modules() if isinstance(part, Constrained)]


KINDS = pytest.mark.parametrize("kind", ["full", "lite"])


@pytest.mark.parametrize(
    "mixing",
    [
        TokenMixing(T, D, T),
        build("full"),
        build("full", init="random", symmetric=False),
        build("full", init="random", local="free"),
        build("full", init="random", local="shared"),
        build("full", init="random", constraint="free", symmetric=False),
        build("lite"),
        build("lite", init="random", symmetric=False),
        build("lite", init="random", local="free", symmetric=False),
        freeze(build("full", init="random")),
    ],
    ids=lambda mixing: type(mixing).__name__,
)
def test_mixing_equals_its_matrix(mixing: Mixing) -> None:
    x, matrix = tokens(), mixing.mixing_matrix()
    assert matrix.shape == (T * D, T * D)
    torch.testing.assert_close(mixing(x).flatten(1), x.flatten(1) @ matrix.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixing(x.flatten(1)), mixing(x).flatten(1))
    torch.testing.assert_close(Mixing.mixing_matrix(mixing), matrix, atol=1e-5, rtol=1e-5)


def test_token_mixing_changes_shape_when_heads_differ_from_tokens() -> None:
    mixing = TokenMixing(4, 6, 2)
    assert mixing(torch.zeros(3, 4, 6)).shape == (3, 2, 12)
    x = torch.randn(3, 4, 6)
    assert torch.equal(mixing(x.flatten(1)), mixing(x).flatten(1))
    assert torch.equal(x.flatten(1) @ mixing.mixing_matrix().T, mixing(x).flatten(1))


@KINDS
def test_rule_start_equals_the_rule_at_the_default_temperature(kind: str) -> None:
    mixing, rule = build(kind), TokenMixing(T, D, T)
    assert (mixing.mixing_matrix() - rule.mixing_matrix()).abs().max() < 1e-3


@KINDS
def test_rule_start_equals_the_rule_at_a_low_temperature(kind: str) -> None:
    mixing, rule, x = build(kind), TokenMixing(T, D, T), tokens()
    set_temperature(mixing, 0.04)
    torch.testing.assert_close(mixing(x), rule(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [3, 16])
def test_low_rank_start_equals_the_rule_at_full_size(rank: int) -> None:
    mixing = UniMixingLite(16 * 64, 4, rank=rank, num_heads=16)
    x = torch.randn(8, 16, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixing(x), TokenMixing(16, 64)(x), atol=1e-3, rtol=0)


@KINDS
def test_identity_start_changes_nothing(kind: str) -> None:
    mixing, x = build(kind, init="identity", num_heads=None), tokens()
    set_temperature(mixing, 0.05)
    torch.testing.assert_close(mixing(x), x, atol=1e-4, rtol=0)


@KINDS
def test_random_start_has_the_named_scale(kind: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"init": "random", "init_scale": 0.7}
    mixing = UniMixing(1024, 4, **options) if kind == "full" else UniMixingLite(1024, 4, **options)
    for part in (mixing.global_, mixing.local):
        raw = part.raw()
        assert raw.std().item() == pytest.approx(0.7, rel=0.5)


@KINDS
@pytest.mark.parametrize("local", ["doubly_stochastic", "shared"])
def test_weights_are_doubly_stochastic_and_exactly_symmetric(kind: str, local: str) -> None:
    for weight in build(kind, init="random", local=local).weights():
        assert torch.equal(weight, weight.mT)
        torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(weight.sum(-2), torch.ones(weight.shape[:-1]), atol=1e-4, rtol=0)


@KINDS
def test_ablations_are_options(kind: str) -> None:
    asymmetric = build(kind, init="random", symmetric=False).weights()[0]
    assert not torch.allclose(asymmetric, asymmetric.mT)
    raw = build(kind, init="random", constraint="free")
    torch.testing.assert_close(raw.weights()[0], (raw.global_.raw() + raw.global_.raw().T) / 2)
    free = build(kind, local="free")
    torch.testing.assert_close(free.weights()[1], free.local.raw())
    assert build(kind, local="shared").weights()[1].shape[0] == 1
    assert sum(p.numel() for p in build(kind, local="shared").parameters()) < sum(
        p.numel() for p in build(kind).parameters()
    )


@KINDS
@pytest.mark.parametrize("local", ["doubly_stochastic", "shared", "free"])
def test_parameter_count_follows_the_formula(kind: str, local: str) -> None:
    count = sum(p.numel() for p in build(kind, local=local).parameters())
    if kind == "lite":
        assert count == UniMixingLite.num_parameters(T * D, B, rank=6, num_basis=3, local=local)
    else:
        assert count == UniMixing.num_parameters(T * D, B, local=local)


@KINDS
@pytest.mark.parametrize("init", ["rule", "identity", "random"])
def test_every_parameter_gets_a_gradient_at_the_start(kind: str, init: str) -> None:
    torch.manual_seed(0)
    mixing = build(kind, init=init)
    (mixing(tokens()) * tokens(seed=1)).sum().backward()
    for name, parameter in mixing.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad != 0).float().mean() > 0.9, name


@KINDS
def test_a_permutation_can_be_learned_away_from_the_start(kind: str) -> None:
    torch.manual_seed(0)
    mixing, x = build(kind, init="rule"), tokens(batch=64)
    target = build(kind, init="identity")(x).detach()
    optimizer = torch.optim.Adam(mixing.parameters(), 0.03)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (mixing(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# The cache


def evaluated(mixing: nn.Module) -> Tensor:
    with torch.no_grad():
        output: Tensor = mixing.eval()(tokens())
    return output


@KINDS
def test_evaluation_equals_training_forward_and_computes_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixing = build(kind, init="random")
    expected = mixing(tokens()).detach()
    calls = []
    original = type(mixing.global_).raw
    monkeypatch.setattr(type(mixing.global_), "raw", lambda self: calls.append(1) or original(self))
    assert torch.equal(evaluated(mixing), expected)
    mixing.eval()
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(mixing(tokens()), expected)
    assert len(calls) == 1


@KINDS
@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_step_drops_the_cache(kind: str, fused: bool) -> None:
    mixing = build(kind, init="random")
    before = evaluated(mixing)
    mixing(tokens()).square().sum().backward()  # in evaluation mode, so that only the versions can tell
    torch.optim.Adam(mixing.parameters(), 0.1, fused=fused).step()
    with torch.no_grad():
        after = mixing(tokens())
        assert not torch.allclose(before, after)
        assert torch.equal(after, mixing.train()(tokens()))


@KINDS
def test_replaced_values_drop_the_cache(kind: str) -> None:
    mixing, other = build(kind, init="random"), build(kind, init="random").double()
    evaluated(mixing)
    for ours, theirs in zip(mixing.parameters(), other.parameters(), strict=True):
        ours.data.copy_(theirs)  # moves no version counter
    with torch.no_grad():
        torch.testing.assert_close(mixing(tokens()), other(tokens()).float(), atol=1e-4, rtol=0)
        mixing.load_state_dict(other.state_dict(), assign=True)
        torch.testing.assert_close(mixing(tokens().double()), other(tokens().double()), atol=1e-4, rtol=0)


@KINDS
def test_temperature_and_loading_drop_the_cache(kind: str) -> None:
    mixing, other = build(kind, init="random"), build(kind, init="random")
    before = evaluated(mixing)
    set_temperature(nn.Sequential(mixing), 0.5)
    warmer = evaluated(mixing)
    assert not torch.allclose(before, warmer)
    with torch.no_grad():
        mixing.load_state_dict(other.state_dict())
        assert torch.equal(mixing(tokens()), other(tokens()))


@KINDS
def test_the_cache_is_not_saved_and_does_not_survive_moves_or_copies(kind: str) -> None:
    mixing = build(kind, init="random")
    names = set(mixing.state_dict())
    evaluated(mixing)
    assert set(mixing.state_dict()) == names
    assert {"global_.temperature", "local.temperature"} <= names
    assert "temperature" not in dict(mixing.named_parameters())
    assert all(cached is not None and not cached[1].requires_grad for cached in caches(mixing))
    assert caches(copy.deepcopy(mixing)) == [None, None]
    assert caches(mixing.double()) == [None, None]
    mixing.float()
    evaluated(mixing)
    assert None not in caches(mixing)
    assert caches(mixing.train()) == [None, None]


@KINDS
def test_evaluation_mode_still_gives_gradients(kind: str) -> None:
    mixing = build(kind, init="random")
    evaluated(mixing)
    mixing(tokens()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in mixing.parameters())


@KINDS
def test_weights_cached_in_inference_mode_serve_autograd_later(kind: str) -> None:
    mixing = build(kind, init="random").requires_grad_(False).eval()
    with torch.inference_mode():
        mixing(tokens())
    x = tokens().requires_grad_()
    mixing(x).sum().backward()
    assert x.grad is not None


@KINDS
def test_frozen_copy_equals_the_module_and_has_no_parameters(kind: str) -> None:
    model = nn.Sequential(build(kind, init="random"), build(kind))
    fixed = freeze(model)
    assert not any(isinstance(part, Constrained) for part in fixed.modules())
    assert not list(fixed.parameters())
    assert torch.equal(evaluated(fixed), evaluated(model))
    assert sum(isinstance(part, Constrained) for part in model.modules()) == 4  # the original is untouched


@KINDS
def test_bf16_autocast_keeps_the_weights_in_float32(kind: str) -> None:
    mixing = build(kind, init="random")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(weight.dtype == torch.float32 for weight in mixing.weights())
        output = mixing(tokens())
    torch.testing.assert_close(output.float(), mixing(tokens()), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"length": 64, "block_size": 3},
            "length=64 must be divisible by block_size=3; the nearest valid length is 63 or",
        ),
        ({"length": 64, "block_size": 8, "num_heads": 4}, "valid block sizes: 1, 2, 4; or choose init"),
        ({"length": 60, "block_size": 4, "num_heads": 4}, "num_heads=1 is valid; or choose init"),
        ({"length": 64, "block_size": 4}, "init='rule' needs num_heads"),
        ({"length": 64, "block_size": 4, "init": "ruel"}, "init='ruel' is not one of rule, identity, random"),
        ({"length": 64, "block_size": 4, "num_heads": 4, "local": "none"}, "local='none' is not one of"),
        ({"length": 64, "block_size": 4, "num_heads": 4, "temperature": 0.0}, "temperature=0.0 must be greater than 0"),
    ],
)
def test_bad_sizes_name_the_valid_ones(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        UniMixing(**options)


def test_other_mistakes_are_named() -> None:
    with pytest.raises(UnimixerError, match="rank=2 is too small to start from a permutation"):
        UniMixingLite(64, 4, rank=2, num_heads=4)
    with pytest.raises(UnimixerError, match="token_dim=6 must be divisible by num_heads=4"):
        TokenMixing(4, 6, 4)
    with pytest.raises(UnimixerError, match=r"built for length=64, got x of shape \(2, 4, 8\), which has length 32"):
        build("full")(torch.zeros(2, 4, 8))
    with pytest.raises(UnimixerError, match="temperature=-1 must be greater than 0"):
        set_temperature(build("full"), -1)
