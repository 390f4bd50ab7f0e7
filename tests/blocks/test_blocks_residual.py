import math

import pytest
import torch
from torch import Tensor, nn

from unimixer.blocks import PostNorm, PreNorm, RMSNorm, Siamese, UniMixerBlock, build_stream
from unimixer.blocks.residual import RESIDUALS, Block, count_norms
from unimixer.errors import UnimixerError

WIDTH = 4


def make_blocks(number: int = 3) -> list[Block]:
    return [(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in range(number)]


def randomise(module: nn.Module) -> nn.Module:
    """Gains away from one, so that a norm in the wrong place shows."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.double()


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Float64 rewrite of RMSNorm."""
    weight = norm.get_parameter("weight")
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def tokens() -> Tensor:
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0)).double()


def test_post_norm_equals_its_equations() -> None:
    blocks = make_blocks()
    stream = randomise(PostNorm(blocks, WIDTH))
    x = tokens()
    norms = iter(stream.get_submodule("norms").children())
    for mix, ffn in blocks:
        s = normed(x + mix(x), next(norms))
        x = normed(s + ffn(s), next(norms))
    torch.testing.assert_close(stream(tokens()), x)


def test_pre_norm_equals_its_equations() -> None:
    blocks = make_blocks()
    stream = randomise(PreNorm(blocks, WIDTH))
    x = tokens()
    norms = iter(stream.get_submodule("norms").children())
    for mix, ffn in blocks:
        x = x + mix(normed(x, next(norms)))
        x = x + ffn(normed(x, next(norms)))
    torch.testing.assert_close(stream(tokens()), normed(x, stream.get_submodule("final_norm")))


@pytest.mark.parametrize("official", [False, True])
def test_siamese_equals_its_equations(official: bool) -> None:
    blocks = make_blocks()
    stream = Siamese(blocks, WIDTH, official=official)
    randomise(stream)
    x = y = tokens()
    for index, (mix, ffn) in enumerate(blocks):
        entering = x + normed(y, stream.y_norms[index])
        if official:
            entering = normed(entering, stream.input_norms[index])
        output = ffn(normed(entering + mix(entering), stream.blocks[index].get_submodule("norm")))
        factor = 1 / math.sqrt(2 * (index + 1)) if official else 1.0
        x, y = normed(x + factor * output, stream.x_norms[index]), y + output
    x = x + normed(y, stream.final_y_norm)
    if official:
        x = normed(x, stream.final_norm)
    torch.testing.assert_close(stream(tokens()), x)


def test_a_bare_mixing_is_post_norm_without_its_first_addition_and_norm() -> None:
    blocks = make_blocks()
    stream = build_stream("bare-mixing", blocks, WIDTH)
    x = tokens().float()
    for mix, ffn in blocks:
        mixed = mix(x)
        total = mixed + ffn(mixed)
        x = total / (total.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(stream(tokens().float()), x)
    assert len([p for p in stream.parameters() if p.dim() == 1 and p.eq(1).all()]) == count_norms("bare-mixing", 3)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_every_parameter_of_a_stream_gets_a_gradient(kind: str) -> None:
    stream = build_stream(kind, make_blocks(), WIDTH)
    stream(tokens().float()).pow(3).sum().backward()
    for name, parameter in stream.named_parameters():
        assert parameter.grad is not None, (kind, name)
        assert parameter.grad.abs().max() > 0, (kind, name)


def test_block_mixes_normalises_and_transforms() -> None:
    mix, ffn, norm = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), RMSNorm(WIDTH)
    block, x = UniMixerBlock(mix, ffn, norm), torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(block(x), ffn(norm(x + mix(x))))


def test_streams_take_any_norm() -> None:
    stream = build_stream("post", make_blocks(1), WIDTH, nn.LayerNorm)
    torch.testing.assert_close(stream(tokens().float()).mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_bad_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnimixerError, match="unknown residual 'siames'; did you mean 'siamese'"):
        build_stream("siames", make_blocks(), WIDTH)
