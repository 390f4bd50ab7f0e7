import math
import re

import pytest
import torch
from torch import Tensor, nn

from unimixer.blocks import MixRevert, PerTokenFFN, PerTokenSwiGLU
from unimixer.blocks.mix_revert import check_heads, largest_heads
from unimixer.errors import UnimixerError
from unimixer.mixing import TokenMixing

T, D, H, HIDDEN = 3, 8, 2, 5
WIDE = T * D // H
READINGS = pytest.mark.parametrize(
    ("residual", "norm_placement"), [("outer", "pre"), ("outer", "post"), ("inner", "pre"), ("inner", "post")]
)
EPS = 1e-6


def make(residual: str = "outer", norm_placement: str | None = None, norm: str = "rms") -> MixRevert:
    """A block in float64 with gains away from one, so that a norm in the wrong place shows."""
    mixed, token = PerTokenSwiGLU(H, WIDE, 7, bias=False), PerTokenSwiGLU(T, D, HIDDEN, bias=False)
    block = MixRevert(T, D, H, (mixed, token), residual=residual, norm_placement=norm_placement, norm=norm)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    return block.double()


def tokens(batch: int = 2) -> Tensor:
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(3)).double()


def swiglu_row(x: list[Tensor], ffn: nn.Module, slot: int) -> list[Tensor]:
    """Numbers of one token through its own gated layer, by sums over indices."""
    first, down = ffn.get_parameter("up_gate.weight")[slot], ffn.get_parameter("down.weight")[slot]
    units = down.shape[0]
    hidden = []
    for unit in range(units):
        up = sum(number * first[i, unit] for i, number in enumerate(x))
        gate = sum(number * first[i, units + unit] for i, number in enumerate(x))
        hidden.append(up * gate / (1 + torch.exp(-torch.as_tensor(gate))))
    return [sum((h * down[unit, o] for unit, h in enumerate(hidden)), torch.zeros(())) for o in range(down.shape[1])]


def rms_row(x: list[Tensor], norm: nn.Module) -> list[Tensor]:
    gain = norm.get_parameter("weight")
    size = torch.sqrt(sum((number * number for number in x), torch.zeros(())) / len(x) + EPS)
    return [number / size * gain[i] for i, number in enumerate(x)]


def mix_rows(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    """Head h of every token, one after the other."""
    head = D // H
    return [[rows[t][h * head + i] for t in range(T) for i in range(head)] for h in range(H)]


def revert_rows(rows: list[list[Tensor]]) -> list[list[Tensor]]:
    """Every head back to its token."""
    head = D // H
    return [[rows[h][t * head + i] for h in range(H) for i in range(head)] for t in range(T)]


def add_rows(one: list[list[Tensor]], other: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def textbook(block: MixRevert, x_BTD: Tensor) -> Tensor:
    """Both readings, one number at a time."""

    def first(rows: list[list[Tensor]]) -> list[list[Tensor]]:
        return [swiglu_row(row, block.mixed_ffn, h) for h, row in enumerate(rows)]

    def second(rows: list[list[Tensor]]) -> list[list[Tensor]]:
        return [swiglu_row(row, block.token_ffn, t) for t, row in enumerate(rows)]

    def norm_1(rows: list[list[Tensor]]) -> list[list[Tensor]]:
        return [rms_row(row, block.mixed_norm) for row in rows]

    def norm_2(rows: list[list[Tensor]]) -> list[list[Tensor]]:
        return [rms_row(row, block.token_norm) for row in rows]

    outputs = []
    for example in x_BTD:
        x = [list(row) for row in example]
        if (block.residual, block.norm_placement) == ("outer", "pre"):
            y = add_rows(x, revert_rows(first(mix_rows(norm_1(x)))))
            out = add_rows(y, second(norm_2(y)))
        elif (block.residual, block.norm_placement) == ("outer", "post"):
            y = norm_1(add_rows(x, revert_rows(first(mix_rows(x)))))
            out = norm_2(add_rows(y, second(y)))
        elif block.norm_placement == "pre":
            h = mix_rows(x)
            h = add_rows(h, first(norm_1(h)))
            out = add_rows(x, second(norm_2(revert_rows(h))))
        else:
            h = mix_rows(x)
            h = norm_1(add_rows(first(h), h))
            out = norm_2(add_rows(second(revert_rows(h)), x))
        outputs.append(torch.stack([torch.stack(row) for row in out]))
    return torch.stack(outputs)


@READINGS
def test_block_equals_its_equations_in_outputs_and_gradients(residual: str, norm_placement: str) -> None:
    block, x = make(residual, norm_placement), tokens().requires_grad_()
    ours, theirs = block(x), textbook(block, x)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5)).double()
    wanted = (x, *block.parameters())
    for one, other in zip(
        torch.autograd.grad(ours, wanted, direction), torch.autograd.grad(theirs, wanted, direction), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_readings_have_their_norms_where_the_paper_has_them() -> None:
    assert (make("outer").norm_placement, make("inner").norm_placement) == ("pre", "post")
    assert make("outer").mixed_norm.get_parameter("weight").shape == (D,)
    assert make("inner").mixed_norm.get_parameter("weight").shape == (WIDE,)


@pytest.mark.parametrize(
    ("num_tokens", "token_dim", "num_heads"), [(3, 8, 2), (4, 6, 3), (5, 4, 4), (2, 6, 6), (4, 4, 1)]
)
def test_reverting_is_the_inverse_and_mixing_twice_is_not(num_tokens: int, token_dim: int, num_heads: int) -> None:
    mixing, x = TokenMixing(num_tokens, token_dim, num_heads), torch.randn(2, num_tokens, token_dim)
    mixed = mixing(x)
    assert mixed.shape == (2, num_heads, num_tokens * token_dim // num_heads)
    assert torch.equal(mixing.inverse()(mixed), x)
    matrix, back = mixing.mixing_matrix(), mixing.inverse().mixing_matrix()
    assert torch.equal(back @ matrix, torch.eye(num_tokens * token_dim))
    assert torch.equal(back, matrix.T)
    same = torch.equal(matrix @ matrix, torch.eye(num_tokens * token_dim))
    assert same == (num_heads == 1)  # one head a token: nothing moves; else only H = T undoes itself


def test_with_one_head_a_token_reverting_is_mixing() -> None:
    mixing, x = TokenMixing(4, 8, 4), torch.randn(2, 4, 8)
    assert torch.equal(mixing.inverse()(x), mixing(x))
    assert torch.equal(mixing(mixing(x)), x)


@pytest.mark.parametrize("residual", ["outer", "inner"])
def test_the_residual_path_keeps_every_token_in_its_slot(residual: str) -> None:
    """With layers that give zero a block is the identity, which RankMixer's addition of mixed tokens is not."""
    block, x = make(residual, "pre"), tokens()
    for ffn in (block.mixed_ffn, block.token_ffn):
        nn.init.zeros_(ffn.get_parameter("down.weight"))
    assert torch.equal(block(x), x)
    square = torch.randn(2, 4, 8)
    mixed = square + TokenMixing(4, 8)(square)
    assert not torch.allclose(mixed / mixed.norm(dim=-1, keepdim=True), square / square.norm(dim=-1, keepdim=True))


@READINGS
def test_a_change_of_one_token_reaches_all_tokens(residual: str, norm_placement: str) -> None:
    block, x = make(residual, norm_placement), tokens(1)
    changed = x.clone()
    changed[0, 1] += torch.randn(D).double()
    assert ((block(changed) - block(x)).abs().amax(-1) > 1e-6).all()


def test_mixed_layer_sees_heads_and_token_layer_sees_tokens() -> None:
    shapes = []
    block = make()
    for ffn in (block.mixed_ffn, block.token_ffn):
        ffn.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape))
    block(tokens(6))
    assert shapes == [(6, H, WIDE), (6, T, D)]


