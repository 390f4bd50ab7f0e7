import pytest
import torch
from torch import Tensor

from unimixer.blocks import PerTokenSwiGLU, TopKMoE, small_ffn_init_, small_init_
from unimixer.errors import UnimixerError


def relative(weight: Tensor, ins: int, outs: int) -> float:
    """Measured standard deviation over Xavier's."""
    return float(weight.std() / (2 / (ins + outs)) ** 0.5)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize(("scale_on", "factor"), [("std", 0.01), ("var", 0.1)])
def test_the_factor_is_on_the_deviation_or_on_the_variance(distribution: str, scale_on: str, factor: float) -> None:
    weight = small_init_(torch.empty(8, 60, 100), 0.01, scale_on=scale_on, distribution=distribution)
    assert relative(weight, 60, 100) == pytest.approx(factor, rel=0.02)
    assert float(weight.mean().abs()) < 1e-3 * factor


def test_each_slice_starts_by_its_own_sizes() -> None:
    one, many = small_init_(torch.empty(1, 50, 70), 1.0), small_init_(torch.empty(40, 50, 70), 1.0)
    assert relative(one[0], 50, 70) == pytest.approx(1, rel=0.05)
    assert all(relative(part, 50, 70) == pytest.approx(1, rel=0.05) for part in many)


def test_the_uniform_start_ends_where_xaviers_does() -> None:
    weight = small_init_(torch.empty(4, 60, 100), 1.0)
    bound = (6 / 160) ** 0.5
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    normal = small_init_(torch.empty(4, 60, 100), 1.0, distribution="normal")
    assert float(normal.abs().max()) > 1.5 * bound


def test_up_gate_and_down_have_factors_of_their_own() -> None:
    ffn = PerTokenSwiGLU(4, 48, 96, bias=False)
    small_ffn_init_(ffn.up_gate.weight, ffn.down.weight, (1.0, 0.5, 0.01))
    up, gate = ffn.up_gate.weight.detach().chunk(2, dim=-1)
    assert relative(up, 48, 96) == pytest.approx(1, rel=0.03)
    assert relative(gate, 48, 96) == pytest.approx(0.5, rel=0.03)
    assert relative(ffn.down.weight.detach(), 96, 48) == pytest.approx(0.01, rel=0.03)


def test_a_layer_without_a_gate_uses_the_factors_of_up_and_down() -> None:
    first, down = torch.empty(4, 48, 96), torch.empty(4, 96, 48)
    small_ffn_init_(first, down, (1.0, 1e6, 0.1))
    assert relative(first, 48, 96) == pytest.approx(1, rel=0.03)
    assert relative(down, 96, 48) == pytest.approx(0.1, rel=0.03)


def test_experts_start_by_their_own_widths() -> None:
    experts = TopKMoE(4, 48, 64, num_experts=4, num_active=3, shared_width="full").experts
    assert experts.widths == (64, 16, 16, 16)
    small_ffn_init_(experts.up.weight, experts.down, (1.0, 1.0, 0.01), widths=experts.widths)
    up, gate = experts.up.weight.detach().chunk(2, dim=-1)
    for part in (up, gate):
        assert relative(part[..., :64], 48, 64) == pytest.approx(1, rel=0.04)
        assert relative(part[..., 80:96], 48, 16) == pytest.approx(1, rel=0.04)
    assert relative(experts.down.detach()[:, :64], 64, 48) == pytest.approx(0.01, rel=0.04)
    assert relative(experts.down.detach()[:, 80:96], 16, 48) == pytest.approx(0.01, rel=0.04)


def test_a_start_leaves_no_graph_and_works_without_memory() -> None:
    ffn = PerTokenSwiGLU(2, 4, 6)
    small_ffn_init_(ffn.up_gate.weight, ffn.down.weight)
    assert ffn.down.weight.is_leaf
    assert ffn.down.weight.requires_grad
    assert small_init_(torch.empty(2, 4, 6, device="meta"), 0.5).is_meta


def test_mistakes_are_answered() -> None:
    weight = torch.empty(2, 4, 6)
    with pytest.raises(UnimixerError, match="scale=0 must be greater than 0"):
        small_init_(weight, 0)
    with pytest.raises(UnimixerError, match="scale_on='variance' is not one of std, var"):
        small_init_(weight, 1.0, scale_on="variance")
    with pytest.raises(UnimixerError, match="distribution='gauss' is not one of uniform, normal"):
        small_init_(weight, 1.0, distribution="gauss")
    with pytest.raises(UnimixerError, match=r"init_scales=\(1.0, 0.1\) must be three factors, of up, gate and down"):
        small_ffn_init_(weight, torch.empty(2, 6, 4), (1.0, 0.1))
