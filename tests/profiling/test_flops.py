"""FLOPs of one example against closed counts."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimixer.backbones import BACKBONES, Backbone, RankMixer, UniMixer, UniMixerLite, build_backbone
from unimixer.errors import UnimixerError
from unimixer.mixing import SharedLinear, SoftmaxAttention, Unified
from unimixer.profiling.flops import count_flops


@pytest.mark.parametrize(("ffn", "products"), [("gelu", 2), ("swiglu", 3)])
def test_rankmixer_multiplies_in_its_ffns_alone(ffn: str, products: int) -> None:
    backbone = RankMixer(num_tokens=4, token_dim=16, num_blocks=3, hidden_dim=40, ffn=ffn)
    assert count_flops(backbone) == 3 * 4 * products * 2 * 16 * 40


def test_an_mlp_has_two_flops_a_weight() -> None:
    backbone = build_backbone("mlp", num_tokens=4, token_dim=16, hidden_dims=(24, 12, 5), batch_norm=True)
    assert count_flops(backbone) == sum(2 * n * m for n, m in pairwise((64, 24, 12, 5)))


@pytest.mark.parametrize("cls", [UniMixer, UniMixerLite])
def test_the_products_of_a_constrained_mixing_count_and_its_sinkhorn_does_not(cls: type[UniMixer]) -> None:
    # length 64 in 16 blocks of 4: N b b products inside blocks and N N b between them
    backbone = cls(num_tokens=4, token_dim=16, num_blocks=2, hidden_dim=8, matrices="blocks", block_size=4)
    mixing, ffn = 16 * 4 * 4 + 16 * 16 * 4, 4 * 3 * 16 * 8
    assert count_flops(backbone) == 2 * 2 * (mixing + ffn)


class Attention(Backbone):
    """Two heads of self-attention, by the library's mixing or by torch itself, and a product with a vector."""

    family, default_tokenizer = "attention", "chunk"

    def __init__(self, *, modulated: bool) -> None:
        super().__init__(num_tokens=4, token_dim=16)
        query, key, value = (SharedLinear(4, 16, 16) for _ in range(3))
        self.mixing = Unified(value, SoftmaxAttention(query, key, num_heads=2, modulated=modulated))
        self.last = nn.Parameter(torch.zeros(64))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixing(tokens) * F.relu(tokens.flatten(1) @ self.last)[:, None, None]


@pytest.mark.parametrize("modulated", [False, True])
def test_fused_attention_counts_like_its_products(modulated: bool) -> None:
    projections, scores, sums, vector = 3 * 4 * 16 * 16, 4 * 4 * 16, 4 * 4 * 16, 64
    assert count_flops(Attention(modulated=modulated)) == 2 * (projections + scores + sums + vector)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_number_does_not_depend_on_the_batch_nor_on_the_device(name: str) -> None:
    real = build_backbone(name, num_tokens=4, token_dim=16)
    with torch.device("meta"):
        meta = build_backbone(name, num_tokens=4, token_dim=16)
    before = {key: value.clone() for key, value in real.state_dict().items()}
    found = count_flops(real.train(), batch_size=1)
    assert found == count_flops(real, batch_size=64) == count_flops(meta)
    assert real.training
    assert all(torch.equal(value, before[key]) for key, value in real.state_dict().items())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UnimixerError, match="batch_size=0 must be greater than 0"):
        count_flops(RankMixer(num_tokens=4, token_dim=16), batch_size=0)
