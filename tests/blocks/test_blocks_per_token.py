from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.blocks import PerTokenFFN, PerTokenLinear, PerTokenSwiGLU, RMSNorm, build_ffn, build_norm
from unimixer.errors import UnimixerError


@pytest.mark.parametrize(
    ("build", "fan_in"),
    [
        (lambda: PerTokenLinear(64, 16, 240), 16),
        (lambda: PerTokenFFN(64, 16, 400).up, 16),
        (lambda: PerTokenFFN(64, 160, 400).down, 400),
        (lambda: PerTokenSwiGLU(64, 16, 100).up_gate, 16),
        (lambda: PerTokenSwiGLU(64, 160, 100).down, 100),
    ],
)
def test_every_slice_starts_by_its_own_fan_in(build: Callable[[], PerTokenLinear], fan_in: int) -> None:
    layer, bound = build(), fan_in**-0.5
    assert layer.bias is not None
    for parameter in (layer.weight, layer.bias):
        largest = parameter.flatten(1).abs().amax(1)  # one number a token
        assert largest.max() <= bound
        assert largest.min() > 0.7 * bound
    spread = layer.weight.flatten(1).std(1)  # uniform in +-bound has deviation bound / sqrt(3)
    torch.testing.assert_close(spread, torch.full((64,), bound / 3**0.5), atol=0, rtol=0.15)


def linear(layer: PerTokenLinear, x: Tensor) -> Tensor:
    """Token by token, the definition."""
    assert layer.bias is not None
    return torch.stack([x[:, t] @ layer.weight[t] + layer.bias[t] for t in range(x.shape[1])], 1)


def test_ffn_is_two_layers_with_gelu() -> None:
    ffn, x = PerTokenFFN(3, 4, 7).double(), torch.randn(5, 3, 4).double()
    torch.testing.assert_close(ffn(x), linear(ffn.down, F.gelu(linear(ffn.up, x))))


def test_swiglu_gates_up_by_the_swish_of_gate() -> None:
    ffn, x = PerTokenSwiGLU(3, 4, 7).double(), torch.randn(5, 3, 4).double()
    inner = linear(ffn.up_gate, x)
    up, gate = inner[..., :7], inner[..., 7:]
    torch.testing.assert_close(ffn(x), linear(ffn.down, up * gate * torch.sigmoid(gate)))


def test_tokens_do_not_meet_in_a_per_token_layer() -> None:
    ffn, x = PerTokenSwiGLU(3, 4, 7), torch.randn(2, 3, 4)
    changed = x.clone()
    changed[:, 1] += 1.0
    moved = (ffn(changed) - ffn(x)).abs().amax((0, 2))
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_layers_without_bias_have_none() -> None:
    layer = PerTokenLinear(2, 3, 4, bias=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert torch.equal(layer(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 4))


def test_rms_norm_equals_torch_and_survives_autocast() -> None:
    x, norm = torch.randn(4, 8), RMSNorm(8)
    nn.init.normal_(norm.weight)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 1e-6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    with pytest.raises(UnimixerError, match=r"tokens has shape \(2, 4, 5\), expected \(any, 4, 6\)"):
        PerTokenLinear(4, 6, 2)(torch.zeros(2, 4, 5))
    with pytest.raises(UnimixerError, match="out_dim=0 must be greater than 0"):
        PerTokenLinear(4, 6, 0)
    with pytest.raises(UnimixerError, match=r"ffn='swiglo' is not one of gelu, .* did you mean 'swiglu'"):
        build_ffn("swiglo", 2, 4, 8)
    with pytest.raises(UnimixerError, match="norm='batch' is not one of rms, layer"):
        build_norm("batch", 4)