def test_layers_and_norms_of_other_kinds() -> None:
    block = MixRevert(T, D, H, (PerTokenFFN(H, WIDE, 4), PerTokenFFN(T, D, 4)), norm="layer", residual="inner")
    assert isinstance(block.mixed_norm, nn.LayerNorm)
    torch.testing.assert_close(block(tokens().float()).mean(-1), torch.zeros(2, T), atol=1e-5, rtol=0)


def test_compiles_in_one_graph() -> None:
    torch._dynamo.reset()
    block, x = make(), tokens()
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="eager")(x), block(x))


@pytest.mark.parametrize("num_heads", range(1, 20))
def test_heads_must_divide_the_width_and_the_nearest_are_named(num_heads: int) -> None:
    width = 12
    divisors = [d for d in range(1, width + 1) if width % d == 0]
    below, above = max(d for d in divisors if d <= num_heads), min((d for d in divisors if d >= num_heads), default=12)
    assert largest_heads(num_heads, width) == below
    if num_heads in divisors:
        check_heads(num_heads, width)
        return
    named = " or ".join(map(str, sorted({below, above})))
    widths = [w for w in (math.floor(width / num_heads) * num_heads, math.ceil(width / num_heads) * num_heads) if w]
    message = (
        f"num_heads={num_heads} must divide token_dim=12; the nearest valid num_heads is {named}, "
        f"the nearest valid token_dim {' or '.join(map(str, widths))}"
    )
    with pytest.raises(UnimixerError, match="^" + re.escape(message) + "$"):
        check_heads(num_heads, width)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "outr"}, "residual='outr' is not one of outer, inner; did you mean 'outer'"),
        ({"norm_placement": "sandwich"}, "norm_placement='sandwich' is not one of pre, post"),
        ({"norm": "batch"}, "norm='batch' is not one of rms, layer"),
    ],
)
def test_mistakes_are_answered(options: dict[str, str], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        make(**options)


def test_heads_of_a_block_are_checked() -> None:
    with pytest.raises(UnimixerError, match=r"num_heads=3 must divide token_dim=8; .* is 2 or 4, .* 6 or 9"):
        MixRevert(T, D, 3, (PerTokenFFN(3, 8, 4), PerTokenFFN(T, D, 4)))
