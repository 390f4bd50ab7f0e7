"""Cross-attention to events: against loops, at every padding, and inside every stream."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unimixer.backbones import build_backbone, count_parameters, fit_budget
from unimixer.blocks import CrossAttention, build_stream
from unimixer.blocks.cross_attention import EventFFN, attend
from unimixer.errors import UnimixerError

B, T, D, S, C = 3, 4, 8, 5, 6
OPTIONS = pytest.mark.parametrize("options", [{}, {"head_dim": 3}, {"head_dim": 3, "hidden_dim": 0}], ids=str)
NAMES = pytest.mark.parametrize("name", ["unimixer", "unimixer-lite", "rankmixer"])
STREAMS = pytest.mark.parametrize("residual", ["post", "pre", "siamese"])


def case(lengths: tuple[int, ...] = (5, 0, 2), token_dim: int = D) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, events and their mask in float64; what is masked holds large numbers."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(len(lengths), T, token_dim, generator=generator, dtype=torch.float64)
    events = torch.randn(len(lengths), S, C, generator=generator, dtype=torch.float64)
    mask = torch.arange(S) < torch.tensor(lengths).unsqueeze(1)
    return tokens, events.masked_fill(~mask.unsqueeze(-1), 1e3), mask


def textbook(attention: CrossAttention, tokens: Tensor, events: Tensor, mask: Tensor) -> Tensor:
    """Keys and values of every head for every event, one at a time."""
    output = torch.zeros_like(tokens)
    parts = dict(attention.named_parameters())
    for row in range(len(tokens)):
        present = [s for s in range(events.shape[1]) if mask[row, s]]
        if not present:
            continue
        for t in range(T):
            query = tokens[row, t]
            if "query.weight" in parts:
                query = query @ parts["query.weight"][t]
            keys = [events[row, s] @ parts["key.weight"][t] for s in present]
            values = [events[row, s] @ parts["value.weight"][t] for s in present]
            exps = [torch.exp(query @ key / len(key) ** 0.5) for key in keys]
            read = sum(e * v for e, v in zip(exps, values, strict=True)) / sum(exps)
            output[row, t] = read @ parts["output.weight"][t] if "output.weight" in parts else read
    return output


@OPTIONS
def test_tokens_read_events_by_keys_and_values_of_their_own(options: dict[str, Any]) -> None:
    attention = CrossAttention(T, D, C, **options).double()
    tokens, events, mask = case()
    torch.testing.assert_close(attention(tokens, events, mask), textbook(attention, tokens, events, mask))


@OPTIONS
def test_gradients_equal_those_of_the_loops(options: dict[str, Any]) -> None:
    attention = CrossAttention(T, D, C, **{**options, "hidden_dim": 0}).double()
    inputs = [t.requires_grad_() if t.is_floating_point() else t for t in case()]
    sources = [*attention.parameters(), inputs[0], inputs[1]]
    weights = torch.randn(B, T, D, dtype=torch.float64)
    fast = torch.autograd.grad((attention(*inputs) * weights).sum(), sources)
    slow = torch.autograd.grad((textbook(attention, *inputs) * weights).sum(), sources)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


def test_a_case_by_hand() -> None:
    events = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    queries = torch.tensor([[[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]]])
    expected = torch.tensor([[[0.5, 0.5], [0.75, 0.25]]])
    torch.testing.assert_close(attend(queries, events, mask, 1.0), expected)


def test_an_empty_history_contributes_exact_zeros_and_finite_gradients() -> None:
    attention = CrossAttention(T, D, C)
    tokens, events, mask = (t.float() if t.is_floating_point() else t for t in case((0, 0, 3)))
    tokens.requires_grad_()
    events.requires_grad_()
    read = attention(tokens, events, mask)
    assert not read[:2].any()
    assert read[2].all()
    read.square().sum().backward()
    assert tokens.grad is not None
    assert events.grad is not None
    assert not tokens.grad[:2].any()
    assert not events.grad[:2].any()
    assert not events.grad[2, 3:].any()
    for gradient in (tokens.grad, events.grad, *(p.grad for n, p in attention.named_parameters() if "refine" not in n)):
        assert gradient is not None
        assert gradient.isfinite().all()


def test_the_order_of_events_does_not_matter_and_what_is_masked_neither() -> None:
    attention = CrossAttention(T, D, C).double()
    tokens, events, mask = case()
    order = torch.tensor([3, 1, 4, 0, 2])
    expected = attention(tokens, events, mask)
    torch.testing.assert_close(attention(tokens, events[:, order], mask[:, order]), expected)
    longer = torch.cat([events, torch.full((B, 3, C), -7.0)], dim=1), torch.cat([mask, torch.zeros(B, 3) > 0], dim=1)
    torch.testing.assert_close(attention(tokens, *longer), expected)


def test_scores_of_any_size_stay_finite_in_every_precision() -> None:
    attention = CrossAttention(T, D, C)
    tokens, events, mask = (t.float() if t.is_floating_point() else t for t in case((5, 0, 1)))
    assert attention(tokens * 1e4, events, mask).isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = attention(tokens, events, mask)
    torch.testing.assert_close(low.float(), attention(tokens, events, mask), atol=0.05, rtol=0.05)
    half = CrossAttention(T, D, C).bfloat16()
    assert half(tokens.bfloat16(), events.bfloat16(), mask).dtype == torch.bfloat16


def test_an_event_is_refined_by_a_pre_norm_swiglu() -> None:
    refine, events = EventFFN(C, 7).double(), case()[1]
    nn.init.normal_(refine.norm.weight)
    normed = events / (events.square().mean(-1, keepdim=True) + 1e-6).sqrt() * refine.norm.weight
    up, gate = (normed @ refine.up_gate.weight.T + refine.up_gate.bias).split(7, dim=-1)
    expected = events + (up * gate * torch.sigmoid(gate)) @ refine.down.weight.T + refine.down.bias
    torch.testing.assert_close(refine(events), expected)


@pytest.mark.parametrize("head_dim", [None, 3])
@pytest.mark.parametrize("hidden_dim", [None, 0, 11])
def test_parameters_follow_the_formula(head_dim: int | None, hidden_dim: int | None) -> None:
    options = {"head_dim": head_dim, "hidden_dim": hidden_dim}
    assert CrossAttention.num_parameters(T, D, C, **options) == count_parameters(CrossAttention(T, D, C, **options))


# ---- inside a stack ----------------------------------------------------------


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.get_parameter("weight")


@STREAMS
def test_a_stream_attends_between_mixing_and_ffn(residual: str) -> None:
    blocks = [(nn.Linear(D, D), CrossAttention(T, D, C), nn.Linear(D, D)) for _ in range(2)]
    stream = build_stream(residual, blocks, D)
    for parameter in stream.parameters():
        nn.init.normal_(parameter, std=0.5)
    stream.double()
    tokens, events, mask = case()
    norms = iter(stream.norms) if residual != "siamese" else iter(())  # type: ignore[arg-type]
    x = y = tokens
    e = events
    for index, (mix, attention, ffn) in enumerate(blocks):
        e = attention.refine(e)

        def read(z: Tensor, attention: CrossAttention = attention, e: Tensor = e) -> Tensor:
            return textbook(attention, z, e, mask)

        if residual == "siamese":
            block, x_norm, y_norm = stream.blocks[index], stream.x_norms[index], stream.y_norms[index]  # type: ignore
            entering = x + normed(y, y_norm)
            mixed = normed(entering + mix(entering), block.norm)
            output = ffn(normed(mixed + read(mixed), block.attention_norm))
            x, y = normed(x + output, x_norm), y + output
            continue
        for sublayer in (mix, read, ffn):
            norm = next(norms)
            x = normed(x + sublayer(x), norm) if residual == "post" else x + sublayer(normed(x, norm))
    if residual == "pre":
        x = normed(x, stream.final_norm)  # type: ignore[arg-type]
    if residual == "siamese":
        x = x + normed(y, stream.final_y_norm)  # type: ignore[arg-type]
    torch.testing.assert_close(stream(tokens, events, mask), x)


def backbone_case(name: str, **options: Any) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    backbone = build_backbone(name, num_tokens=T, token_dim=16, sequence_dim=C, **options)
    tokens, events, mask = case((5, 0, 2), token_dim=16)
    return backbone, (tokens.float(), events.float().clamp(max=5), mask)


@NAMES
@STREAMS
@pytest.mark.parametrize("head_dim", [None, 3])
def test_every_parameter_of_a_backbone_learns(name: str, residual: str, head_dim: int | None) -> None:
    backbone, inputs = backbone_case(name, residual=residual, sequence_head_dim=head_dim)
    backbone(*inputs).pow(3).sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@NAMES
def test_a_backbone_without_events_is_the_one_it_was(name: str) -> None:
    torch.manual_seed(0)
    plain = build_backbone(name, num_tokens=T, token_dim=16)
    assert not any(isinstance(module, CrossAttention) for module in plain.modules())
    reading, inputs = backbone_case(name, sequence_hidden_dim=0)
    empty = inputs[0], inputs[1], torch.zeros_like(inputs[2])
    own = {n: p for n, p in reading.named_parameters() if ".key." in n or ".value." in n}
    assert len(own) == 4
    with torch.no_grad():
        assert not torch.equal(reading(*inputs)[0], reading(*empty)[0])
        for parameter in own.values():
            parameter.mul_(2)
        doubled = reading(*empty)
        for parameter in own.values():
            parameter.zero_()
        assert torch.equal(doubled, reading(*inputs))  # without events, what reads them has no say


@NAMES
@pytest.mark.parametrize("residual", ["post", "siamese"])
def test_a_backbone_with_events_exports_and_compiles_whole(name: str, residual: str) -> None:
    backbone, inputs = backbone_case(name, residual=residual)
    backbone.eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = ({0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(backbone, inputs, dynamic_shapes=shapes).module()
    for rows in (1, 7):
        other = tuple(t[:1].expand(rows, *t.shape[1:]) for t in inputs)
        torch.testing.assert_close(program(*other), backbone(*other), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), backbone(*inputs), atol=1e-6, rtol=1e-6)


@NAMES
@pytest.mark.parametrize("params", [300_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize(("num_tokens", "sequence_dim"), [(8, 32), (16, 48), (20, 16)])
def test_a_budget_counts_the_attention(name: str, params: int, num_tokens: int, sequence_dim: int) -> None:
    backbone = fit_budget(name, params=params, num_tokens=num_tokens, sequence_dim=sequence_dim)
    assert count_parameters(backbone) == pytest.approx(params, rel=0.02)


@NAMES
@STREAMS
@pytest.mark.parametrize("options", [{}, {"sequence_head_dim": 3, "sequence_hidden_dim": 0}])
def test_a_backbone_has_the_parameters_of_its_formula(name: str, residual: str, options: dict[str, Any]) -> None:
    arguments = {"num_tokens": T, "token_dim": 16, "residual": residual, "sequence_dim": C, **options}
    backbone = build_backbone(name, **arguments)
    assert type(backbone).formula(**arguments) == count_parameters(backbone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_dim": 0}, "sequence_dim=0 must be greater than 0"),
        ({"sequence_dim": 4, "sequence_head_dim": 0}, "head_dim=0 must be greater than 0"),
        ({"sequence_dim": 4, "sequence_hidden_dim": -1}, "hidden_dim=-1 of the events must not be negative; 0 leaves"),
        ({"sequence_head_dim": 4}, "sequence_head_dim=4 has no use without sequence_dim; leave it out"),
        ({"sequence_hidden_dim": 0}, "sequence_hidden_dim=0 has no use without sequence_dim; leave it out"),
    ],
)
@NAMES
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnimixerError, match=re.escape(message)):
        build_backbone(name, num_tokens=T, token_dim=16, **options)


def test_events_that_do_not_fit_are_named() -> None:
    backbone, (tokens, events, mask) = backbone_case("rankmixer")
    with pytest.raises(UnimixerError, match="sequence_dim=6: pass tokens, events and event_mask"):
        backbone(tokens)
    with pytest.raises(UnimixerError, match=r"events has shape \(3, 5, 4\), expected \(any, any, 6\)"):
        backbone(tokens, events[..., :4], mask)
    with pytest.raises(UnimixerError, match=r"event_mask has shape \(3,\), expected \(any, any\)"):
        backbone(tokens, events, mask[:, 0])
    plain = build_backbone("rankmixer", num_tokens=T, token_dim=16)
    with pytest.raises(UnimixerError, match="this backbone reads no events; build it with sequence_dim"):
        plain(tokens, events, mask)
